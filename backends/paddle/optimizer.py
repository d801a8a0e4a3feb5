"""Adam over groups of parameters, in Paddle."""
from __future__ import annotations

import math
from collections.abc import Sequence

from paddle import Tensor

from backends.paddle import kernels
from backends.paddle.kernels import ops
from backends.paddle.model import Network
from backends.paddle.precision import Scaler
from backends.paddle.state import Flat
from core.common.constants import ADAM_BETAS, ADAM_EPS
from core.models.graph import Graph
from core.runtime.optimizer import AdamGroup, GroupedAdam, trained_groups
from core.runtime.scaler import LossScaler

PIECE = 1 << 16  # scalars that a step works on at a time: with their moments and gradients they stay in a core's cache


class Group(AdamGroup[Tensor]):
    """One optimizer group."""

    def __init__(self, value: Flat, decay: float) -> None:
        moments = (Flat(value.parameters, value.value.dtype) for _ in range(2))
        super().__init__(value, *moments, decay)
        self.flats = value.value, self.exp_avg.value, self.exp_avg_sq.value
        self.piece = PIECE if value.value.place.is_cpu_place() else value.size  # elsewhere a launch costs more
        self.pieces = [(start, *(flat[start:start + self.piece] for flat in self.flats))
                       for start in range(0, value.size, self.piece)]

    def step(self, gradients: Sequence[Tensor], count: int, rate: float) -> None:
        beta1, beta2 = ADAM_BETAS
        whole = ops.concat([ops.reshape(g, [-1]) for g in gradients], 0)
        self._move(whole, 1 / math.sqrt(1 - beta2**count), rate / (1 - beta1**count))

    def gather(self, gradients: Sequence[Tensor], scaler: LossScaler) -> Tensor:
        whole = ops.concat([kernels.cast(ops.reshape(g, [-1]), self.flats[0].dtype) for g in gradients], 0)
        gathered: Tensor = ops.divide_(whole, scaler.scale)
        return gathered

    def step_if(self, finite: Tensor, gradient: Tensor, scaler: LossScaler, rate: float) -> None:
        assert isinstance(scaler, Scaler)
        first, second = scaler.corrected()
        kept = [ops.assign(flat) for flat in self.flats]
        self._move(gradient, second, kernels.scaled(first, rate))
        moved = ops.expand(finite, [self.value.size])
        for flat, before in zip(self.flats, kept, strict=True):
            ops.assign_out_(ops.where(moved, flat, before), flat)

    def _move(self, whole: Tensor, second: float | Tensor, rate: float | Tensor) -> None:
        """Adam's rule, written out, with the gradient (size,), which it overwrites.

        second: 1 / sqrt(1 - b2^steps); rate: over 1 - b1^steps; numbers, or () on the device.
        Not Paddle's own kernel: it takes 1 - beta2 from a beta2 rounded to float32, so `exp_avg_sq` is 1.3e-5 off.
        """
        (beta1, beta2), alone = ADAM_BETAS, len(self.pieces) == 1
        for start, value, mean, square in self.pieces:
            gradient = whole if alone else ops.slice(whole, [0], [start], [start + self.piece], [], [])
            if self.decay:
                ops.add_(gradient, kernels.scaled(value, self.decay))
            ops.add_(kernels.scale_(mean, beta1), kernels.scaled(gradient, 1 - beta1))
            ops.add_(kernels.scale_(square, beta2), kernels.scale_(ops.multiply(gradient, gradient), 1 - beta2))
            root = kernels.times_(ops.sqrt(square), second, ADAM_EPS)  # eps outside
            ops.subtract_(value, kernels.times_(ops.divide(mean, root), rate))


def make_optimizer(graph: Graph, network: Network) -> GroupedAdam[Tensor]:
    """The optimizer of `network`."""
    return GroupedAdam(graph, {group.name: Group(network.flats[group.name][0], group.decay)
                               for group in trained_groups(graph)})
