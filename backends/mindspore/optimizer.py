"""Adam over two parameter groups, chosen by name. torch's own rule is the reference for all backends.

Written out: MindSpore's Adam has eps within the corrected root, takes 1 - beta2 in float32, which is 1.3e-5 too
small, and has no float64.
"""
from __future__ import annotations

import math

import mindspore

from backends.mindspore.model import LMF, Gradients
from backends.mindspore.precision import add, assign, concat, constant, div, mul, sqrt, square, sub
from backends.mindspore.state import Flat
from core.config import Config
from core.models import ADAM_BETAS, ADAM_EPS, ModelSpec
from core.randomness import Array
from core.state import State


class Group:
    """One optimizer group: the network's flat tensor with its moments, and its rate."""

    def __init__(self, network: LMF, spec: ModelSpec, name: str, rate: float, dtype: mindspore.dtype) -> None:
        members = spec.group(name)
        self.flat, self.rate = network.flats[name], rate
        self.exp_avg, self.exp_avg_sq = Flat(members, dtype), Flat(members, dtype)


class GroupedAdam:
    """torch.optim.Adam on the groups `factors` and `others`, with state by parameter name."""

    def __init__(self, network: LMF, spec: ModelSpec, config: Config, dtype: mindspore.dtype) -> None:
        rates = {"factors": config.factor_learning_rate, "others": config.learning_rate}
        self.groups = {name: Group(network, spec, name, rate, dtype) for name, rate in rates.items()}
        self.dtype, self.steps = dtype, 0
        self.decay = constant(config.weight_decay, dtype) if config.weight_decay else None
        self.keep, self.new = ([constant(value, dtype) for value in values]
                               for values in (ADAM_BETAS, [1 - beta for beta in ADAM_BETAS]))

    def step(self, gradients: Gradients) -> None:
        """One step with `gradients` of all parameters.

        lr m' / (sqrt(v') + eps), m' = m / c1, v' = v / c2, is computed as (lr sqrt(c2) / c1) m / (sqrt(v) + eps sqrt(c2)).
        """
        self.steps += 1
        root = math.sqrt(1 - ADAM_BETAS[1] ** self.steps)
        eps = constant(ADAM_EPS * root, self.dtype)
        for group in self.groups.values():
            value, first, second = group.flat.value, group.exp_avg.value, group.exp_avg_sq.value
            gradient = concat(tuple(gradients[name] for name in group.flat.slices))
            if self.decay is not None:
                gradient = add(gradient, mul(value, self.decay))
            m = add(mul(first, self.keep[0]), mul(gradient, self.new[0]))
            v = add(mul(second, self.keep[1]), mul(square(gradient), self.new[1]))
            rate = constant(group.rate * root / (1 - ADAM_BETAS[0] ** self.steps), self.dtype)
            assign(first, m)
            assign(second, v)
            assign(value, sub(value, mul(div(m, add(sqrt(v), eps)), rate)))

    def names(self, network: LMF) -> dict[str, list[str]]:
        """Parameter names per group, found by where each parameter's memory really lies."""
        found: dict[str, list[str]] = {name: [] for name in self.groups}
        for parameter, tensor in network.tensors.items():
            for name, group in self.groups.items():
                flat = group.flat.value
                if 0 <= tensor.data_ptr() - flat.data_ptr() < flat.nbytes:
                    found[name].append(parameter)
        return found

    def load(self, state: State) -> None:
        """Set both moments and the step count."""
        self.steps = state.step
        for group in self.groups.values():
            group.exp_avg.write(state.exp_avg)
            group.exp_avg_sq.write(state.exp_avg_sq)

    def moments(self, key: str) -> dict[str, Array]:
        """`exp_avg` or `exp_avg_sq` of every trained parameter, neutral copies."""
        return {name: array for group in self.groups.values() for name, array in getattr(group, key).read().items()}
