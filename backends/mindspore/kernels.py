"""MindSpore's operators, as objects: a functional call looks its operator up each time, which costs as much as it does.

Those of `grad_ops` are not part of the public interface: they are the ways back that MindSpore's own differentiation
takes. Called here, a block's way back is a few operators; differentiated by MindSpore it costs several times that.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import mindspore
import numpy as np
from mindspore import Tensor, mint, ops
from mindspore.ops.operations import _grad_ops as grad_ops

from core.common.arrays import Array
from core.common.constants import BATCHNORM_EPS, BATCHNORM_MOMENTUM, LAYERNORM_EPS

add, sub, mul, div, square = ops.Add(), ops.Sub(), ops.Mul(), ops.RealDiv(), ops.Square()
sqrt, exp, log, sigmoid, tanh, relu = ops.Sqrt(), ops.Exp(), ops.Log(), ops.Sigmoid(), ops.Tanh(), ops.ReLU()
absolute, sign, minimum = ops.Abs(), ops.Sign(), ops.Minimum()
bias_add, assign, assign_add = ops.BiasAdd(), ops.Assign(), ops.AssignAdd()
matmul, matmul_t, t_matmul = ops.MatMul(), ops.MatMul(transpose_b=True), ops.MatMul(transpose_a=True)
batch_matmul, batch_matmul_t = ops.BatchMatMul(), ops.BatchMatMul(transpose_b=True)
batch_t_matmul = ops.BatchMatMul(transpose_a=True)
concat, concat_columns, concat_last = ops.Concat(0), ops.Concat(1), ops.Concat(-1)
split_gates, split_pair = ops.Split(1, 4), ops.Split(0, 2)
row_max, row_sum, row_mean, axis_sum = ops.ReduceMax(True), ops.ReduceSum(True), ops.ReduceMean(True), ops.ReduceSum()
softmax, gather, tile, maximum = ops.Softmax(-1), ops.Gather(), ops.Tile(), ops.Maximum()
bias_grad, relu_grad = grad_ops.BiasAddGrad(), grad_ops.ReluGrad()
sigmoid_grad, tanh_grad = grad_ops.SigmoidGrad(), grad_ops.TanhGrad()
# first arguments: in training; momentum in torch's sense, and the running variance is unbiased
batch_norm = ops.BatchNorm(True, BATCHNORM_EPS, BATCHNORM_MOMENTUM)
batch_norm_grad = grad_ops.BatchNormGrad(True, BATCHNORM_EPS)
# over the last axis; gives the rows' mean and variance too
layer_norm = ops.LayerNorm(-1, -1, LAYERNORM_EPS)
cross_entropy = ops.SoftmaxCrossEntropyWithLogits()
cast, select, is_finite, all_true, both = ops.Cast(), ops.Select(), ops.IsFinite(), ops.ReduceAll(), ops.LogicalAnd()


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
def _room(shape: tuple[int, ...], dtype: mindspore.dtype) -> Tensor:
    """Made once per shape, to be written to and read at once."""
    return Tensor(np.zeros(shape), dtype)


def rounded(x: Tensor, dtype: mindspore.dtype) -> Tensor:
    """`x` rounded to `dtype` and back: what two Casts give, bit for bit, each of which takes 0.6 ms on the CPU, however
    small, where a copy takes 0.014 ms.
    """
    room, y = _room(x.shape, dtype), mint.empty_like(x)
    room.copy_(x)
    y.copy_(room)
    return y


def in_dtype(x: Tensor, dtype: mindspore.dtype) -> Tensor:
    """`x` itself where it has that dtype already: a Cast to its own dtype costs as much as any."""
    return x if x.dtype == dtype else cast(x, dtype)


def lstm_pair(width: int, hidden: int) -> tuple[ops.Primitive, ops.Primitive]:
    """The operator of one LSTM layer and its gradient."""
    options = (width, hidden, 1, True, False, 0.0)  # layers, biases, bidirectional, dropout
    return ops.LSTM(*options), grad_ops.LSTMGrad(*options)


def spread(column: Tensor, row: Tensor) -> Tensor:
    """(N, 1), (1, A) -> (N, A). Mul and Add broadcast ten times as slowly as this, Sub and RealDiv three times."""
    return matmul(column, row)


def column_sums(x: Tensor) -> Tensor:
    """(N, A) -> (A,), where there are many rows: a quarter of what BiasAddGrad takes."""
    return matmul(ones((1, len(x)), x.dtype), x).view(-1)


@lru_cache
def numbers(find: Callable[..., Array], *sizes: int) -> Tensor:
    """The numbers of rows that `find` gives for `sizes`, made once: for `gather`.

    It copies rows one after the other. What lies otherwise in memory (a part of the last axis, other axes in front) is
    a view to MindSpore, and each operator that takes it first brings it in order, number by number: 20 times as slow.
    """
    return Tensor(find(*sizes).ravel().astype(np.int32))
