"""MindSpore's operators, as objects: a functional call looks its operator up each time, which costs as much as it does.

Those of `grad_ops` are not part of the public interface: they are the ways back that MindSpore's own differentiation
takes. Called here, a block's way back is a few operators; differentiated by MindSpore it costs several times that.
"""
from __future__ import annotations

from functools import lru_cache

import mindspore
import numpy as np
from mindspore import Tensor, ops
from mindspore.ops.operations import _grad_ops as grad_ops

from core.common.constants import BATCHNORM_EPS, BATCHNORM_MOMENTUM

add, sub, mul, div, square = ops.Add(), ops.Sub(), ops.Mul(), ops.RealDiv(), ops.Square()
sqrt, exp, log, sigmoid, tanh, relu = ops.Sqrt(), ops.Exp(), ops.Log(), ops.Sigmoid(), ops.Tanh(), ops.ReLU()
absolute, sign, minimum = ops.Abs(), ops.Sign(), ops.Minimum()
bias_add, assign, assign_add = ops.BiasAdd(), ops.Assign(), ops.AssignAdd()
matmul, matmul_t, t_matmul = ops.MatMul(), ops.MatMul(transpose_b=True), ops.MatMul(transpose_a=True)
batch_matmul = ops.BatchMatMul()
concat, concat_columns, split_gates = ops.Concat(0), ops.Concat(1), ops.Split(1, 4)
row_max, row_sum = ops.ReduceMax(True), ops.ReduceSum(True)
bias_grad, relu_grad = grad_ops.BiasAddGrad(), grad_ops.ReluGrad()
sigmoid_grad, tanh_grad = grad_ops.SigmoidGrad(), grad_ops.TanhGrad()
# first arguments: in training; momentum in torch's sense, and the running variance is unbiased
batch_norm = ops.BatchNorm(True, BATCHNORM_EPS, BATCHNORM_MOMENTUM)
batch_norm_grad = grad_ops.BatchNormGrad(True, BATCHNORM_EPS)
cross_entropy = ops.SoftmaxCrossEntropyWithLogits()


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


def lstm_pair(width: int, hidden: int) -> tuple[ops.Primitive, ops.Primitive]:
    """The operator of one LSTM layer and its gradient."""
    options = (width, hidden, 1, True, False, 0.0)  # layers, biases, bidirectional, dropout
    return ops.LSTM(*options), grad_ops.LSTMGrad(*options)
