"""The general blocks in MindSpore: what core/models/blocks.py has in NumPy, forward and back.

A block is a cell. `construct` gives its output in evaluation, also in an exported program; `forward` that of train
mode, with what `backward` needs of it. The way back is written out, because in MindSpore's synchronous mode an operator
costs about 0.05 ms and its automatic differentiation several times that; `Differentiated` is for blocks in which
arithmetic costs more than operators. What float64 needs otherwise is in blocks64.py.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import mindspore
from mindspore import Parameter, Tensor, nn, ops

from backends.mindspore.kernels import (
    add,
    batch_norm,
    batch_norm_grad,
    bias_add,
    bias_grad,
    concat,
    concat_columns,
    constant,
    div,
    lstm_pair,
    matmul,
    matmul_t,
    mul,
    relu,
    relu_grad,
    sqrt,
    sub,
    t_matmul,
    zeros,
)
from core.common.constants import BATCHNORM_EPS
from core.models.graph import DROPOUT, STATISTICS, Node

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

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        """The output in train mode, and what the way back needs."""
        raise NotImplementedError

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        """From the gradient of the output to those of the inputs that are needed, and of the parameters."""
        raise NotImplementedError


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

        wanted = tuple(place for place, needed in enumerate(needs) if needed)
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
    """(B, I) -> (B, O), with ReLU where the node says so."""

    def bind(self, tensors: Tensors) -> None:
        self.keep(weight=tensors["weight"], bias=tensors["bias"])
        self.relu = self.node.options.get("activation") == "relu"

    def construct(self, x: Tensor) -> Tensor:
        y = bias_add(matmul_t(x, self.weight), self.bias)
        if self.relu:
            y = relu(y)
        return y

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        y = self.construct(xs[0])
        return y, (xs[0], y)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        x, y = saved
        if self.relu:
            dy = relu_grad(dy, y)  # (B, O)
        found = {"weight": t_matmul(dy, x).view(-1), "bias": bias_grad(dy)}
        return [matmul(dy, self.weight) if needs[0] else None], found  # (B, I)


class BatchNorm(Block):
    """(B, A) -> (B, A). One row has no variance: it is normalised as in evaluation, and the statistics stay."""

    def bind(self, tensors: Tensors) -> None:
        self.keep(**{key: tensors[key] for key in ("weight", "bias", "running_mean", "running_var")})
        self.eps = constant(BATCHNORM_EPS, self.dtype)

    def construct(self, x: Tensor) -> Tensor:
        return self.normalised(sub(x, self.running_mean), self.running_var)[0]

    def normalised(self, centred: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and what it is before weight and bias: (B, A) both."""
        unit = div(centred, sqrt(add(var, self.eps)))
        return add(mul(unit, self.weight), self.bias), unit

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        if len(xs[0]) > 1:
            return self.trained(xs[0])
        return self.normalised(sub(xs[0], self.running_mean), self.running_var)

    def trained(self, x: Tensor) -> tuple[Tensor, Saved]:
        """By the batch's own statistics; the running ones change in place."""
        y, _, updated, *reserved = batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var)
        return y, (x, self.weight, *reserved, updated)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        if isinstance(saved, tuple):
            dx, weight, bias = batch_norm_grad(dy, *saved)[:3]
            return [dx], {"weight": weight, "bias": bias}
        found = {"weight": bias_grad(mul(dy, saved)), "bias": bias_grad(dy)}
        return [self.slope(dy, saved) if needs[0] else None], found

    def slope(self, dy: Tensor, unit: Tensor) -> Tensor:
        """Of the input, where the running statistics normalised it: (B, A)."""
        return div(mul(dy, self.weight), sqrt(add(self.running_var, self.eps)))


class LSTM(Block):
    """(T, B, D) -> the last hidden state (B, H), also for B = 1."""

    def bind(self, tensors: Tensors) -> None:
        self.keep(weight_ih=tensors["weight_ih_l0"], weight_hh=tensors["weight_hh_l0"],  # (4H, D), (4H, H)
                  bias_ih=tensors["bias_ih_l0"], bias_hh=tensors["bias_hh_l0"])  # (4H,)
        self.width, self.hidden = self.weight_ih.shape[1], self.weight_hh.shape[1]
        self.kernel, self.gradient = lstm_pair(self.width, self.hidden)

    def construct(self, x: Tensor) -> Tensor:
        start = ops.zeros((1, x.shape[1], self.hidden), x.dtype)  # (1, B, H)
        return self.kernel(x, start, start, self.joined())[1][0]

    def joined(self) -> Tensor:
        """All weights as the kernel takes them, with one bias for two: a vector of shape (W, 1, 1)."""
        bias = add(self.bias_ih, self.bias_hh)
        return concat((self.weight_ih.view(-1), self.weight_hh.view(-1), bias)).view(-1, 1, 1)

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        x = xs[0]
        start, flat = zeros((1, x.shape[1], self.hidden), self.dtype), self.joined()
        y, last, cell, reserved, _ = self.kernel(x, start, start, flat)
        return last.view(start.shape[1:]), (x, start, flat, y, last, cell, reserved)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        x, start, flat, y, last, cell, reserved = saved
        dx, _, _, joined = self.gradient(x, start, start, flat, y, last, cell, zeros(y.shape, self.dtype),
                                         dy.view(start.shape), start, reserved)
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
    """(B, A), (B, C), ... -> (B, A + C + ...)."""

    def construct(self, *xs: Tensor) -> Tensor:
        return concat_columns(xs)

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return concat_columns(tuple(xs)), [x.shape[1] for x in xs]

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        starts = [sum(saved[:place]) for place in range(len(saved))]
        return [ops.narrow(dy, 1, start, width) for start, width in zip(starts, saved, strict=True)], {}


BLOCKS = {"linear": Linear, "batch_norm": BatchNorm, "lstm": LSTM, "concat": Concat, DROPOUT: Dropout}
