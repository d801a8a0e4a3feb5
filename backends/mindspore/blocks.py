"""The general blocks in MindSpore: what core/models/blocks.py has in NumPy, forward and back.

A block is a cell. `construct` gives its output in evaluation, also in an exported program; `forward` that of train
mode, with what `backward` needs of it. The way back is written out, because in MindSpore's synchronous mode an operator
costs about 0.05 ms and its automatic differentiation several times that; `Differentiated` is for blocks in which
arithmetic costs more than operators. What float64 needs otherwise stands at the end.
"""
from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from backends.mindspore.kernels import (
    add,
    bias_add,
    bias_grad,
    column_sums,
    concat,
    concat_columns,
    concat_last,
    constant,
    gather,
    lstm_pair,
    matmul,
    matmul_t,
    mul,
    numbers,
    relu,
    relu_grad,
    sigmoid,
    sigmoid_grad,
    split_gates,
    t_matmul,
    tanh,
    tanh_grad,
    zeros,
)
from core.common.arrays import Array
from core.models.graph import DROPOUT, STATISTICS, Node, Ref

Tensors = Mapping[str, Parameter]
Saved = Any  # what a way back needs of the way forward
# gradients of the inputs, and of the parameters by last name, flat
Back = tuple[list[Tensor | None], dict[str, Tensor]]


class Block(nn.Cell):
    """What every block has: its node, its tensors as attributes, the dtype."""

    def __init__(self, node: Node, tensors: Tensors, dtype: mindspore.dtype) -> None:
        super().__init__(auto_prefix=False)
        self.node, self.dtype = node, dtype
        self.bind(tensors)

    def bind(self, tensors: Tensors) -> None:
        """Look up its own tensors by their last names."""

    def keep(self, **own: Any) -> None:
        """Attributes that are found at once: a cell looks for its parameters last, and a step asks forty times."""
        for name, tensor in own.items():
            setattr(self, name, tensor)
        self.__dict__.update(own)

    def extend_repr(self) -> str:
        """For print(network)."""
        return f"{', '.join(f'{key}={value}' for key, value in self.node.options.items())} -> {self.node.output.shape}"

    def evaluate(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        """`construct` without the machinery of a cell's call."""
        return self.construct(*xs)

    @abstractmethod
    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        """The output in train mode, and what the way back needs."""

    @abstractmethod
    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        """From the gradient of the output to those of the inputs that are needed, and of the parameters."""


class Differentiated(Block):
    """A block whose way back is MindSpore's own differentiation of its `construct`.

    That has to use the block's parameters themselves: of views made before, the differentiation sees nothing.
    """

    def __init__(self, node: Node, tensors: Tensors, dtype: mindspore.dtype) -> None:
        super().__init__(node, tensors, dtype)
        self.trained = {self.node.local(p.name): tensors[self.node.local(p.name)] for p in node.parameters
                        if p.group != STATISTICS}
        for tensor in self.trained.values():
            tensor.requires_grad = True  # or its gradient would be 0, without a word

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return self.construct(*xs), tuple(xs)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        weights = list(self.trained.values())

        def weighed(*xs: Tensor) -> Tensor:
            return mul(self.construct(*xs), dy).sum()

        # of a tensor that is two inputs, MindSpore gives each the gradient of both: the first has it
        wanted = tuple(place for place, needed in enumerate(needs)
                       if needed and all(saved[place] is not before for before in saved[:place]))
        if wanted and weights:
            slopes, found = mindspore.grad(weighed, wanted, weights)(*saved)
        elif weights:
            slopes, found = (), mindspore.grad(weighed, None, weights)(*saved)
        else:
            slopes, found = mindspore.grad(weighed, wanted)(*saved), ()
        slopes = slopes if isinstance(slopes, tuple) else (slopes,)
        parts: list[Tensor | None] = [None] * len(needs)
        for place, slope in zip(wanted, slopes, strict=True):
            parts[place] = slope
        return parts, {name: slope.view(-1) for name, slope in zip(self.trained, found, strict=True)}


class Linear(Block):
    """(B, I) -> (B, O), or (T, B, I) -> (T, B, O), with ReLU where the node says so."""

    def bind(self, tensors: Tensors) -> None:
        self.keep(weight=tensors["weight"], bias=tensors["bias"])
        self.relu, self.width = self.node.options.get("activation") == "relu", self.weight.shape[1]
        self.shape = own_shape(self.node.output)
        self.summed = column_sums if self.node.output.layout == "sequence" else bias_grad

    def construct(self, x: Tensor) -> Tensor:
        return self.rows(x.view(-1, self.width)).view(self.shape)

    def rows(self, x: Tensor) -> Tensor:
        """(N, I) -> (N, O)."""
        y = bias_add(matmul_t(x, self.weight), self.bias)
        if self.relu:
            y = relu(y)
        return y

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        x = xs[0].view(-1, self.width)
        y = self.rows(x)
        return y.view(self.shape), (x, y, xs[0].shape)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        x, y, shape = saved
        dy = dy.view(y.shape)
        if self.relu:
            dy = relu_grad(dy, y)  # (N, O)
        found = {"weight": t_matmul(dy, x).view(-1), "bias": self.summed(dy)}
        return [matmul(dy, self.weight).view(shape) if needs[0] else None], found


class LSTM(Block):
    """(T, B, D) -> the last hidden state (B, H), also for B = 1; with `sequence` those of all steps (T, B, H)."""

    def bind(self, tensors: Tensors) -> None:
        self.keep(weight_ih=tensors["weight_ih_l0"], weight_hh=tensors["weight_hh_l0"],  # (4H, D), (4H, H)
                  bias_ih=tensors["bias_ih_l0"], bias_hh=tensors["bias_hh_l0"])  # (4H,)
        self.width, self.hidden = self.weight_ih.shape[1], self.weight_hh.shape[1]
        self.sequence = self.node.options.get("sequence", False)
        self.kernel, self.gradient = lstm_pair(self.width, self.hidden)

    def construct(self, x: Tensor) -> Tensor:
        start = ops.zeros((1, x.shape[1], self.hidden), x.dtype)  # (1, B, H)
        y, last, _, _, _ = self.kernel(x, start, start, self.joined())
        return y if self.sequence else last[0]

    def joined(self) -> Tensor:
        """All weights as the kernel takes them, with one bias for two: a vector of shape (W, 1, 1)."""
        bias = add(self.bias_ih, self.bias_hh)
        return concat((self.weight_ih.view(-1), self.weight_hh.view(-1), bias)).view(-1, 1, 1)

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        x = xs[0]
        start, flat = zeros((1, x.shape[1], self.hidden), self.dtype), self.joined()
        y, last, cell, reserved, _ = self.kernel(x, start, start, flat)
        return y if self.sequence else last.view(start.shape[1:]), (x, start, flat, y, last, cell, reserved)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        x, start, flat, y, last, cell, reserved = saved
        of_all, of_last = (dy, start) if self.sequence else (zeros(y.shape, self.dtype), dy.view(start.shape))
        dx, _, _, joined = self.gradient(x, start, start, flat, y, last, cell, of_all, of_last, start, reserved)
        joined = joined.view(-1)
        ends = (0, 4 * self.hidden * self.width, 4 * self.hidden * (self.width + self.hidden), joined.shape[0])
        weight_ih, weight_hh, bias = (ops.narrow(joined, 0, start, stop - start) for start, stop in pairwise(ends))
        return [dx], {"weight_ih_l0": weight_ih, "weight_hh_l0": weight_hh, "bias_ih_l0": bias, "bias_hh_l0": bias}


class Dropout(Block):
    """A value and its mask; without one, everything passes."""

    def construct(self, x: Tensor) -> Tensor:
        return x

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return mul(xs[0], xs[1]), xs[1]

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        return [mul(dy, saved) if needs[0] else None], {}


class Concat(Block):
    """(B, A), (B, C), ... -> (B, A + C + ...), or (T, B, A), (T, B, C), ... -> (T, B, A + C + ...)."""

    def construct(self, *xs: Tensor) -> Tensor:
        return concat_last(xs)

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return concat_last(tuple(xs)), [x.shape for x in xs]

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        if dy.ndim == 2:
            starts = [sum(width for _, width in saved[:place]) for place in range(len(saved))]
            return [ops.narrow(dy, 1, start, width) for start, (_, width) in zip(starts, saved, strict=True)], {}
        widths = tuple(shape[-1] for shape in saved)
        pieces, rows = dy.view(-1, math.gcd(*widths)), dy.shape[0] * dy.shape[1]  # what all widths are made of
        return [gather(pieces, numbers(columns, rows, place, *widths), 0).view(shape) if needed else None
                for place, (shape, needed) in enumerate(zip(saved, needs, strict=True))], {}


def columns(rows: int, place: int, *widths: int) -> Array:
    """Where the columns of input `place` lie in rows of `widths` side by side, counted in their common divisor."""
    unit = math.gcd(*widths)
    start, stop = sum(widths[:place]) // unit, sum(widths[:place + 1]) // unit
    found: Array = np.arange(rows * sum(widths) // unit).reshape(rows, -1)[:, start:stop]
    return found


class Add(Block):
    """Values of one shape -> their sum."""

    def construct(self, *xs: Tensor) -> Tensor:
        y = xs[0]
        for x in xs[1:]:
            y = add(y, x)
        return y

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return self.construct(*xs), None

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        return [dy] * len(needs), {}


class ScaledSigmoid(Block):
    """(B, O) -> (B, O) between the node's `low` and `high`."""

    def bind(self, tensors: Tensors) -> None:
        low, high = self.node["low"], self.node["high"]
        self.low, self.range = constant(low, self.dtype), constant(high - low, self.dtype)

    def construct(self, x: Tensor) -> Tensor:
        return add(mul(sigmoid(x), self.range), self.low)

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        share = sigmoid(xs[0])
        return add(mul(share, self.range), self.low), share

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        return [sigmoid_grad(saved, mul(dy, self.range)) if needs[0] else None], {}


def own_shape(ref: Ref) -> tuple[int, ...]:
    """The shape of a value of any number of rows: (B, A), or time first (T, B, A)."""
    return (ref.shape[0], -1, *ref.shape[1:]) if ref.layout == "sequence" else (-1, *ref.shape)


class LSTM64(LSTM):
    """(T, B, D) -> the last hidden state (B, H), or those of all steps (T, B, H)."""

    def construct(self, x: Tensor) -> Tensor:
        return self.unrolled(x)[0]

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return self.unrolled(xs[0])

    def unrolled(self, x: Tensor) -> tuple[Tensor, Saved]:
        """The output, and what every step gave."""
        steps, rows, width = x.shape
        flat = x.view(-1, width)  # (T, B, D) -> (T B, D)
        projected = add(matmul_t(flat, self.weight_ih), add(self.bias_ih, self.bias_hh))  # (T B, 4H)
        h = cell = zeros((rows, self.hidden), self.dtype)  # (B, H)
        states, cells, gates = [h], [cell], []
        for step in range(steps):
            total = add(ops.narrow(projected, 0, step * rows, rows), matmul_t(h, self.weight_hh))  # (B, 4H)
            i, f, g, o = split_gates(total)
            i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)  # (B, H) each
            cell = add(mul(f, cell), mul(i, g))
            squashed = tanh(cell)
            gates.append((i, f, g, o, squashed))
            h = mul(o, squashed)
            states.append(h)
            cells.append(cell)
        y = concat(tuple(states[1:])).view(steps, rows, -1) if self.sequence else h
        return y, (flat, states, cells, gates)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        flat, states, cells, gates = saved
        dcell = zeros(states[0].shape, self.dtype)
        dh = dcell if self.sequence else dy
        totals = []
        for step in reversed(range(len(gates))):
            i, f, g, o, squashed = gates[step]
            dh = add(dh, dy[step]) if self.sequence else dh  # (B, H)
            dcell = add(dcell, tanh_grad(squashed, mul(dh, o)))
            total = concat_columns((sigmoid_grad(i, mul(dcell, g)), sigmoid_grad(f, mul(dcell, cells[step])),
                                    tanh_grad(g, mul(dcell, i)), sigmoid_grad(o, mul(dh, squashed))))  # (B, 4H)
            totals.append(total)
            dh, dcell = matmul(total, self.weight_hh), mul(dcell, f)
        stacked = concat(tuple(reversed(totals)))  # (T B, 4H)
        bias = bias_grad(stacked)
        hidden = concat(tuple(states[:-1]))  # (T B, H): before each step
        dx = matmul(stacked, self.weight_ih).view(len(gates), *dcell.shape[:1], -1) if needs[0] else None  # (T, B, D)
        return [dx], {"weight_ih_l0": t_matmul(stacked, flat).view(-1),
                      "weight_hh_l0": t_matmul(stacked, hidden).view(-1), "bias_ih_l0": bias, "bias_hh_l0": bias}


BLOCKS = {"linear": Linear, "lstm": LSTM, "concat": Concat, "add": Add, "scaled_sigmoid": ScaledSigmoid,
          DROPOUT: Dropout}
# In float64. MindSpore's CPU kernel of LSTM has none, and some operators accept it and compute in float32
# (docs/divergences.md has the sizes); these blocks are made of operators that really compute in it.
BLOCKS64 = {**BLOCKS, "lstm": LSTM64}
