"""What training minimises, in Paddle."""
from __future__ import annotations

from paddle import Tensor

from backends.paddle import kernels
from backends.paddle.kernels import ops
from core.training.losses import Loss


def loss_of_batch(loss: Loss, output: Tensor, label: Tensor) -> Tensor:
    """() of scores (B, O) with labels alike, or of logits (B, C) with classes int64 (B,)."""
    terms = loss_terms(loss, output, label)
    summed = kernels.total(terms)
    return summed if loss.reduction == "sum" else kernels.scaled(summed, 1 / terms.size)


def loss_terms(loss: Loss, output: Tensor, label: Tensor) -> Tensor:
    """What is added up: (B, O), or (B, 1) for classes."""
    if loss.kind == "cross_entropy":
        return kernels.cross_entropy(output, label)
    error = output - label
    if loss.kind == "l1":
        y: Tensor = ops.abs(error)
    elif loss.kind == "mse":
        y = ops.square(error)
    else:
        size = ops.abs(error)
        within = ops.minimum(size, kernels.scaled(size, 0.0, loss.delta))  # |d|, at most delta
        y = within * (size - kernels.scaled(within, 0.5))  # d^2 / 2, or delta (|d| - delta / 2)
    return y
