"""Precision in MindSpore: float32 by its own kernels, float64 by primitives.

MindSpore's CPU kernels of LSTM, BatchNorm and cross-entropy have no float64, and some operators accept it and
compute in float32; docs/divergences.md has the sizes. `Kernels64` builds these from operators that don't.
"""
from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import mindspore
import numpy as np
from mindspore import Tensor, ops
from mindspore.ops.operations import _grad_ops as grad_ops

from core.config import Config
from core.errors import UserError
from core.models import BATCHNORM_EPS, BATCHNORM_MOMENTUM

# Operators as objects: a functional call looks its operator up each time.
add, sub, mul, div, square = ops.Add(), ops.Sub(), ops.Mul(), ops.RealDiv(), ops.Square()
sqrt, exp, log, sigmoid, tanh, relu = ops.Sqrt(), ops.Exp(), ops.Log(), ops.Sigmoid(), ops.Tanh(), ops.ReLU()
absolute, sign, bias_add, assign, assign_add = ops.Abs(), ops.Sign(), ops.BiasAdd(), ops.Assign(), ops.AssignAdd()
matmul, matmul_t, t_matmul = ops.MatMul(), ops.MatMul(transpose_b=True), ops.MatMul(transpose_a=True)
batch_matmul = ops.BatchMatMul()
concat, concat_columns, split_gates = ops.Concat(0), ops.Concat(1), ops.Split(1, 4)
row_max, row_sum = ops.ReduceMax(True), ops.ReduceSum(True)
bias_grad, relu_grad = grad_ops.BiasAddGrad(), grad_ops.ReluGrad()
sigmoid_grad, tanh_grad = grad_ops.SigmoidGrad(), grad_ops.TanhGrad()

Saved = tuple[Any, ...]  # what a backward pass needs of its forward pass


def check_precision(config: Config) -> None:
    """Refuse what this framework can't do. Raises UserError."""
    if config.amp_level != "O0":
        raise UserError(f"amp_level = {config.amp_level!r}: the mindspore backend has O0 so far; use --amp_level O0, "
                        "or the torch backend for O1")


def make_kernels(config: Config) -> Kernels:
    """The layers in the run's precision."""
    return Kernels64() if config.precision == "float64" else Kernels()


def constant(value: float, dtype: mindspore.dtype) -> Tensor:
    """A scalar tensor. A Python float passes through float32, also on its way to a float64 operator."""
    return Tensor(np.asarray(value), dtype)


@lru_cache
def zeros(shape: tuple[int, ...], dtype: mindspore.dtype) -> Tensor:
    """Zeros, made once per shape: nothing writes to them."""
    return Tensor(np.zeros(shape), dtype)


@lru_cache
def ones(shape: tuple[int, ...], dtype: mindspore.dtype) -> Tensor:
    """Ones, in the same way."""
    return Tensor(np.ones(shape), dtype)


@lru_cache
def lstm_pair(width: int, hidden: int) -> tuple[ops.Primitive, ops.Primitive]:
    """The operator of one LSTM layer and its gradient, made once per size."""
    options = (width, hidden, 1, True, False, 0.0)  # layers, biases, bidirectional, dropout
    return ops.LSTM(*options), grad_ops.LSTMGrad(*options)


class Kernels:
    """The layers that need a kernel of their own, forward and backward, in float32."""

    dtype = mindspore.float32

    def __init__(self) -> None:
        self.eps = constant(BATCHNORM_EPS, self.dtype)
        self.norm = ops.BatchNorm(True, BATCHNORM_EPS, BATCHNORM_MOMENTUM)  # momentum in torch's sense, unbiased
        self.norm_grad = grad_ops.BatchNormGrad(True, BATCHNORM_EPS)
        self.entropy = ops.SoftmaxCrossEntropyWithLogits()

    def batch_norm(self, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor,
                   train: bool) -> tuple[Tensor, Saved]:
        """(B, A) -> (B, A); in training the running `mean` and `var`, (A,), change in place.

        One row has no variance: BatchNorm then works as in evaluation and its statistics stay.
        """
        if train and len(x) > 1:
            return self._batch_norm_train(x, weight, bias, mean, var)
        return self._normalise(sub(x, mean), var, weight, bias)

    def _normalise(self, centred: Tensor, var: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Saved]:
        unit = div(centred, sqrt(add(var, self.eps)))  # (B, A)
        return add(mul(unit, weight), bias), (unit,)

    def _batch_norm_train(self, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor,
                          var: Tensor) -> tuple[Tensor, Saved]:
        y, _, updated, *reserved = self.norm(x, weight, bias, mean, var)
        return y, (x, weight, *reserved, updated)

    def batch_norm_grad(self, dy: Tensor, saved: Saved) -> tuple[Tensor, Tensor]:
        """Gradients of weight and bias, (A,) each. That of x is nobody's: x is data."""
        if len(saved) > 1:
            return self.norm_grad(dy, *saved)[1:3]
        return bias_grad(mul(dy, saved[0])), bias_grad(dy)

    def lstm(self, x: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, Saved]:
        """(T, B, D) -> the last hidden state (B, H). Weights (4H, D), (4H, H), two biases (4H,)."""
        w_ih, w_hh, b_ih, b_hh = weights
        start = zeros((1, x.shape[1], w_hh.shape[1]), self.dtype)  # (1, B, H)
        flat = concat((w_ih.view(-1), w_hh.view(-1), add(b_ih, b_hh))).view(-1, 1, 1)  # one bias, one vector
        y, last, cell, reserved, _ = lstm_pair(w_ih.shape[1], w_hh.shape[1])[0](x, start, start, flat)
        return last.view(start.shape[1:]), (x, start, flat, y, last, cell, reserved, w_ih.shape[1])

    def lstm_grad(self, dh: Tensor, saved: Saved) -> list[Tensor]:
        """Gradients of the four weights, flat, from that of the last hidden state (B, H)."""
        x, start, flat, y, last, cell, reserved, width = saved
        hidden = dh.shape[1]
        flat_grad = lstm_pair(width, hidden)[1](x, start, start, flat, y, last, cell, zeros(y.shape, self.dtype),
                                                dh.view(start.shape), start, reserved)[3].view(-1)
        ends = (0, 4 * hidden * width, 4 * hidden * (width + hidden), flat_grad.shape[0])
        parts = [ops.narrow(flat_grad, 0, begin, end - begin) for begin, end in pairwise(ends)]
        return [*parts, parts[2]]  # both biases have the same

    def cross_entropy(self, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (B,), and the gradient of their sum (B, C). `label` (B, C) is one-hot."""
        losses, gradient = self.entropy(output, label)
        return losses, gradient


class Kernels64(Kernels):
    """The same in float64, from operators that really compute in it."""

    dtype = mindspore.float64

    def _batch_norm_train(self, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor,
                          var: Tensor) -> tuple[Tensor, Saved]:
        rows = len(x)
        share = constant(1 / rows, self.dtype)
        batch_mean = mul(bias_grad(x), share)  # (A,); the bias gradient is the sum over rows
        centred = sub(x, batch_mean)
        squares = bias_grad(square(centred))  # (A,)
        for running, new in ((mean, batch_mean), (var, mul(squares, constant(1 / (rows - 1), self.dtype)))):
            assign(running, add(mul(running, constant(1 - BATCHNORM_MOMENTUM, self.dtype)),
                                mul(new, constant(BATCHNORM_MOMENTUM, self.dtype))))
        return self._normalise(centred, mul(squares, share), weight, bias)

    def lstm(self, x: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, Saved]:
        w_ih, w_hh, b_ih, b_hh = weights
        steps, rows, width = x.shape
        flat = x.view(-1, width)  # (T, B, D) -> (T B, D)
        projected = add(matmul_t(flat, w_ih), add(b_ih, b_hh))  # (T B, 4H)
        h = cell = zeros((rows, w_hh.shape[1]), self.dtype)  # (B, H)
        before, gates = [], []
        for step in range(steps):
            total = add(ops.narrow(projected, 0, step * rows, rows), matmul_t(h, w_hh))  # (B, 4H)
            i, f, g, o = split_gates(total)
            i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)  # (B, H) each
            before.append((h, cell))
            cell = add(mul(f, cell), mul(i, g))
            squashed = tanh(cell)
            gates.append((i, f, g, o, squashed))
            h = mul(o, squashed)
        return h, (flat, w_hh, before, gates)

    def lstm_grad(self, dh: Tensor, saved: Saved) -> list[Tensor]:
        flat, w_hh, before, gates = saved
        dcell = zeros(dh.shape, self.dtype)
        totals = []
        for (_, cell), (i, f, g, o, squashed) in zip(reversed(before), reversed(gates), strict=True):
            dcell = add(dcell, tanh_grad(squashed, mul(dh, o)))  # (B, H)
            total = concat_columns((sigmoid_grad(i, mul(dcell, g)), sigmoid_grad(f, mul(dcell, cell)),
                                    tanh_grad(g, mul(dcell, i)), sigmoid_grad(o, mul(dh, squashed))))  # (B, 4H)
            totals.append(total)
            dh, dcell = matmul(total, w_hh), mul(dcell, f)
        stacked = concat(tuple(reversed(totals)))  # (T B, 4H)
        bias = bias_grad(stacked)
        hidden = concat(tuple(h for h, _ in before))  # (T B, H)
        return [t_matmul(stacked, flat).view(-1), t_matmul(stacked, hidden).view(-1), bias, bias]

    def cross_entropy(self, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        shifted = sub(output, row_max(output, 1))  # (B, C)
        powers = exp(shifted)
        total = row_sum(powers, 1)  # (B, 1)
        return sub(log(total), row_sum(mul(shifted, label), 1)).view(-1), sub(div(powers, total), label)
