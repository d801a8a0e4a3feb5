"""Adam over groups of parameters, in MindSpore.

MindSpore's Adam multiplies its rate by sqrt(c2) / c1 and adds eps within the corrected root. With that rate and
eps sqrt(c2) given as arguments, and its own correction switched off, its kernel computes torch's rule.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import mindspore
import numpy as np
from mindspore import Tensor, ops

from backends.mindspore.kernels import (
    add,
    assign,
    assign_add,
    concat,
    constant,
    div,
    in_dtype,
    mul,
    select,
    split_pair,
    sqrt,
    square,
    sub,
)
from backends.mindspore.model import Network
from backends.mindspore.precision import Scaler
from backends.mindspore.state import Flat
from core.common.constants import ADAM_BETAS, ADAM_EPS
from core.models.graph import Graph
from core.runtime.optimizer import AdamGroup, GroupedAdam, trained_groups
from core.runtime.scaler import LossScaler


class Group(AdamGroup[Tensor]):
    """One optimizer group. The float32 kernel steps it."""

    def __init__(self, value: Flat, decay: float) -> None:
        self.dtype = value.value.dtype
        super().__init__(value, Flat(value.parameters, self.dtype), Flat(value.parameters, self.dtype), decay)
        self.tensors = value.value, self.exp_avg.value, self.exp_avg_sq.value
        self.decaying = constant(decay, self.dtype) if decay else None
        self.keep = [constant(beta, self.dtype) for beta in ADAM_BETAS]
        self.new = [constant(1 - beta, self.dtype) for beta in ADAM_BETAS]
        # The kernel takes 1 - b2 of a rounded b2, 1.3e-5 too small. What is missing, before it decays:
        kept = float(np.float32(ADAM_BETAS[1]))
        self.missing = constant((kept - ADAM_BETAS[1]) / kept, self.dtype)
        self.kernel, self.zero = ops.Adam(), constant(0, self.dtype)
        self.one, self.eps = constant(1, self.dtype), constant(ADAM_EPS, self.dtype)

    def step(self, gradients: Sequence[Tensor], count: int, rate: float) -> None:
        gradient = concat(tuple(gradients))
        if self.decaying is not None:
            gradient = add(gradient, mul(self.tensors[0], self.decaying))
        first, root, eps = corrections(count, self.dtype)
        self.update(gradient, constant(rate * root / first, self.dtype), eps, self.keep)

    def gather(self, gradients: Sequence[Tensor], scaler: LossScaler) -> Tensor:
        return div(concat(tuple(in_dtype(gradient, self.dtype) for gradient in gradients)), scaler.scale)

    def step_if(self, finite: Tensor, gradient: Tensor, scaler: LossScaler, rate: float) -> None:
        """Of a step that is left out the gradient is 0, the rate too, and what is kept of the moments all of them."""
        assert isinstance(scaler, Scaler)  # that of this backend
        if self.decaying is not None:
            gradient = add(gradient, mul(self.tensors[0], self.decaying))
        gradient = select(finite, gradient, self.zero)
        kept = [select(finite, keep, self.one) for keep in self.keep]
        rates, root = split_pair(scaler.corrections())
        rates = mul(rates, select(finite, constant(rate, self.dtype), self.zero))
        self.update(gradient, rates.view(()), mul(root, self.eps).view(()), kept)

    def update(self, gradient: Tensor, rate: Tensor, eps: Tensor, keep: Sequence[Tensor]) -> None:
        """One step with the flat `gradient`; `rate` and `eps` carry the corrections, `keep` are the betas."""
        assign_add(self.tensors[2], mul(square(gradient), self.missing))
        self.kernel(*self.tensors, self.zero, self.zero, rate, *keep, eps, gradient)


class Group64(Group):
    """The same written out, for the kernel has no float64."""

    def update(self, gradient: Tensor, rate: Tensor, eps: Tensor, keep: Sequence[Tensor]) -> None:
        value, first, second = self.tensors
        m = add(mul(first, keep[0]), mul(gradient, self.new[0]))
        v = add(mul(second, keep[1]), mul(square(gradient), self.new[1]))
        assign(first, m)
        assign(second, v)
        assign(value, sub(value, mul(div(m, add(sqrt(v), eps)), rate)))


@lru_cache(1)
def corrections(count: int, dtype: mindspore.dtype) -> tuple[float, float, Tensor]:
    """c1, sqrt(c2) and eps sqrt(c2) of step number `count`; made once for all groups, for a new tensor costs."""
    first, second = (1 - beta**count for beta in ADAM_BETAS)
    root = math.sqrt(second)
    return first, root, constant(ADAM_EPS * root, dtype)


def make_optimizer(graph: Graph, network: Network, dtype: mindspore.dtype) -> GroupedAdam[Tensor]:
    """The optimizer of `network`."""
    made = Group64 if dtype == mindspore.float64 else Group
    return GroupedAdam(graph, {group.name: made(network.flats[group.name][0], group.decay)
                               for group in trained_groups(graph)})
