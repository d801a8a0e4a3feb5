"""What training minimises, in MindSpore, with its gradient."""
from __future__ import annotations

from mindspore import Tensor

from backends.mindspore.kernels import (
    absolute,
    constant,
    cross_entropy,
    div,
    exp,
    log,
    minimum,
    mul,
    row_max,
    row_sum,
    sign,
    square,
    sub,
)
from core.training.losses import Loss


def loss_of_batch(loss: Loss, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Terms whose sum is the loss, which the host adds up after the epoch, and the gradient of that sum (B, O).

    Of scores (B, O) with labels alike, or of logits (B, C) with one-hot classes (B, C).
    """
    terms, slope = loss_terms(loss, output, label)
    if loss.reduction == "sum":
        return terms, slope
    share = constant(1 / terms.size, output.dtype)
    return mul(terms, share), mul(slope, share)


def loss_terms(loss: Loss, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """What is added up, and its gradient."""
    if loss.kind == "cross_entropy":
        return (entropy64 if output.itemsize == 8 else cross_entropy)(output, label)
    error = sub(output, label)  # (B, O)
    if loss.kind == "l1":
        return absolute(error), sign(error)
    if loss.kind == "mse":
        return square(error), mul(error, constant(2, output.dtype))
    size = absolute(error)
    within = minimum(size, constant(loss.delta, output.dtype))  # |d|, at most delta
    terms = mul(within, sub(size, mul(within, constant(0.5, output.dtype))))  # d^2 / 2, or delta (|d| - delta / 2)
    return terms, mul(within, sign(error))


def entropy64(output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Losses (B,) and the gradient of their sum (B, C): the kernel has no float64."""
    shifted = sub(output, row_max(output, 1))  # (B, C)
    powers = exp(shifted)
    total = row_sum(powers, 1)  # (B, 1)
    return sub(log(total), row_sum(mul(shifted, label), 1)).view(-1), sub(div(powers, total), label)
