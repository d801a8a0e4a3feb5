"""What a backend is given: the batches and masks of a whole epoch, or one batch for inspection."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.models import ModelSpec
from core.randomness import Array, batch_order, dropout_masks

EVALUATION_ROWS = 1024  # rows per forward pass in evaluation: bounds memory, changes no result


@dataclass(frozen=True)
class EpochPlan:
    """One training epoch. `order` (rows,) int64; each mask (rows, width), row i for order[i]."""

    epoch: int
    order: npt.NDArray[np.int64]
    batch_size: int
    masks: Mapping[str, Array]

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Start and stop of every step within `order`; the last one may be shorter."""
        rows, size = len(self.order), self.batch_size
        return [(start, min(start + size, rows)) for start in range(0, rows, size)]


@dataclass(frozen=True)
class EpochResult:
    """Summed loss of every step, float64 (steps,), and how many steps the loss scaler skipped."""

    losses: npt.NDArray[np.float64]
    skipped: int = 0


@dataclass(frozen=True)
class Batch:
    """Rows with labels and masks, for parity checks. `masks` is empty in evaluation mode.

    inputs: audio (B, A), video (B, V), text (B, T, D); label (B, O) float or (B,) int64.
    """

    inputs: Mapping[str, Array]
    label: Array
    masks: Mapping[str, Array]


def make_plan(spec: ModelSpec, seed: int, epoch: int, rows: int, batch_size: int, dtype: str) -> EpochPlan:
    """The plan of `epoch`: a pure function of its arguments."""
    return EpochPlan(epoch, batch_order(seed, epoch, rows), batch_size,
                     dropout_masks(spec, seed, epoch, rows, dtype))
