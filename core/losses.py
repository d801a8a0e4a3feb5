"""Losses and probabilities on the host, in float64: validation decides alike for every backend."""
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.randomness import Array


def softmax(logits: Array) -> npt.NDArray[np.float64]:
    """(N, C) -> (N, C), over the last axis (torch's softmax without `dim` once took another)."""
    shifted: npt.NDArray[np.float64] = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def summed_loss(output: Array, label: Array) -> float:
    """The training loss of the original, summed over rows and outputs.

    Cross-entropy when `label` holds int64 class indices (N,), else absolute error, label (N, O).
    """
    scores: npt.NDArray[np.float64] = np.asarray(output, np.float64)
    if label.dtype.kind != "i":
        return float(np.abs(scores - np.asarray(label, np.float64)).sum())
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float((log_sum - shifted[np.arange(len(label)), label]).sum())


def mean_loss(output: Array, label: Array) -> float:
    """Summed loss per row, as the original prints it."""
    return summed_loss(output, label) / len(label)
