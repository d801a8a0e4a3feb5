"""Paddle's own kernels (`paddle._C_ops`), which `paddle.nn` calls in the end, each with the reason to call it here.

At batch 16 the argument checks of `paddle.nn` cost as much as the arithmetic. What is called by position says here what
the positions mean; the rest of the backend calls `ops` by name where nothing has to be said.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor

from core.common.constants import LAYERNORM_EPS

ops: Any = paddle._C_ops  # Any, because its type stubs lag behind
EXACT_EPS = 2.0**-17  # near LAYERNORM_EPS, and float32 has all powers of two
Place = Any  # paddle.CPUPlace, paddle.CUDAPlace or paddle.CustomPlace: three classes without a base


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, I) -> (B, O), or (T, B, I) -> (T, B, O), one kernel for product and sum; weight (I, O).

    The last two: factors of bias and product. Its backward pass crashes unless the bias asks for a gradient; that of a
    frozen one does, too.
    """
    if len(x.shape) == 2:
        y: Tensor = ops.addmm(bias, x, weight, 1.0, 1.0)
        return y
    steps, _, width = x.shape
    y = ops.addmm(bias, ops.reshape(x, [-1, width]), weight, 1.0, 1.0)  # (T B, I) -> (T B, O)
    y = ops.reshape(y, [steps, -1, weight.shape[1]])
    return y


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """(..., A) -> (..., A), over the last axis; scale and shift may be None.

    The kernel rounds eps to float32, which in float64 is 2e-13 off. There it is given x times s and eps times s^2, a
    power of two: the quotient is the same.
    """
    eps = LAYERNORM_EPS
    if x.dtype == paddle.float64:
        x, eps = scaled(x, math.sqrt(EXACT_EPS / eps)), EXACT_EPS
    y: Tensor = ops.layer_norm(x, weight, bias, eps, len(x.shape) - 1)
    return y


def filled(like: Tensor, shape: Sequence[int], value: float, place: Place, like_axis: int = 0, axis: int = 0) -> Tensor:
    """A tensor of `value` whose `axis` is as long as `like_axis` of `like`, also in a traced program."""
    y: Tensor = ops.full_batch_size_like(like, list(shape), like.dtype, value, like_axis, axis, place)
    return y


def lstm(x: Tensor, weights: Sequence[Tensor], dropout_state: Tensor, hidden: int, train: bool,
         place: Place) -> tuple[Tensor, Tensor]:
    """One layer, (T, B, D) -> all hidden states (T, B, H) and the last one (1, B, H).

    nn.LSTM's own kernel without its argument checks; arguments: row lengths, dropout state and rate, bidirectional,
    sizes, layers, mode, seed, evaluation. It has no half precision on any device.
    """
    x, weights = wide(x), [wide(weight) for weight in weights]
    if not train and paddle.in_dynamic_mode():
        # CUDA's evaluation moves weights that don't lie one after the other, as when some are frozen: not the network's
        weights = [weight.detach() for weight in weights]
    zeros = filled(x, [1, -1, hidden], 0.0, place, 1, 1)  # (1, B, H)
    states, _, (last, _) = ops.rnn(x, [zeros, zeros], weights, None, dropout_state, 0.0, False, x.shape[2],
                                   hidden, 1, "LSTM", 0, not train)
    return states, last


def scaled(x: Tensor, factor: float, offset: float = 0.0) -> Tensor:
    """x * factor + offset. The last argument: the offset is added after."""
    y: Tensor = ops.scale(x, factor, offset, True)
    return y


def scale_(x: Tensor, factor: float, offset: float = 0.0) -> Tensor:
    """The same in place."""
    y: Tensor = ops.scale_(x, factor, offset, True)
    return y


def times_(x: Tensor, factor: float | Tensor, offset: float = 0.0) -> Tensor:
    """The same in place, by a number or by a tensor () on the device, which `scale_` would read to the host."""
    if not isinstance(factor, Tensor):
        return scale_(x, factor, offset)
    y: Tensor = ops.multiply_(x, factor)
    return scale_(y, 1.0, offset) if offset else y


def cast(x: Tensor, dtype: paddle.dtype) -> Tensor:
    """x in `dtype`; x itself where it is: the kernel would copy it."""
    y: Tensor = x if x.dtype == dtype else ops.cast(x, dtype)
    return y


def wide(x: Tensor) -> Tensor:
    """A tensor in half precision in float32, for what half has no kernel or no range for; others as they are."""
    return cast(x, paddle.float32) if x.dtype in (paddle.float16, paddle.bfloat16) else x


def total(x: Tensor, axes: Sequence[int] = ()) -> Tensor:
    """The sum over `axes`, over all without. The last two: dtype as x, axes dropped."""
    y: Tensor = ops.sum(x, list(axes), None, False)
    return y


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """(B, C), int64 (B,) -> (B, 1).

    Arguments: soft labels, softmax within, numerically stable, ignored index, axis.
    """
    y: Tensor = ops.cross_entropy_with_softmax(logits, ops.reshape(label, [-1, 1]), False, True, True, -100, -1)[1]
    return y
