"""Attention over sequences in MindSpore, forward and back: what core/models/attention.py has in NumPy."""
from __future__ import annotations

import math
from collections.abc import Sequence

import mindspore
import numpy as np
from mindspore import Tensor, ops

from backends.mindspore.blocks import Back, Block, Saved, Tensors
from backends.mindspore.kernels import (
    absolute,
    add,
    axis_sum,
    batch_matmul,
    batch_matmul_t,
    batch_t_matmul,
    bias_add,
    column_sums,
    concat,
    constant,
    div,
    gather,
    in_dtype,
    matmul,
    matmul_t,
    maximum,
    mul,
    numbers,
    ones,
    row_max,
    row_sum,
    sign,
    softmax,
    spread,
    sub,
    t_matmul,
    tile,
)
from backends.mindspore.precision import HALVES
from core.common.arrays import Array
from core.common.constants import HIDDEN
from core.models.attention import PROJECTIONS, sinusoids


class Positions(Block):
    """(T, B, E) -> (T, B, E), with the sinusoids of its places added."""

    def bind(self, tensors: Tensors) -> None:
        table = sinusoids(*self.node.output.shape)[:, None]  # (T, 1, E)
        self.minus = Tensor(-table, self.dtype)  # Sub broadcasts four times as fast as Add

    def construct(self, x: Tensor) -> Tensor:
        return sub(x, self.minus)

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return sub(xs[0], self.minus), None

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        return [dy], {}


class RealSteps(Block):
    """(T, B, D) -> (B, T): 1 for a step that holds anything but zeros; all of a row that holds nothing else."""

    def bind(self, tensors: Tensors) -> None:
        self.steps, = self.node.output.shape
        self.one = constant(1, self.dtype)

    def construct(self, x: Tensor) -> Tensor:
        real = sign(row_sum(absolute(x), -1)).view(self.steps, -1).transpose(1, 0)  # (B, T)
        return maximum(real, sub(self.one, row_max(real, 1)))

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return self.construct(xs[0]), None

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        return [None], {}


class Attention(Block):
    """Query (T, B, E), what it attends to (S, B, D), its real steps (B, S) -> (T, B, E).

    The scores of row b and head j are matrix b heads + j of a batch (B heads, T, S). The softmax is in float32 also
    where the rest is in half, which is too short for HIDDEN.
    """

    def bind(self, tensors: Tensors) -> None:
        for key in PROJECTIONS:  # q_weight, q_bias, ...
            self.keep(**{f"{key[0]}_{last}": tensors[f"{key}.{last}"] for last in ("weight", "bias")})
        self.heads, (self.width, self.inner) = self.node["heads"], self.k_weight.shape  # E, D
        self.depth, self.shape = self.width // self.heads, (self.node.output.shape[0], -1, self.width)
        self.scale = constant(1 / math.sqrt(self.depth), self.dtype)
        self.wide = mindspore.float32 if self.dtype in HALVES.values() else self.dtype
        self.one, self.least = constant(1, self.wide), constant(HIDDEN, self.wide)

    def construct(self, query: Tensor, memory: Tensor, real: Tensor) -> Tensor:
        q = self.split(bias_add(matmul_t(query.view(-1, self.width), self.q_weight), self.q_bias), query)
        k = self.split(bias_add(matmul_t(memory.view(-1, self.inner), self.k_weight), self.k_bias), memory)
        v = self.split(bias_add(matmul_t(memory.view(-1, self.inner), self.v_weight), self.v_bias), memory)
        hidden = mul(sub(self.one, in_dtype(real, self.wide)), self.least).expand_dims(1).expand_dims(1)  # (B, 1, 1, S)
        scores = in_dtype(batch_matmul_t(mul(q, self.scale), k), self.wide)  # (B, heads, T, S)
        y = batch_matmul(in_dtype(softmax(add(scores, hidden)), self.dtype), v)  # (B, heads, T, E / heads)
        y = y.transpose(2, 0, 1, 3).reshape(-1, self.width)
        return bias_add(matmul_t(y, self.o_weight), self.o_bias).view(self.shape)

    def split(self, x: Tensor, sequence: Tensor) -> Tensor:
        """(T B, E) -> (B, heads, T, E / heads)."""
        return x.view(sequence.shape[0], -1, self.heads, self.depth).transpose(1, 2, 0, 3)

    def evaluate(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return self.forward(xs)[0]

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        (steps, rows, _), others = xs[0].shape, len(xs[1])
        query, memory = xs[0].view(-1, self.width), xs[1].view(-1, self.inner)  # (T B, E), (S B, D)
        q = self.by_head(bias_add(matmul_t(query, self.q_weight), self.q_bias), steps, rows)
        k = self.by_head(bias_add(matmul_t(memory, self.k_weight), self.k_bias), others, rows)
        v = self.by_head(bias_add(matmul_t(memory, self.v_weight), self.v_bias), others, rows)
        q = mul(q, self.scale)
        hidden = mul(sub(self.one, in_dtype(xs[2], self.wide)), self.least).view(rows, 1, -1)  # (B, 1, S)
        scores = in_dtype(batch_matmul_t(q, k), self.wide)  # (B heads, T, S)
        hidden = batch_matmul(ones((rows, self.heads * steps, 1), self.wide), hidden)  # (B, heads T, S)
        shares = in_dtype(softmax(add(scores, hidden.view(scores.shape))), self.dtype)
        found = batch_matmul(shares, v)  # (B heads, T, E / heads)
        joined = self.by_step(found, steps, rows)
        y = bias_add(matmul_t(joined, self.o_weight), self.o_bias).view(xs[0].shape)
        return y, (query, memory, q, k, v, shares, found, joined)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        query, memory, q, k, v, shares, found, joined = saved
        (steps, rows, _), others, shape = dy.shape, k.shape[1], dy.shape
        dy = dy.view(joined.shape)
        dfound = self.by_head(matmul(dy, self.o_weight), steps, rows)
        # of softmax: less the mean of the slopes by the shares, which is as much of what was found
        mean = matmul(mul(dfound, found).view(-1, self.depth), ones((self.depth, 1), self.dtype))
        dscores = mul(shares, sub(batch_matmul_t(dfound, v), mean.view(-1, steps, 1)))  # (B heads, T, S)
        dq = self.by_step(mul(batch_matmul(dscores, k), self.scale), steps, rows)  # (T B, E)
        dk = self.by_step(batch_t_matmul(dscores, q), others, rows)  # (S B, E)
        dv = self.by_step(batch_t_matmul(shares, dfound), others, rows)
        slopes: dict[str, Tensor] = {}
        for key, slope, x in zip(PROJECTIONS, (dq, dk, dv, dy), (query, memory, memory, joined), strict=True):
            slopes[f"{key}.weight"] = t_matmul(slope, x).view(-1)
            slopes[f"{key}.bias"] = column_sums(slope)
        dquery = matmul(dq, self.q_weight).view(shape) if needs[0] else None
        dmemory = add(matmul(dk, self.k_weight), matmul(dv, self.v_weight)) if needs[1] else None
        return [dquery, None if dmemory is None else dmemory.view(others, rows, -1), None], slopes

    def by_head(self, x: Tensor, steps: int, rows: int) -> Tensor:
        """(T B, E) -> (B heads, T, E / heads)."""
        places = numbers(places_by_head, steps, rows * self.heads)
        return gather(x.view(-1, self.depth), places, 0).view(-1, steps, self.depth)

    def by_step(self, x: Tensor, steps: int, rows: int) -> Tensor:
        """(B heads, T, E / heads) -> (T B, E)."""
        places = numbers(places_by_head, rows * self.heads, steps)
        return gather(x.view(-1, self.depth), places, 0).view(-1, self.width)


def places_by_head(steps: int, rows: int) -> Array:
    """Where the rows of (T, N, ...) lie, in the order of (N, T, ...)."""
    return np.arange(steps * rows).reshape(steps, rows).T


class ConcatSteps(Block):
    """(T, B, E), (S, B, E), ... -> (T + S + ..., B, E)."""

    def construct(self, *xs: Tensor) -> Tensor:
        return concat(xs)

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return concat(tuple(xs)), [len(x) for x in xs]

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        starts = [sum(saved[:place]) for place in range(len(saved))]
        return [ops.narrow(dy, 0, start, steps) for start, steps in zip(starts, saved, strict=True)], {}


class MeanSteps(Block):
    """(T, B, E), its real steps (B, T) -> their mean (B, E)."""

    def bind(self, tensors: Tensors) -> None:
        self.width, = self.node.output.shape
        self.ones = Tensor(np.ones((1, self.width)), self.dtype)

    def construct(self, x: Tensor, real: Tensor) -> Tensor:
        return self.weighed(x, real)[0]

    def weighed(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, and each number's share in it (T B, E)."""
        shares = div(real, row_sum(real, 1)).transpose(1, 0).reshape(-1, 1)  # (T B, 1)
        shares = spread(shares, self.ones)
        return axis_sum(mul(x, shares.view(x.shape)), 0), shares

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        y, shares = self.weighed(*xs)
        return y, (shares, xs[0].shape)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        shares, shape = saved
        return [mul(shares, tile(dy, (shape[0], 1))).view(shape) if needs[0] else None, None], {}


BLOCKS = {"positions": Positions, "real_steps": RealSteps, "attention": Attention, "concat_steps": ConcatSteps,
          "mean_steps": MeanSteps}
