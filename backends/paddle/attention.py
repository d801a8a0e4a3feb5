"""Attention over sequences in Paddle: what core/models/attention.py has in NumPy."""
from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
from paddle import Tensor

from backends.paddle import kernels
from backends.paddle.blocks import Block, Tensors
from backends.paddle.kernels import ops
from core.common.constants import HIDDEN
from core.models.attention import PROJECTIONS, sinusoids


class Positions(Block):
    """(T, B, E) -> (T, B, E), with the sinusoids of its places added."""

    def bind(self, tensors: Tensors) -> None:
        steps, width = self.node.output.shape
        table = paddle.to_tensor(sinusoids(steps, width), paddle.get_default_dtype())
        self.register_buffer("table", ops.unsqueeze(table, [1]), persistable=False)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        y: Tensor = ops.add(kernels.wide(xs[0]), self.table)  # (T, B, E) + (T, 1, E)
        return y


class RealSteps(Block):
    """(T, B, D) -> (B, T): 1 for a step that holds anything but zeros; all of a row that holds nothing else."""

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        real = ops.transpose(ops.any(ops.cast(xs[0], paddle.bool), [2], False), [1, 0])  # (B, T)
        empty = ops.logical_not(ops.any(real, [1], True))  # (B, 1)
        y: Tensor = ops.cast(ops.logical_or(real, empty), xs[0].dtype)
        return y


class Attention(Block):
    """Query (T, B, E), what it attends to (S, B, D), its real steps (B, S) -> (T, B, E).

    The softmax is in float32 also where the rest is in half, which is too short for HIDDEN.
    """

    def bind(self, tensors: Tensors) -> None:
        self.heads, self.width = self.node["heads"], self.node.output.shape[-1]
        self.query, self.key, self.value, self.out = (
            (tensors[f"{key}.weight"], tensors[f"{key}.bias"]) for key in PROJECTIONS)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        query, memory, real = xs
        steps, size = query.shape[0], self.width // self.heads
        hidden = kernels.scaled(kernels.wide(real), -HIDDEN, HIDDEN)  # (B, S): 0 where real
        q = self.split(kernels.scaled(kernels.linear(query, *self.query), 1 / math.sqrt(size)))
        k, v = (self.split(kernels.linear(memory, *pair)) for pair in (self.key, self.value))
        scores = ops.matmul(q, k, False, True)  # (B heads, T, S)
        scores = ops.reshape(kernels.wide(scores), [-1, self.heads, steps, memory.shape[0]])
        weights = ops.softmax(scores + ops.unsqueeze(hidden, [1, 2]), -1)
        weights = kernels.cast(ops.reshape(weights, [-1, steps, memory.shape[0]]), v.dtype)
        y = ops.transpose(ops.bmm(weights, v), [1, 0, 2])  # (B heads, T, E / heads) -> (T, B heads, E / heads)
        return kernels.linear(ops.reshape(y, [steps, -1, self.width]), *self.out)

    def split(self, x: Tensor) -> Tensor:
        """(T, B, E) -> (B heads, T, E / heads)."""
        y: Tensor = ops.transpose(ops.reshape(x, [x.shape[0], -1, self.width // self.heads]), [1, 0, 2])
        return y


class ConcatSteps(Block):
    """(T, B, E), (S, B, E), ... -> (T + S + ..., B, E)."""

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        y: Tensor = ops.concat(list(xs), 0)
        return y


class MeanSteps(Block):
    """(T, B, E), its real steps (B, T) -> their mean (B, E)."""

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        x, real = xs
        counted = x * ops.unsqueeze(ops.transpose(real, [1, 0]), [2])  # (T, B, E) * (T, B, 1)
        y: Tensor = ops.divide(kernels.total(counted, [0]), ops.unsqueeze(kernels.total(real, [1]), [1]))
        return y  # (B, E) / (B, 1)


BLOCKS = {"positions": Positions, "real_steps": RealSteps, "attention": Attention, "concat_steps": ConcatSteps,
          "mean_steps": MeanSteps}
