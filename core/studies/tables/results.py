"""From run folders to records: what every planned job left behind, or why it left nothing.

The records hold all planned jobs. No function here or after it leaves one out because of its numbers.
"""
from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas

from core.common.errors import UserError, one_line
from core.common.files import read_bounded
from core.common.records import MOST_BYTES, check_record, parse_json, read_record
from core.common.text import printable
from core.config import Config
from core.data.tables import TableSpec
from core.models.precision import emulated
from core.studies.tables.plan import Job, load_plan, run_path, spec_of
from core.training.metrics import Value
from core.training.selection import selection_of
from core.training.written import BEGAN, FAILURES, HISTORY, METRICS

MOST = 1e150  # of a prediction that a figure can hold; its square is a number too
BY_LOSS = "lowest validation loss"
AGAIN = "move the run folder away and give the command again"


@dataclass(frozen=True)
class Setup:
    """One system of ours: what the runs of a row have in common, beside the cell."""

    model: str
    modalities: tuple[str, ...]
    variant: str
    synthetic: bool

    @property
    def title(self) -> str:
        """`LMF audio+video+text`, and what sets it apart from its neighbours."""
        return ", ".join(filter(None, [f"{self.model.upper()} {'+'.join(self.modalities)}",
                                       self.variant and f"{self.variant} settings",
                                       "synthetic data" if self.synthetic else ""]))


@dataclass(frozen=True)
class Run:
    """A finished run. test: its metrics on the test split, all of the epoch with the lowest validation loss."""

    path: Path
    test: Mapping[str, Value]
    valid_loss: float
    best_epoch: int
    parameters: int
    data: str
    notes: tuple[str, ...]
    fingerprint: str
    versions: Mapping[str, str]

    def history(self) -> pandas.DataFrame:
        """epoch, train_loss, valid_loss: one row per epoch. Raises UserError when it can't be read."""
        path = self.path / "history.jsonl"
        try:
            lines = read_bounded(path, MOST_BYTES).splitlines()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({_reason(error)}); {AGAIN}") from error
        rows = [parse_json(line, f"{path}: line {number}", AGAIN) for number, line in enumerate(lines, 1)]
        return pandas.DataFrame([epoch.model_dump() for epoch in check_record(rows, HISTORY, str(path), AGAIN)])

    def predictions(self) -> pandas.DataFrame:
        """predictions_test.csv: outputs and labels in row order. Raises UserError when it can't be read."""
        path = self.path / "predictions_test.csv"
        try:
            return pandas.read_csv(io.BytesIO(read_bounded(path, MOST_BYTES)), float_precision="round_trip")
        except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
            raise UserError(f"{path}: can't be read ({_reason(error)}); {AGAIN}") from error

    def numbers(self, *names: str) -> list[npt.NDArray[np.float64]]:
        """Columns of predictions_test.csv, (N,) each. Raises UserError for one that is missing or isn't all numbers."""
        frame, found = self.predictions(), []
        for name in names:
            column = frame[name].to_numpy() if name in frame else np.empty(0)
            values = column.astype(np.float64) if column.dtype.kind in "iuf" else np.empty(0)  # text stays what it is:
            if not len(values) or not (np.abs(values) < MOST).all():  # pandas.to_numeric dies of 5000 digits
                raise UserError(f"{self.path / 'predictions_test.csv'}: has no column {name!r} of finite numbers; "
                                f"{AGAIN}")
            found.append(values)
        return found


@dataclass(frozen=True)
class Entry:
    """A planned job: its table, its system and its run; or None and why.

    hardware: what it runs on, where not the default; selection: which epoch is its best, as BY_LOSS.
    """

    job: Job
    spec: TableSpec
    setup: Setup
    run: Run | None
    missing: str
    hardware: str
    selection: str


def load_entries(output: Path) -> list[Entry]:
    """Every job that was ever planned into `output`, in the order of the plan.

    Raises UserError when there is no plan, a file of a finished run can't be read, or one cell's runs saw different
    data.
    """
    jobs, errors = load_plan(output), _failures(output / "failures.json")
    runs, entries = {}, []
    for job in jobs:
        path = run_path(output, job.run)
        if job.run not in runs:
            runs[job.run] = _read_run(path)
        run = runs[job.run]
        setup = Setup(job.model, tuple(job.modalities), job.variant, job.data == "synthetic")
        config, missing = job.made, "" if run else errors.get(job.run) or _state(path)
        entries.append(Entry(job, spec_of(job, config), setup, run, missing, _hardware(config), _selection(config)))
    _refuse_mixed_data(entries)
    return entries


def _hardware(config: Config) -> str:
    """`cuda, float64`: backends of one row may differ in this."""
    said = {config.device: "cpu", config.precision: "float32"}
    words = [value for value, default in said.items() if value != default]
    if config.amp_level != "O0":
        words.append(f"{config.amp_level} {config.amp_dtype}{' emulated' if emulated(config.device) else ''}")
    return ", ".join(words)


def _selection(config: Config) -> str:
    return selection_of(config).extreme


def _refuse_mixed_data(entries: Sequence[Entry]) -> None:
    first: dict[tuple[Setup, str, str, str], Run] = {}
    for entry in entries:
        if entry.run is None:
            continue
        place = entry.setup, entry.job.table, entry.spec.data.name, entry.spec.part(entry.job.cell) or ""
        other = first.setdefault(place, entry.run)
        if other.fingerprint != entry.run.fingerprint:
            raise UserError(f"{entry.run.path}: was made from other data than {other.path} (fingerprint "
                            f"{entry.run.fingerprint[:12]}, there {other.fingerprint[:12]}), and one row would hold "
                            f"both; {AGAIN}")


def _failures(path: Path) -> dict[str, str]:
    """Run name -> error of the latest call."""
    if not path.is_file():
        return {}
    way_out = "remove it and give the command again"
    return {item.run: f"failed: {printable(item.error)}" for item in read_record(path, FAILURES, way_out)}


def _state(path: Path) -> str:
    if not (path / "config.yaml").is_file():
        return "not started"
    history = path / "history.jsonl"
    epochs = len(history.read_bytes().splitlines()) if history.is_file() else 0
    return f"not finished after {epochs} epochs"


def _read_run(path: Path) -> Run | None:
    if not (path / "metrics.json").is_file():
        return None
    metrics = read_record(path / "metrics.json", METRICS, AGAIN)
    began = read_record(path / "run.json", BEGAN, AGAIN)
    return Run(path, metrics.test, metrics.best_valid_loss, metrics.best_epoch, metrics.parameters,
               printable(metrics.data), tuple(printable(note) for note in metrics.notes),
               printable(began.data_fingerprint),
               {printable(name): printable(version) for name, version in began.versions.items()})


def _reason(error: Exception) -> str:
    """What went wrong, without the path that an operating system's error repeats."""
    return getattr(error, "strerror", None) or one_line(error)
