"""Adam over two parameter groups, chosen by name. torch's own rule is the reference for all backends.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g g;  value -= lr (m / c1) / (sqrt(v / c2) + eps),  c = 1 - b^steps

MindSpore's Adam multiplies its rate by sqrt(c2) / c1 and adds eps within the corrected root. With that rate and
eps sqrt(c2) given as arguments, and its own correction switched off, its kernel computes the rule above.
"""
from __future__ import annotations

import math

import mindspore
import numpy as np
from mindspore import Tensor, ops

from backends.mindspore.model import Gradients, Network
from backends.mindspore.precision import add, assign, assign_add, concat, constant, div, mul, sqrt, square, sub
from backends.mindspore.state import Flat
from core.config import Config
from core.models import ADAM_BETAS, ADAM_EPS, ModelSpec
from core.randomness import Array
from core.state import State


class Group:
    """One optimizer group: the network's flat tensor with its moments and its rate. The float32 kernel steps it."""

    def __init__(self, network: Network, spec: ModelSpec, name: str, rate: float, dtype: mindspore.dtype) -> None:
        members = spec.group(name)
        self.flat, self.rate = network.flats[name], rate
        self.exp_avg, self.exp_avg_sq = Flat(members, dtype), Flat(members, dtype)
        self.keep = [constant(beta, dtype) for beta in ADAM_BETAS]
        self.new = [constant(1 - beta, dtype) for beta in ADAM_BETAS]
        # The kernel takes 1 - b2 of a rounded b2, 1.3e-5 too small. What is missing, before it decays:
        kept = float(np.float32(ADAM_BETAS[1]))
        self.missing = constant((kept - ADAM_BETAS[1]) / kept, dtype)
        self.kernel, self.zero = ops.Adam(), constant(0, dtype)

    def step(self, gradient: Tensor, rate: Tensor, eps: Tensor) -> None:
        """One step with the flat `gradient`; `rate` and `eps` carry the corrections."""
        assign_add(self.exp_avg_sq.value, mul(square(gradient), self.missing))
        self.kernel(self.flat.value, self.exp_avg.value, self.exp_avg_sq.value, self.zero, self.zero, rate,
                    *self.keep, eps, gradient)


class Group64(Group):
    """The same written out, for the kernel has no float64."""

    def step(self, gradient: Tensor, rate: Tensor, eps: Tensor) -> None:
        value, first, second = self.flat.value, self.exp_avg.value, self.exp_avg_sq.value
        m = add(mul(first, self.keep[0]), mul(gradient, self.new[0]))
        v = add(mul(second, self.keep[1]), mul(square(gradient), self.new[1]))
        assign(first, m)
        assign(second, v)
        assign(value, sub(value, mul(div(m, add(sqrt(v), eps)), rate)))


class GroupedAdam:
    """torch.optim.Adam on the groups `factors` and `others`, with state by parameter name."""

    def __init__(self, network: Network, spec: ModelSpec, config: Config, dtype: mindspore.dtype) -> None:
        rates = {"factors": config.factor_learning_rate, "others": config.learning_rate}
        group = Group64 if config.precision == "float64" else Group
        self.groups = {name: group(network, spec, name, rate, dtype) for name, rate in rates.items()
                       if spec.group(name)}  # all of one may be frozen
        self.dtype, self.steps = dtype, 0
        self.decay = constant(config.weight_decay, dtype) if config.weight_decay else None

    def step(self, gradients: Gradients) -> None:
        """One step with `gradients` of all parameters."""
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in ADAM_BETAS)
        root = math.sqrt(second)
        eps = constant(ADAM_EPS * root, self.dtype)
        for group in self.groups.values():
            gradient = concat(tuple(gradients[name] for name in group.flat.slices))
            if self.decay is not None:
                gradient = add(gradient, mul(group.flat.value, self.decay))
            group.step(gradient, constant(group.rate * root / first, self.dtype), eps)

    def names(self, network: Network) -> dict[str, list[str]]:
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
