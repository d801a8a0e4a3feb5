"""Normalisation in MindSpore, forward and back: what core/models/blocks.py has in NumPy."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindspore import Tensor

from backends.mindspore.blocks import Back, Block, Linear, Saved, Tensors, own_shape
from backends.mindspore.kernels import (
    add,
    assign,
    batch_norm,
    batch_norm_grad,
    bias_add,
    bias_grad,
    column_sums,
    constant,
    div,
    layer_norm,
    matmul,
    matmul_t,
    mul,
    ones,
    relu,
    relu_grad,
    row_mean,
    spread,
    sqrt,
    square,
    sub,
    t_matmul,
    zeros,
)
from core.common.constants import BATCHNORM_EPS, BATCHNORM_MOMENTUM, LAYERNORM_EPS


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


class LayerNorm(Block):
    """(B, A) -> (B, A), or (T, B, A) -> (T, B, A): over the last axis.

    Each row is r (x - mean) by its own r = 1 / sqrt(var + eps). Forward by the kernel; on the way back that takes four
    times as long as operators do, and on an input, which needs no gradient, ten times.
    """

    def bind(self, tensors: Tensors) -> None:
        self.keep(weight=tensors["weight"], bias=tensors["bias"])  # (A,) each
        self.width, self.shape = len(self.bias), own_shape(self.node.output)
        self.eps, self.share = constant(LAYERNORM_EPS, self.dtype), constant(1 / self.width, self.dtype)
        self.one = constant(1, self.dtype)

    def construct(self, x: Tensor) -> Tensor:
        return self.normalised(x.view(-1, self.width))[0].view(self.shape)

    def normalised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The output (N, A), and the mean and the variance of each row (N, 1)."""
        found: tuple[Tensor, Tensor, Tensor] = layer_norm(x, self.weight, self.bias)
        return found

    def unit(self, x: Tensor) -> Tensor:
        """(N, A) -> (N, A), without scale and shift."""
        y: Tensor = layer_norm(x, ones(self.bias.shape, self.dtype), zeros(self.bias.shape, self.dtype))[0]
        return y

    def inverse(self, var: Tensor) -> Tensor:
        """r: (N, 1)."""
        return div(self.one, sqrt(add(var, self.eps)))

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        x = xs[0].view(-1, self.width)
        y, mean, var = self.normalised(x)
        return y.view(self.shape), (x, mean, self.inverse(var))

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        x, mean, inverse = saved
        shape, dy = dy.shape, dy.view(x.shape)
        centred = sub(x, mean)  # (N, A)
        product = mul(dy, centred)
        found = {"weight": t_matmul(inverse, product).view(-1), "bias": column_sums(dy)}
        if not needs[0]:
            return [None], found
        row = self.weight.view(1, -1)  # less what each row's mean and variance take of it, (N, 1) both:
        of_mean = mul(mul(matmul_t(dy, row), self.share), inverse)
        of_var = mul(mul(matmul_t(product, row), self.share), mul(inverse, square(inverse)))
        dx = sub(mul(dy, spread(inverse, row)), mul(centred, spread(of_var, ones(row.shape, self.dtype))))
        return [sub(dx, of_mean).view(shape)], found


class Unscaled:
    """LayerNorm of the data in training: its scale and shift are left to the linear layer behind it (`Rescaled`), which
    gives their gradients in the place of one of the output. So none has to be made of all steps.
    """

    def __init__(self, norm: LayerNorm) -> None:
        self.norm = norm

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return self.norm.unit(xs[0].view(-1, self.norm.width)).view(self.norm.shape), None

    def backward(self, dy: tuple[Tensor, Tensor], saved: Saved, needs: Sequence[bool]) -> Back:
        return [None] * len(needs), dict(zip(("weight", "bias"), dy, strict=True))


class Rescaled:
    """A linear layer behind an `Unscaled` norm: x W'^T + b' with W' = W scale and b' = b + W shift."""

    def __init__(self, linear: Linear, norm: LayerNorm) -> None:
        self.linear, self.scale, self.shift = linear, norm.weight.view(1, -1), norm.bias.view(1, -1)  # (1, I)
        self.ones = ones((linear.weight.shape[0], 1), linear.dtype)  # (O, 1)

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        own, x = self.linear, xs[0].view(-1, self.linear.width)
        scales = spread(self.ones, self.scale)  # (O, I)
        bias = add(own.bias, matmul_t(self.shift, own.weight).view(-1))  # (O,)
        y = bias_add(matmul_t(x, mul(own.weight, scales)), bias)  # (N, O)
        y = relu(y) if own.relu else y
        return y.view(own.shape), (x, y, scales)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> tuple[list[Any], dict[str, Tensor]]:
        own, (x, y, scales) = self.linear, saved
        dy = relu_grad(dy.view(y.shape), y) if own.relu else dy.view(y.shape)
        weight, bias = t_matmul(dy, x), own.summed(dy)  # of W' (O, I) and b' (O,)
        row = bias.view(1, -1)
        scale, shift = column_sums(mul(weight, own.weight)), matmul(row, own.weight).view(-1)  # (I,)
        found = {"weight": add(mul(weight, scales), t_matmul(row, self.shift)).view(-1), "bias": bias}
        return [(scale, shift)], found


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


class LayerNorm64(LayerNorm):
    """(B, A) -> (B, A), or (T, B, A) -> (T, B, A)."""

    def normalised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centred, mean, var = self.moments(x)
        return bias_add(mul(centred, spread(self.inverse(var), self.weight.view(1, -1))), self.bias), mean, var

    def unit(self, x: Tensor) -> Tensor:
        centred, _, var = self.moments(x)
        return div(centred, sqrt(add(var, self.eps)))

    @staticmethod
    def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a row is less its mean (N, A), that mean and the variance (N, 1)."""
        mean = row_mean(x, -1)
        centred = sub(x, mean)
        return centred, mean, row_mean(square(centred), -1)


BLOCKS = {"batch_norm": BatchNorm, "layer_norm": LayerNorm}
# BatchNorm's CPU kernel has no float64, LayerNorm's accepts it and computes in float32
BLOCKS64 = {"batch_norm": BatchNorm64, "layer_norm": LayerNorm64}
