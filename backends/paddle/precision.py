"""Precision in Paddle: float64, and half precision at the borders of blocks with a loss scale."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor

from backends.paddle.kernels import cast, ops, scaled
from core.common.half import HalfType
from core.config import Config
from core.models.graph import Graph
from core.runtime import half
from core.runtime.scaler import LossScaler, corrections

DTYPES = {"float32": paddle.float32, "float64": paddle.float64}
HALVES: dict[HalfType, paddle.dtype] = {"float16": paddle.float16, "bfloat16": paddle.bfloat16}


def check_precision(graph: Graph, config: Config) -> None:
    """Refuse what this framework can't do on this device: there is nothing."""


class Half(half.Half[Tensor]):
    """Half precision on a device: really, or emulated."""

    halves, full = HALVES, paddle.float32

    def cast(self, x: Tensor, dtype: paddle.dtype) -> Tensor:
        tiny = self.emulated and self.dtype == paddle.float16
        found = cast(without_tiny(x) if tiny and dtype == paddle.float16 else x, dtype)
        if tiny and x.dtype == paddle.float16 and not found.stop_gradient:
            found.register_hook(without_tiny)  # its gradient will be cast to float16
        return found

    def one(self) -> Tensor:
        return paddle.ones([], self.working)

    def take(self, copies: Tensor, values: Tensor) -> None:
        """Write the float32 `values`, rounded, into `copies`."""
        ops.assign_out_(self.leave(values), copies)


def without_tiny(x: Tensor) -> Tensor:
    """The float32 tensor with 0 for all below 2^-76, which float16 has as 0 too; what it can hold stays as it is.

    Paddle's cast to float16 on the CPU multiplies numbers from 2^-89 to 2^-77 by 2^64.
    """
    return scaled(scaled(x, 2.0**-74), 2.0**74)  # float32 has no product as small as the first would be


def half_of(config: Config) -> Half | None:
    """None at O0."""
    return None if config.amp_level == "O0" else Half(config)


class Scaler(LossScaler):
    """The loss scale, and Adam's corrections of an epoch's steps: only the device knows which of them comes next."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.start = self.count(0)

    def number(self, value: float) -> Tensor:
        return paddle.to_tensor(np.float32(value))

    def count(self, value: int) -> Tensor:
        return paddle.to_tensor(np.int32(value))

    def put(self, target: Tensor, value: Tensor) -> None:
        ops.assign_out_(value, target)

    def choose(self, condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
        chosen: Tensor = ops.where(condition, one, other)
        return chosen

    def finite(self, tensors: Sequence[Tensor]) -> Tensor:
        return paddle.stack([tensor.isfinite().all() for tensor in tensors]).all()

    def read(self, scalar: Tensor) -> float:
        value: float = scalar.item()
        return value

    def begin(self, steps: int) -> None:
        super().begin(steps)
        taken = int(self.read(self.taken))
        self.put(self.start, self.count(taken))
        self.inverse = [paddle.to_tensor(np.float32(1 / column)) for column in corrections(taken, steps).T]

    def corrected(self) -> list[Tensor]:
        """1 / (1 - b1^n) and 1 / sqrt(1 - b2^n), (), for the n steps taken so far."""
        return [ops.gather(column, self.taken - self.start, 0) for column in self.inverse]
