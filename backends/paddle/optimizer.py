"""Adam over groups of parameters, in Paddle."""
from __future__ import annotations

import math
from collections.abc import Sequence

from paddle import Tensor

from backends.paddle import kernels
from backends.paddle.kernels import ops
from backends.paddle.model import Network
from backends.paddle.state import Flat
from core.common.constants import ADAM_BETAS, ADAM_EPS
from core.models.graph import Graph
from core.runtime.optimizer import AdamGroup, GroupedAdam, trained_groups

PIECE = 1 << 16  # scalars that a step works on at a time: with their moments and gradients they stay in a core's cache


class Group(AdamGroup[Tensor]):
    """One optimizer group."""

    def __init__(self, value: Flat, decay: float) -> None:
        moments = (Flat(value.parameters, value.value.dtype) for _ in range(2))
        super().__init__(value, *moments, decay)
        flats = value.value, self.exp_avg.value, self.exp_avg_sq.value
        self.pieces = [(start, *(flat[start:start + PIECE] for flat in flats)) for start in range(0, value.size, PIECE)]

    def step(self, gradients: Sequence[Tensor], count: int, rate: float) -> None:
        """Adam's rule, written out.

        Not Paddle's own kernel: it takes 1 - beta2 from a beta2 rounded to float32, so `exp_avg_sq` is 1.3e-5 off.
        """
        (beta1, beta2), alone = ADAM_BETAS, len(self.pieces) == 1
        whole = ops.concat([ops.reshape(g, [-1]) for g in gradients], 0)
        for start, value, mean, square in self.pieces:
            gradient = whole if alone else ops.slice(whole, [0], [start], [start + PIECE], [], [])
            if self.decay:
                ops.add_(gradient, kernels.scaled(value, self.decay))
            ops.add_(kernels.scale_(mean, beta1), kernels.scaled(gradient, 1 - beta1))
            ops.add_(kernels.scale_(square, beta2), kernels.scale_(ops.multiply(gradient, gradient), 1 - beta2))
            root = kernels.scale_(ops.sqrt(square), 1 / math.sqrt(1 - beta2**count), ADAM_EPS)  # eps outside
            ops.subtract_(value, kernels.scale_(ops.divide(mean, root), rate / (1 - beta1**count)))


def make_optimizer(graph: Graph, network: Network) -> GroupedAdam[Tensor]:
    """The optimizer of `network`."""
    return GroupedAdam(graph, {group.name: Group(network.flats[group.name][0], group.decay)
                               for group in trained_groups(graph)})
