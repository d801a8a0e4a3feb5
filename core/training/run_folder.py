"""The run folder: what a run leaves behind, and the rule that nothing in it is half-written.

config.yaml, run.json (versions, data, cleaning), history.jsonl, tensorboard/, metrics.json,
predictions.csv and .npy per split, timing.json, best.safetensors, last.safetensors; .lock while a process works there.
History and metrics hold no times: two runs of one configuration leave the same bytes.
"""
from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from core.common.arrays import Array
from core.common.errors import UserError
from core.common.files import atomic_path, naming_errors, remove_leftovers, write_json, write_text
from core.common.lock import FolderLock
from core.config import DEFAULT_MODEL, Config, to_values
from core.config.flags import RUN_HEADER
from core.data import Dataset
from core.data.specs import Task
from core.models.graph import Graph
from core.models.precision import Observed
from core.training.curves import Curves
from core.training.losses import softmax

Row = dict[str, Any]


def base_name(config: Config, backend: str) -> str:
    """`mosi-torch`, `mosi-tfn-torch`, `iemocap-happy-synthetic-paddle`, or the user's signature in front."""
    parts = [config.dataset, config.emotion, "synthetic" if config.data == "synthetic" else None,
             config.model if config.model != DEFAULT_MODEL else None]
    return f"{config.signature or '-'.join(part for part in parts if part)}-{backend}"


def new_run_folder(config: Config, backend: str) -> Path:
    """Create `OUTPUT_PATH/<name>-<run_id>`; without run_id the next free number.

    Raises UserError when that run exists already or the folder can't be made.
    """
    name = base_name(config, backend)
    try:
        if config.run_id is not None:
            path = config.output_path / f"{name}-{config.run_id}"
            path.mkdir(parents=True)
            return path
        number = 1
        while True:  # mkdir itself decides, so two runs started at once can't share a folder
            path = config.output_path / f"{name}-{number}"
            try:
                path.mkdir(parents=True)
                return path
            except FileExistsError:
                if not config.output_path.is_dir():
                    raise NotADirectoryError(20, "Not a directory", str(config.output_path)) from None
                number += 1
    except FileExistsError as error:
        raise UserError(f"{path}: this run exists; continue it with --resume {path}, "
                        "or give another --run_id") from error
    except OSError as error:
        raise UserError(f"output_path = {str(config.output_path)!r}: can't make a run folder there "
                        f"({error.strerror}); give a writable --output_path") from error


def newest_run(config: Config, backend: str) -> Path:
    """The run folder with the highest number for this configuration's name. Raises UserError if none.

    A folder without config.yaml belongs to a run that was killed before it began: nothing to continue.
    """
    prefix = f"{base_name(config, backend)}-"
    found = [path for path in config.output_path.glob(f"{prefix}*")
             if path.name.removeprefix(prefix).isdecimal() and (path / "config.yaml").is_file()]
    if config.run_id is not None:
        found = [path for path in found if path.name == f"{prefix}{config.run_id}"]
    if not found:
        raise UserError(f"--resume: no run folder {config.output_path / prefix}N; start one without --resume")
    return max(found, key=lambda path: int(path.name.removeprefix(prefix)))


class RunFolder:
    """Writers for every file of a run. Once it is claimed, each raises RunFailed when the folder is gone or another."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.checkpoints = config.model_path / path.name if config.model_path else path
        self.best, self.last = self.checkpoints / "best.safetensors", self.checkpoints / "last.safetensors"
        self._curves: Curves | None = None
        self._locks: list[FolderLock] = []

    def claim(self) -> None:
        """Keep other processes out until `close`, and remove what killed ones left half-written.

        Raises UserError naming the folder and the process that works there.
        """
        with naming_errors(self.checkpoints):
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            folders = [self.path] if self.checkpoints.samefile(self.path) else [self.path, self.checkpoints]
        for folder in folders:
            self._locks.append(FolderLock(folder, "one process at a time continues a run: wait for it, or end it"))
            with naming_errors(folder):
                remove_leftovers(folder)

    def check(self) -> None:
        """Raises RunFailed when a claimed folder was deleted, moved or replaced: writing would make half a folder."""
        for lock in self._locks:
            lock.check()

    def write_start(self, config: Config, dataset: Dataset, backend: str, parameter_count: int,
                    observed: Observed) -> None:
        """The resolved configuration, where everything came from, and what it is computed on."""
        self.check()
        values = to_values(config)
        header = f"{RUN_HEADER}{backend} backend; run it again with --config on this file\n"
        write_text(self.path / "config.yaml", header + yaml.safe_dump(values, sort_keys=False))
        write_json(self.path / "run.json", {
            "backend": backend, "data": dataset.title, "synthetic": dataset.synthetic,
            "data_fingerprint": dataset.fingerprint, "data_source": dataset.source,
            "cleaning": {split: {m: dict(counts) for m, counts in by_modality.items()}
                         for split, by_modality in dataset.cleaning.items()},
            "notes": list(dataset.notes), "parameters": parameter_count, "versions": versions(backend),
            "computed": str(observed), "device": observed.device, "dtype": observed.dtype,
        })

    def write_history(self, rows: Sequence[Row]) -> None:
        """All finished epochs, one JSON object a line."""
        self.check()
        write_text(self.path / "history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def has_history(self) -> bool:
        """Whether an epoch was ever finished."""
        path = self.path / "history.jsonl"
        return path.is_file() and path.stat().st_size > 0

    def restart_curves(self, graph: Graph, rows: Sequence[Row]) -> None:
        """Begin the TensorBoard file anew, with the model and the history: a resumed run shows each epoch once."""
        self.check()
        self._curves = Curves(self.path / "tensorboard")
        self._curves.draw(graph)
        for row in rows:
            self._curves.add(row)

    def add_curves(self, row: Row) -> None:
        """Append the losses of an epoch."""
        self.check()
        if self._curves is not None:
            self._curves.add(row)

    def close(self) -> None:
        """Close the TensorBoard file and let other processes work here."""
        try:
            if self._curves is not None:
                self._curves.close()
                self._curves = None
        finally:
            while self._locks:
                self._locks.pop().release()

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        self.check()
        write_json(self.path / "metrics.json", metrics)

    def write_timing(self, timing: dict[str, Any]) -> None:
        self.check()
        write_json(self.path / "timing.json", timing)

    def write_predictions(self, split: str, output: Array, label: Array | None, dataset: Dataset) -> list[Path]:
        """`predictions_<split>.npy` (outputs as the model gives them) and `.csv`, in row order."""
        self.check()
        return write_predictions(self.path / f"predictions_{split}", output, label, dataset.task)


def write_predictions(stem: Path, output: Array, label: Array | None, task: Task) -> list[Path]:
    """Write probabilities (N, 2) or scores (N, O) to `stem`.npy and `stem`.csv, row i for row i."""
    classes, names = task.kind == "classification", task.names
    values = softmax(output).astype(output.dtype) if classes else output
    array_path, table_path = (stem.with_name(stem.name + suffix) for suffix in (".npy", ".csv"))
    with atomic_path(array_path) as temporary, open(temporary, "wb") as file:
        np.save(file, values)
    columns = [f"p_{name}" for name in names] if classes else list(names)
    extra = [] if label is None else ["label"] if classes else [f"label_{name}" for name in names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", *columns, *(["predicted"] if classes else []), *extra])
    for index, row in enumerate(values):
        chosen = [names[int(row.argmax())]] if classes else []
        truth = [] if label is None else np.atleast_1d(label[index]).tolist()
        writer.writerow([index, *row.tolist(), *chosen, *truth])
    write_text(table_path, text.getvalue())
    return [array_path, table_path]


def versions(backend: str) -> dict[str, str]:
    """Versions of what computed the result."""
    packages = {"torch": "torch", "mindspore": "mindspore", "paddle": "paddlepaddle"}
    found = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
    for package in (packages[backend], f"{packages[backend]}-gpu"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
