"""Blocks in float64, from operators that really compute in it.

MindSpore's CPU kernels of LSTM and BatchNorm have no float64, and some operators accept it and compute in float32;
docs/divergences.md has the sizes.
"""
from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, ops

from backends.mindspore.blocks import LSTM, Back, BatchNorm, Saved
from backends.mindspore.kernels import (
    add,
    assign,
    bias_grad,
    concat,
    concat_columns,
    constant,
    div,
    matmul,
    matmul_t,
    mul,
    sigmoid,
    sigmoid_grad,
    split_gates,
    sqrt,
    square,
    sub,
    t_matmul,
    tanh,
    tanh_grad,
    zeros,
)
from core.common.constants import BATCHNORM_MOMENTUM


class BatchNorm64(BatchNorm):
    """(B, A) -> (B, A)."""

    def trained(self, x: Tensor) -> tuple[Tensor, Saved]:
        rows = len(x)
        share = constant(1 / rows, self.dtype)
        batch_mean = mul(bias_grad(x), share)  # (A,); the bias gradient is the sum over rows
        centred = sub(x, batch_mean)
        squares = bias_grad(square(centred))  # (A,)
        for running, new in ((self.running_mean, batch_mean),
                             (self.running_var, mul(squares, constant(1 / (rows - 1), self.dtype)))):
            assign(running, add(mul(running, constant(1 - BATCHNORM_MOMENTUM, self.dtype)),
                                mul(new, constant(BATCHNORM_MOMENTUM, self.dtype))))
        var = mul(squares, share)
        y, unit = self.normalised(centred, var)
        return y, (unit, var, share)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        if not isinstance(saved, tuple):  # a single row
            return super().backward(dy, saved, needs)
        unit, var, share = saved
        weight, bias = bias_grad(mul(dy, unit)), bias_grad(dy)  # (A,)
        dx = None
        if needs[0]:  # less what the batch's mean and variance take of it: (B, A)
            rest = sub(sub(dy, mul(bias, share)), mul(unit, mul(weight, share)))
            dx = div(mul(rest, self.weight), sqrt(add(var, self.eps)))
        return [dx], {"weight": weight, "bias": bias}


class LSTM64(LSTM):
    """(T, B, D) -> the last hidden state (B, H)."""

    def construct(self, x: Tensor) -> Tensor:
        return self.unrolled(x)[0]

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return self.unrolled(xs[0])

    def unrolled(self, x: Tensor) -> tuple[Tensor, Saved]:
        """The last hidden state, and what every step gave."""
        steps, rows, width = x.shape
        flat = x.view(-1, width)  # (T, B, D) -> (T B, D)
        projected = add(matmul_t(flat, self.weight_ih), add(self.bias_ih, self.bias_hh))  # (T B, 4H)
        h = cell = zeros((rows, self.hidden), self.dtype)  # (B, H)
        before, gates = [], []
        for step in range(steps):
            total = add(ops.narrow(projected, 0, step * rows, rows), matmul_t(h, self.weight_hh))  # (B, 4H)
            i, f, g, o = split_gates(total)
            i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)  # (B, H) each
            before.append((h, cell))
            cell = add(mul(f, cell), mul(i, g))
            squashed = tanh(cell)
            gates.append((i, f, g, o, squashed))
            h = mul(o, squashed)
        return h, (flat, before, gates)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        flat, before, gates = saved
        dh, dcell = dy, zeros(dy.shape, self.dtype)
        totals = []
        for (_, cell), (i, f, g, o, squashed) in zip(reversed(before), reversed(gates), strict=True):
            dcell = add(dcell, tanh_grad(squashed, mul(dh, o)))  # (B, H)
            total = concat_columns((sigmoid_grad(i, mul(dcell, g)), sigmoid_grad(f, mul(dcell, cell)),
                                    tanh_grad(g, mul(dcell, i)), sigmoid_grad(o, mul(dh, squashed))))  # (B, 4H)
            totals.append(total)
            dh, dcell = matmul(total, self.weight_hh), mul(dcell, f)
        stacked = concat(tuple(reversed(totals)))  # (T B, 4H)
        bias = bias_grad(stacked)
        hidden = concat(tuple(h for h, _ in before))  # (T B, H)
        dx = matmul(stacked, self.weight_ih).view(len(before), *dy.shape[:1], -1) if needs[0] else None  # (T, B, D)
        return [dx], {"weight_ih_l0": t_matmul(stacked, flat).view(-1),
                      "weight_hh_l0": t_matmul(stacked, hidden).view(-1), "bias_ih_l0": bias, "bias_hh_l0": bias}


BLOCKS = {"batch_norm": BatchNorm64, "lstm": LSTM64}
