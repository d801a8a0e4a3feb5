"""Normalisation in Paddle: what core/models/blocks.py has in NumPy."""
from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor

from backends.paddle import kernels
from backends.paddle.blocks import Block, Tensors
from backends.paddle.kernels import ops
from core.common.constants import BATCHNORM_EPS, BATCHNORM_MOMENTUM


class BatchNorm(Block):
    """(B, A) -> (B, A). One row has no variance: it is normalised as in evaluation, and the statistics stay."""

    def bind(self, tensors: Tensors) -> None:
        self.affine = tensors["weight"], tensors["bias"]
        self.statistics = tensors["running_mean"], tensors["running_var"]

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        x, (mean, variance) = xs[0], self.statistics
        return batch_norm(x, self.affine[0], self.affine[1], mean, variance, train and len(x) > 1)


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, train: bool) -> Tensor:
    """BatchNorm, (B, A) -> (B, A); with `train` by the batch's own statistics, updating `mean` and `variance` (A,).

    Not Paddle's own kernel: that one keeps a biased running variance and rounds eps to float32 in float64 too.
    """
    if train:
        batch_mean = ops.mean(x, [0], False)  # (A,)
        centred = ops.subtract(x, batch_mean)
        batch_variance = ops.mean(ops.square(centred), [0], False)  # (A,), biased
        unbiased = len(x) / (len(x) - 1)
        for running, batch, factor in ((mean, batch_mean, 1.0), (variance, batch_variance, unbiased)):
            kernels.scale_(running, 1 - BATCHNORM_MOMENTUM)
            ops.add_(running, kernels.scaled(batch.detach(), BATCHNORM_MOMENTUM * factor))
        variance = batch_variance
    else:
        centred = ops.subtract(x, mean)
    normal = ops.multiply(centred, ops.rsqrt(kernels.scaled(variance, 1.0, BATCHNORM_EPS)))
    y: Tensor = ops.add(ops.multiply(normal, weight), bias)
    return y


class LayerNorm(Block):
    """(B, A) -> (B, A), or (T, B, A) -> (T, B, A): over the last axis."""

    def bind(self, tensors: Tensors) -> None:
        self.pair = tensors["weight"], tensors["bias"]  # (A,) each

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return kernels.layer_norm(xs[0], self.pair[0], self.pair[1])

    def plain(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        """The same without scale and shift."""
        return kernels.layer_norm(xs[0], None, None)


BLOCKS = {"batch_norm": BatchNorm, "layer_norm": LayerNorm}
