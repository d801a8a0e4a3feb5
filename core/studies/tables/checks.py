"""Before the first run: is the data there, and do the run folders of the plan belong to it?"""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.common.records import read_record
from core.config import Config, build_graph, changes
from core.config.flags import read_saved
from core.data.specs import InputSpec
from core.studies.tables.plan import Run, run_path
from core.training.prepare import prepare
from core.training.written import BEGAN

DATA_KEYS = ("dataset", "emotion", "modalities", "max_len", "data", "synthetic_seed", "data_dir", "store_dir")


def data_key(config: Config) -> tuple[Any, ...]:
    """What decides the arrays of a run, and their fingerprint."""
    return tuple(getattr(config, key) for key in DATA_KEYS)


def check_data(runs: Sequence[Run], report: Callable[[str], None]) -> dict[tuple[Any, ...], str]:
    """Load every data set of the plan once. Returns the fingerprints; `report` gets a line for each caveat.

    Raises UserError, one line, for the first that is missing or can't be learned from, and for a model that can't be
    built for it.
    """
    fingerprints: dict[tuple[Any, ...], str] = {}
    inputs: dict[tuple[Any, ...], tuple[InputSpec, ...]] = {}
    told = set()
    for run in runs:
        config = run.config
        if data_key(config) in fingerprints:
            build_graph(config, inputs[data_key(config)])
            continue
        try:
            dataset, _ = prepare(config)
        except UserError as error:
            raise UserError(_in_this_command(str(error), run, {run.table for run in runs})) from error
        fingerprints[data_key(config)], inputs[data_key(config)] = dataset.fingerprint, dataset.inputs
        for note in dataset.notes:
            if (dataset.title, note) not in told:
                report(f"{dataset.title}: {note}")
            told.add((dataset.title, note))
    return fingerprints


def _in_this_command(message: str, run: Run, tables: set[str]) -> str:
    """The message of a single training, with the flags of a plan; nothing else has been started."""
    message = message.replace("--emotion", "--cells")
    alone = f"; or leave {run.table} out of --table, no run was started" if len(tables) > 1 else ""
    return f"--table {run.table}: {message}{alone}"


def split_finished(output: Path, runs: Sequence[Run], fingerprints: dict[tuple[Any, ...], str]
                   ) -> tuple[list[Run], list[Run]]:
    """The finished runs and those to do. Raises UserError for a folder of other data or another configuration."""
    finished: list[Run] = []
    waiting: list[Run] = []
    for run in runs:
        path = run_path(output, run.name)
        config = run.config
        if (path / "config.yaml").is_file():
            _check_config(path, config)
        if (path / "run.json").is_file():
            _check_fingerprint(path, fingerprints[data_key(config)])
        (finished if (path / "metrics.json").is_file() else waiting).append(run)
    return finished, waiting


def _check_config(path: Path, config: Config) -> None:
    for key, (then, now) in changes(config, read_saved(path)).items():
        raise UserError(f"{path}: this run was made with {key} = {json.dumps(then)}, now {json.dumps(now)}; "
                        "give another --output, or remove the folder")


def _check_fingerprint(path: Path, now: str) -> None:
    file = path / "run.json"
    then = read_record(file, BEGAN, f"remove the folder {path}, the run is then made again").data_fingerprint
    if then != now:
        raise UserError(f"{path}: this run was made from other data (fingerprint {then[:12]}, now {now[:12]}); "
                        "give another --output for other data, or restore the data")
