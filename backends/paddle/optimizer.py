"""Adam over two parameter groups, chosen by name. torch's own rule is the reference for all backends."""
from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
from paddle import Tensor, nn

from backends.paddle.model import kernels
from backends.paddle.state import named_tensors, read, write
from core.config import Config
from core.models import ADAM_BETAS, ADAM_EPS, ModelSpec, ParameterSpec
from core.randomness import Array
from core.state import State


class Group:
    """One optimizer group laid out in a single tensor; the network's parameters are views into it.

    Adam then updates one tensor instead of twenty: on small models its cost is per tensor.
    """

    def __init__(self, tensors: dict[str, Tensor], parameters: Sequence[ParameterSpec], rate: float) -> None:
        self.rate = rate
        self.slices: dict[str, tuple[int, int, list[int]]] = {}
        size = 0
        for parameter in parameters:
            shape = list(tensors[parameter.name].shape)
            self.slices[parameter.name] = (size, size + math.prod(shape), shape)
            size += math.prod(shape)
        dtype = tensors[parameters[0].name].dtype
        self.flat, self.exp_avg, self.exp_avg_sq = (paddle.zeros([size], dtype) for _ in range(3))
        for parameter in parameters:
            tensors[parameter.name].data = self.view(self.flat, parameter)

    def view(self, flat: Tensor, parameter: ParameterSpec) -> Tensor:
        """The part of `flat` that belongs to `parameter`, in the network's shape."""
        start, stop, shape = self.slices[parameter.name]
        return flat[start:stop].reshape(shape)

    def step(self, gradients: Sequence[Tensor], count: int, weight_decay: float) -> None:
        """Adam's step number `count`, in place.

        Not Paddle's own kernel: it takes 1 - beta2 from a beta2 rounded to float32, so `exp_avg_sq` is 1.3e-5 off.
        """
        beta1, beta2 = ADAM_BETAS
        mean, square = self.exp_avg, self.exp_avg_sq
        gradient = kernels.concat([kernels.reshape(g, [-1]) for g in gradients], 0)
        if weight_decay:
            kernels.add_(gradient, kernels.scale(self.flat, weight_decay, 0.0, True))
        kernels.add_(kernels.scale_(mean, beta1, 0.0, True), kernels.scale(gradient, 1 - beta1, 0.0, True))
        kernels.add_(kernels.scale_(square, beta2, 0.0, True),
                     kernels.scale_(kernels.multiply(gradient, gradient), 1 - beta2, 0.0, True))
        root = kernels.scale_(kernels.sqrt(square), 1 / math.sqrt(1 - beta2**count), ADAM_EPS, True)  # eps outside
        update = kernels.scale_(kernels.divide(mean, root), self.rate / (1 - beta1**count), 0.0, True)
        kernels.subtract_(self.flat, update)


class GroupedAdam:
    """torch.optim.Adam's rule on the groups `factors` and `others`, with state by parameter name."""

    def __init__(self, network: nn.Layer, spec: ModelSpec, config: Config) -> None:
        tensors = named_tensors(network, spec)
        rates = {"factors": config.factor_learning_rate, "others": config.learning_rate}
        self.spec, self.weight_decay, self.steps = spec, config.weight_decay, 0
        self.members = {name: spec.group(name) for name in rates if spec.group(name)}  # all of one may be frozen
        self.groups = {name: Group(tensors, members, rates[name]) for name, members in self.members.items()}
        self.parameters = [tensors[p.name] for p in spec.trainable]
        self.frozen = [tensors[p.name] for p in spec.group("frozen")]
        self.places = {name: [i for i, p in enumerate(spec.trainable) if p.group == name] for name in self.groups}

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step with `gradients`, given in the order of `parameters`."""
        self.steps += 1
        for name, group in self.groups.items():
            group.step([gradients[i] for i in self.places[name]], self.steps, self.weight_decay)

    def names(self, network: nn.Layer) -> dict[str, list[str]]:
        """Parameter names per group, found by where each parameter's memory really lies."""
        found: dict[str, list[str]] = {name: [] for name in self.groups}
        for parameter, tensor in named_tensors(network, self.spec).items():
            for name, group in self.groups.items():
                if 0 <= tensor.data_ptr() - group.flat.data_ptr() < group.flat.size * group.flat.element_size():
                    found[name].append(parameter)
        return found

    def load(self, state: State) -> None:
        """Set both moments and the step count."""
        self.steps = state.step
        for name, group in self.groups.items():
            for parameter in self.members[name]:
                write(parameter, group.view(group.exp_avg, parameter), state.exp_avg[parameter.name])
                write(parameter, group.view(group.exp_avg_sq, parameter), state.exp_avg_sq[parameter.name])

    def moments(self, key: str) -> dict[str, Array]:
        """`exp_avg` or `exp_avg_sq` of every trained parameter, neutral copies."""
        return {p.name: read(p, self.groups[name].view(getattr(self.groups[name], key), p))
                for name, members in self.members.items() for p in members}
