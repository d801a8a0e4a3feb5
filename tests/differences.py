"""What two trees made of one configuration, read without the project's own readers: they differ between the trees."""
from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from core.common.arrays import Array
from parity.compare import gap

KINDS = ("weights/", "exp_avg/", "exp_avg_sq/")  # the state: neither tree may have a tensor that the other has not


@dataclass(frozen=True)
class Difference:
    """`where` in the files, and how far apart relative to the earlier; infinite where no number can say it."""

    where: str
    said: str
    relative: float = math.inf

    def __str__(self) -> str:
        return f"{self.where}: {self.said}"


def run_differences(old: Path, new: Path) -> list[Difference]:
    """Between two run folders, in the order of a run: losses, tensors, predictions, metrics."""
    found = []
    for row, other in zip(*map(history, (old, new)), strict=False):
        found += number_differences(f"history.jsonl epoch {row['epoch']}", row, other)
    epochs = [len(history(folder)) for folder in (old, new)]
    if epochs[0] != epochs[1]:
        found.append(Difference("history.jsonl", f"{epochs[0]} epochs before, {epochs[1]} now"))
    for name in ("last.safetensors", "best.safetensors"):
        found += checkpoint_differences(old / name, new / name)
    for split in ("valid", "test"):
        name = f"predictions_{split}.npy"
        found += tensor_differences(name, *(np.load(folder / name) for folder in (old, new)))
    return found + number_differences("metrics.json", *(read_json(folder / "metrics.json") for folder in (old, new)))


def evaluation_differences(run: Path, stem: Path) -> list[Difference]:
    """Between the test split in a run folder and what `evaluate --output STEM` wrote."""
    metrics = read_json(stem.with_suffix(".json"))["metrics"]
    return [*number_differences("metrics.json test", read_json(run / "metrics.json")["test"], metrics),
            *tensor_differences("predictions_test.npy", np.load(run / "predictions_test.npy"),
                                np.load(stem.with_suffix(".npy")))]


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def number_differences(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Between the numbers, truth values and nulls of two mappings. A key that only the newer one has is none."""
    found = []
    for key, value in old.items():
        name, other = f"{where} {key}", new.get(key, "missing")
        if isinstance(value, dict) and isinstance(other, dict):
            found += number_differences(name, value, other)
        elif not isinstance(value, (str, list)) and repr(value) != repr(other):  # repr: -0.0 is not 0.0
            numbers = all(isinstance(one, (int, float)) for one in (value, other))
            relative = abs(value - other) / (abs(value) or 1) if numbers else math.inf
            found.append(Difference(name, f"{value!r} before, {other!r} now (relative {relative:.1e})", relative))
    return found


def checkpoint_differences(old: Path, new: Path) -> list[Difference]:
    """Between tensors and counters of two files, read without this project."""
    contents = []
    for path in (old, new):
        with safe_open(path, framework="numpy") as file:
            record = json.loads(file.metadata()["record"])
            counters = {key: record[key] for key in ("step", "loss_scale", "good_steps", "progress")}
            contents.append((counters, {name: file.get_tensor(name) for name in file.keys()}))  # noqa: SIM118
    (counters, tensors), (counters_now, tensors_now) = contents
    found = []
    for name in sorted(tensors.keys() | {name for name in tensors_now if name.startswith(KINDS)}):
        if name in tensors and name in tensors_now:
            found += tensor_differences(f"{old.name} {name}", tensors[name], tensors_now[name])
        else:
            found.append(Difference(f"{old.name} {name}", "was not there" if name in tensors_now else "is missing now"))
    return found + number_differences(old.name, counters, counters_now)


def tensor_differences(where: str, old: Array, new: Array) -> list[Difference]:
    """None when dtype, shape and bytes are the same, else one."""
    if (old.dtype, old.shape) != (new.dtype, new.shape):
        return [Difference(where, f"{old.dtype} {old.shape} before, {new.dtype} {new.shape} now")]
    if old.tobytes() == new.tobytes():
        return []
    found = gap(new, old)
    said = f"largest difference {found.max_abs:.1e}, {found.relative:.1e} of its largest number"
    return [Difference(where, found.problem or said, math.inf if found.problem else found.relative)]
