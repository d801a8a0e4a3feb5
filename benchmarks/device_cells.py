"""The networks that the device suite checks, and the cells that it times."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config.yaml_files import load_mapping
from core.data.tables import TABLES

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "iemocap"
EMOTIONS = TABLES["iemocap"].cells
LEVELS = ("O1", "O2")
SCALES = {"float16": 128.0, "bfloat16": 1.0}  # the Ascend port's for float16; bfloat16 has float32's range
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is done.

    Checked: `emotions` among the networks; an epoch of `rows`, batches of at most `most`; in half, `half_epochs` of
    `half_rows`, beside so many `nudges` as a floor. Timed: those cells at `batches`, `steps` at a time, epochs of
    `epoch_rows`, so many `seeds` at once.
    """

    emotions: tuple[str, ...]
    rows: int
    half_rows: int
    half_epochs: int
    nudges: int
    batches: tuple[int, ...]
    steps: int
    epoch_rows: int
    seeds: int
    rounds: int
    most: int


FULL = Size(EMOTIONS, 1000, 500, 2, 3, (64, 256), 100, TABLES["iemocap"].data.published.rows[0], 16, 7, 1000)
QUICK = Size(("happy", "neutral"), 13, 13, 1, 1, (4, 8), 2, 10, 2, 2, 5)  # a look at every kind, no result


def networks(size: Size, device: str, threads: int) -> dict[str, Values]:
    """Those that are checked, by name: the cells as published, TFN, and the sequence model with either encoder."""
    found: dict[str, Values] = {f"lmf {emotion}": settings(emotion) for emotion in size.emotions}
    found["tfn"] = {"dataset": "mosi", "model": "tfn", "batch_size": 32, "weight_decay": 0.01}
    found["msa"] = {"dataset": "mosi_aligned", "model": "msa", "batch_size": 16, "weight_decay": 0.01}
    found["msa transformer"] = {**found["msa"], "encoder": "transformer"}
    return {name: {**values, "data": "synthetic", "device": device, "threads": threads,
                   "batch_size": min(values["batch_size"], size.most)} for name, values in found.items()}


def settings(emotion: str) -> Values:
    """The published hyperparameters of a cell."""
    path = CONFIGS / f"{emotion}.yaml"
    return load_mapping(path, str(path))


def in_half(values: Values, level: str, kind: str) -> Values:
    """The same at a level of mixed precision, with the loss scale of the half type."""
    return {**values, "amp_level": level, "amp_dtype": kind, "loss_scale": SCALES[kind]}
