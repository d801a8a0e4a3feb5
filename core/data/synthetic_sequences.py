"""Synthetic sequences as the aligned data sets have them, of different lengths, with zeros as padding; and labels."""
from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from core.common.arrays import F64, Array
from core.data import draws
from core.data.specs import InputSpec, Padding, Task

TEXT_SCALE = 0.35  # standard deviation of a GloVe component
VISIBLE = {"audio": 0.9, "video": 0.9, "text": 0.5}  # correlation of a channel with the hidden value, at most
FLIPPED = 0.03  # share of rows whose class is a wrong one: no model should reach 100 %
SHORTEST = 3  # steps of a sequence
CHUNK = 2**22  # values that are made together: bounds memory


def padded(origin: str, stream: str, one: InputSpec, hidden: F64, padding: Padding) -> npt.NDArray[np.float32]:
    """(N, T, D) float32: every step leans to one side of a direction, by `hidden` (N,), and is noise otherwise.

    All inputs of a row are equally long, most rows much shorter than the longest; what is left is zero.
    """
    steps, width = one.shape
    load = draws.loadings(width, VISIBLE["text"], f"{origin}/{one.name}/loadings")  # (D,)
    loud = np.sqrt(1 - load * load)
    real = _real(stream, len(hidden), steps, padding)  # (N, T)
    values = np.zeros((len(hidden), steps, width), np.float32)
    size = max(1, CHUNK // (steps * width))
    for start in range(0, len(hidden), size):
        rows, places = np.nonzero(real[start:start + size])
        noise = draws.noise(len(rows) * width, f"{stream}/{one.name}/noise/{start}").reshape(len(rows), width)
        values[start + rows, places] = TEXT_SCALE * (load * hidden[start + rows, None] + loud * noise)
    return values


def _real(stream: str, rows: int, steps: int, padding: Padding) -> npt.NDArray[np.bool_]:
    """(N, T): which steps are no padding."""
    least, draw = min(SHORTEST, steps), draws.uniform(rows, f"{stream}/lengths")
    lengths = least + (draw * draw * (steps + 1 - least)).astype(np.int64)  # (N,), a third of the steps in the mean
    places = np.arange(steps)
    if padding == "front":
        places = places[::-1]
    return np.asarray(places < lengths[:, None])


def labels(origin: str, stream: str, task: Task, hidden: Mapping[str, F64]) -> Array:
    """Scores (N, O) float32 over the whole range, a tenth of them noise, or classes (N,) int64 of equal sizes.

    One score or class follows all inputs, half their mean and half their product. Of several scores the first does, the
    next follow one input each, and so on in turns.
    """
    every = np.stack(list(hidden.values()))  # (M, N), within +-1
    joint = (every.mean(axis=0) + every.prod(axis=0)) / 2  # (N,)
    rows, outputs = len(joint), task.outputs
    if task.label_range is None:
        order = np.argsort(joint, kind="stable")
        classes = np.empty(rows, np.int64)
        classes[order] = np.arange(rows) * outputs // rows
        return np.asarray((classes + (draws.uniform(rows, f"{stream}/label/flipped") < FLIPPED)) % outputs)
    low, high = task.label_range
    noise = draws.noise(rows * outputs, f"{stream}/label/noise").reshape(rows, outputs) / math.sqrt(3)  # in +-1
    load = draws.loadings(outputs, 1.0, f"{origin}/label/loadings") if outputs > 1 else np.ones(1)  # (O,)
    sources = np.stack([joint, *every])  # (1 + M, N)
    signal = load * sources[np.arange(outputs) % len(sources)].T  # (N, O)
    return np.asarray(((low + high) / 2 + (high - low) / 2 * (0.9 * signal + 0.1 * noise)).astype(np.float32))
