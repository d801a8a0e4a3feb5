"""Precision in MindSpore: float32 by its own kernels, float64 by operators that have it (blocks.py, BLOCKS64), and half
precision at the borders of blocks with a loss scale.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, Tensor

from backends.mindspore.kernels import (
    all_true,
    assign,
    both,
    constant,
    gather,
    in_dtype,
    is_finite,
    rounded,
    select,
    sub,
)
from core.common.half import HalfType
from core.config import Config
from core.models.graph import Graph
from core.runtime import half
from core.runtime.scaler import LossScaler, corrections

DTYPES = {"float32": mindspore.float32, "float64": mindspore.float64}
HALVES: dict[HalfType, mindspore.dtype] = {"float16": mindspore.float16, "bfloat16": mindspore.bfloat16}


def check_precision(graph: Graph, config: Config) -> None:
    """Refuse what this framework can't do on this device: there is nothing."""


class Half(half.Half[Tensor]):
    """Half precision on a device: really, or emulated."""

    halves, full = HALVES, mindspore.float32

    def cast(self, x: Tensor, dtype: mindspore.dtype) -> Tensor:
        return in_dtype(x, dtype)

    def one(self) -> Tensor:
        return constant(1, self.working)

    def gradient(self, slope: Tensor) -> Tensor:
        """That of a parameter of a block in half; float32 again where it is emulated, which saves a Cast."""
        return self.leave(slope)

    def leave(self, y: Tensor) -> Tensor:
        """What a block in half gives, and what passes a border on the way back."""
        return rounded(y, self.dtype) if self.emulated else in_dtype(y, self.dtype)


def half_of(config: Config) -> Half | None:
    """None at O0."""
    return None if config.amp_level == "O0" else Half(config)


class Bordered(half.Bordered[Tensor]):
    """A block between its casts, which the way back passes in the other direction."""

    def evaluate(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return self.leave(self.block.evaluate(self.enter(xs), train))

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Any]:
        y, saved = self.block.forward(self.enter(xs))
        return self.leave(y), saved

    def backward(self, dy: Tensor, saved: Any, needs: Sequence[bool]) -> tuple[list[Tensor | None], dict[str, Tensor]]:
        slopes, found = self.block.backward(self.leave(dy), saved, needs)
        crossing = zip(slopes, self.border.crossed, strict=False)
        return [self.half.leave(dx) if crossed and dx is not None else dx for dx, crossed in crossing], found


class Scaler(LossScaler):
    """The loss scale. Its scalars are parameters, for nothing else can be written to."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.start, self.table = self.none, constant(0, mindspore.float32)

    def number(self, value: float) -> Parameter:
        return Parameter(constant(value, mindspore.float32), name="number", requires_grad=False)

    def count(self, value: int) -> Parameter:
        return Parameter(constant(value, mindspore.int32), name="count", requires_grad=False)

    def put(self, target: Parameter, value: Tensor) -> None:
        assign(target, value)

    def choose(self, condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
        return select(condition, one, other)

    def finite(self, tensors: Sequence[Tensor]) -> Tensor:
        found = [all_true(is_finite(tensor)) for tensor in tensors]
        for one in found[1:]:
            found[0] = both(found[0], one)
        return found[0]

    def read(self, scalar: Tensor) -> float:
        number: float = scalar.asnumpy().item()
        return number

    def begin(self, steps: int) -> None:
        super().begin(steps)
        taken = int(self.read(self.taken))
        self.start, found = self.count(taken), corrections(taken, steps)
        # c1, c2 ** .5 -> what the rate is multiplied by, and c2 ** .5, which goes with eps: (steps + 1, 2)
        self.table = Tensor(np.stack([found[:, 1] / found[:, 0], found[:, 1]], 1), mindspore.float32)

    def corrections(self) -> Tensor:
        """Of the step that is counted, (2,): c2 ** .5 / c1, and c2 ** .5."""
        return gather(self.table, sub(self.taken, self.start), 0)
