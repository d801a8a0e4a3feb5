"""What a backend is given: order, learning rates and masks of a whole epoch, or one batch for inspection."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from core.common.arrays import F64, Array
from core.config import Config
from core.models.graph import Graph
from core.training.randomness import Masks, batch_order
from core.training.schedules import step_rates

EVALUATION_ROWS = 1024  # rows per forward pass in evaluation: bounds memory, changes no result
MASK_BYTES = 1 << 26  # of masks that exist at a time: those of a whole epoch need not fit


class MaskSource(Protocol):
    """Dropout masks of an epoch, made when they are asked for."""

    @property
    def row_bytes(self) -> int:
        """Of all sites."""

    def rows(self, start: int, stop: int) -> dict[str, Array]:
        """Per dropout site the masks (rows, *shape) of rows `start` to `stop` of the epoch's order."""


@dataclass(frozen=True)
class GivenMasks:
    """Masks that exist already, by dropout site."""

    arrays: Mapping[str, Array]

    @property
    def row_bytes(self) -> int:
        """Of all sites."""
        return sum(array[:1].nbytes for array in self.arrays.values())

    def rows(self, start: int, stop: int) -> dict[str, Array]:
        return {name: array[start:stop] for name, array in self.arrays.items()}


@dataclass(frozen=True)
class EpochPlan:
    """One training epoch. `order` (rows,) int64; `rates` (steps, groups), in the order of the graph's groups."""

    epoch: int
    order: npt.NDArray[np.int64]
    batch_size: int
    rates: F64
    dropout: MaskSource

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """Start and stop of every step within `order`; the last one may be shorter."""
        rows, size = len(self.order), self.batch_size
        return [(start, min(start + size, rows)) for start in range(0, rows, size)]

    @property
    def sizes(self) -> F64:
        """Rows of every step (steps,)."""
        return np.asarray([stop - start for start, stop in self.bounds], np.float64)

    def pieces(self) -> Iterator[tuple[int, int]]:
        """First and last step, exclusive, of pieces whose masks together take at most MASK_BYTES."""
        steps = max(1, MASK_BYTES // max(1, self.dropout.row_bytes * self.batch_size))
        for first in range(0, len(self.bounds), steps):
            yield first, min(first + steps, len(self.bounds))

    def masks(self, first: int, last: int) -> dict[str, Array]:
        """The masks (rows, *shape) of the steps `first` to `last`, exclusive, row i for the i-th row of these."""
        return self.dropout.rows(self.bounds[first][0], self.bounds[last - 1][1])


@dataclass(frozen=True)
class EpochResult:
    """Loss of every step, float64 (steps,), and how many steps the loss scaler skipped."""

    losses: F64
    skipped: int = 0


@dataclass(frozen=True)
class Batch:
    """Rows with labels and masks, for parity checks. `masks` is empty in evaluation mode.

    inputs: by name (B, width), or (B, steps, width) for sequences; label (B, O) float or (B,) int64.
    """

    inputs: Mapping[str, Array]
    label: Array
    masks: Mapping[str, Array]


def make_plan(graph: Graph, config: Config, epoch: int, rows: int) -> EpochPlan:
    """The plan of `epoch`, counted from 0: a pure function of its arguments."""
    order = batch_order(config.seed, epoch, rows)
    rates = step_rates(graph, config, epoch, -(-rows // config.batch_size))
    return EpochPlan(epoch, order, config.batch_size, rates,
                     Masks(graph.dropout_sites, config.seed, epoch, config.precision))
