"""The loss scale of mixed precision. Scale, finite flag and counters are scalars on the device: no step waits for them.

What half precision can't hold of small gradients survives, because the loss is multiplied before they are made and they
are divided after. A step with a gradient that isn't finite is skipped and counted, whatever the scale; a dynamic scale
then shrinks, and grows again after a number of good steps in a row (torch's GradScaler).
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.common.arrays import F64
from core.common.constants import ADAM_BETAS
from core.config import Config
from core.training.scaler import initial_scale

LARGEST = float(np.finfo(np.float32).max)
Scalar = Any  # a tensor () of the backend; `put` writes to those that are attributes


class LossScaler(ABC):
    """Scale float32, counters int32: steps taken since training began, good ones in a row, skipped ones of the epoch.

    The same operations in the same order in every backend: the counters agree bit for bit.
    """

    def __init__(self, config: Config) -> None:
        self.dynamic = config.loss_scale == "dynamic"
        self.scale = self.number(initial_scale(config))
        self.growth, self.backoff = self.number(config.loss_scale_growth), self.number(config.loss_scale_backoff)
        self.least, self.largest = self.number(1.0), self.number(LARGEST)
        self.good, self.taken, self.skipped = self.count(0), self.count(0), self.count(0)
        self.none, self.one, self.interval = self.count(0), self.count(1), self.count(config.loss_scale_interval)

    @abstractmethod
    def number(self, value: float) -> Scalar:
        """A float32 scalar on the device."""

    @abstractmethod
    def count(self, value: int) -> Scalar:
        """An int32 scalar on the device."""

    @abstractmethod
    def put(self, target: Scalar, value: Scalar) -> None:
        """Write to a scalar in place."""

    @abstractmethod
    def choose(self, condition: Scalar, one: Scalar, other: Scalar) -> Scalar:
        """`one` where the condition holds, else `other`."""

    @abstractmethod
    def finite(self, tensors: Sequence[Any]) -> Scalar:
        """Whether all numbers in all of them are finite."""

    @abstractmethod
    def read(self, scalar: Scalar) -> float:
        """To the host."""

    def begin(self, steps: int) -> None:
        """Before an epoch of so many steps. A backend whose Adam is given its corrections places them here."""
        self.put(self.skipped, self.none)

    def load(self, scale: float, good: int, taken: int) -> None:
        """The scale and the counters of a state."""
        self.put(self.scale, self.number(scale))
        self.put(self.good, self.count(good))
        self.put(self.taken, self.count(taken))

    def counters(self) -> tuple[int, float, int]:
        """Steps taken, scale, good steps in a row, as a state holds them."""
        return int(self.read(self.taken)), self.read(self.scale), int(self.read(self.good))

    def update(self, finite: Scalar) -> None:
        """After the gradients of a step are known to be `finite` or not."""
        choose, put = self.choose, self.put
        put(self.taken, choose(finite, self.taken + self.one, self.taken))
        put(self.skipped, choose(finite, self.skipped, self.skipped + self.one))
        if not self.dynamic:
            return
        good = choose(finite, self.good + self.one, self.none)
        full = good == self.interval
        grown, shrunk = self.scale * self.growth, self.scale * self.backoff
        grown = choose(full, choose(grown <= self.largest, grown, self.scale), self.scale)
        shrunk = choose(shrunk >= self.least, shrunk, self.least)
        put(self.scale, choose(finite, grown, shrunk))
        put(self.good, choose(full, self.none, good))


def corrections(taken: int, steps: int) -> F64:
    """Adam's 1 - b1^n and sqrt(1 - b2^n) for n steps taken, from `taken` to `taken` + `steps`: (steps + 1, 2).

    Which of them a step needs, only the device knows. Ones for n = 0, before any step.
    """
    counts = np.arange(taken, taken + steps + 1)[:, None]
    found = 1 - np.asarray(ADAM_BETAS) ** counts
    found[counts[:, 0] == 0] = 1
    return np.asarray(found ** np.array([1, 0.5]), np.float64)
