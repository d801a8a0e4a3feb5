"""Adam over two parameter groups, chosen by name. torch's own rule is the reference for all backends."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from backends.torch.state import read, write
from core.config import Config
from core.models import ADAM_BETAS, ADAM_EPS, ModelSpec, ParameterSpec
from core.randomness import Array
from core.state import State

ALIGN = 16  # scalars: a vector register's worth, so that oneDNN finds its weights aligned


class Group:
    """One optimizer group laid out in a single tensor; the network's parameters are views into it.

    Adam then updates one tensor instead of twenty: on small models its cost is per tensor.
    """

    def __init__(self, network: nn.Module, parameters: Sequence[ParameterSpec], like: Tensor) -> None:
        self.slices: dict[str, tuple[int, int, torch.Size]] = {}
        size = 0
        for parameter in parameters:
            tensor = network.get_parameter(parameter.name)
            count = tensor.numel()
            self.slices[parameter.name] = (size, size + count, tensor.shape)
            size += -(-count // ALIGN) * ALIGN  # the padding stays zero: no gradient reaches it
        self.flat = nn.Parameter(like.new_zeros(size))
        self.flat.grad = torch.zeros_like(self.flat)
        for parameter in parameters:
            tensor = network.get_parameter(parameter.name)
            tensor.data = self.view(self.flat.data, parameter)

    def view(self, flat: Tensor, parameter: ParameterSpec) -> Tensor:
        """The part of `flat` that belongs to `parameter`, in the network's shape."""
        start, stop, shape = self.slices[parameter.name]
        return flat[start:stop].view(shape)


class GroupedAdam:
    """torch.optim.Adam on the groups `factors` and `others`, with state by parameter name."""

    def __init__(self, network: nn.Module, spec: ModelSpec, config: Config) -> None:
        like = next(network.parameters())
        rates = {"factors": config.factor_learning_rate, "others": config.learning_rate}
        self.members = {name: spec.group(name) for name in rates if spec.group(name)}  # all of one may be frozen
        self.groups = {name: Group(network, members, like) for name, members in self.members.items()}
        self.parameters = [network.get_parameter(p.name) for p in spec.trainable]
        self.gradients = [group.view(group.flat.grad, p) for p in spec.trainable
                          for group in [self.groups[p.group]]]
        self.adam = torch.optim.Adam(
            [{"params": [group.flat], "lr": rates[name], "name": name} for name, group in self.groups.items()],
            betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=config.weight_decay, fused=True)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step with `gradients`, given in the order of `parameters`.

        Calls the kernel of Adam(fused=True) on the optimizer's own groups and state: at batch 16 the bookkeeping of
        Adam.step costs 3 % of a training step.
        """
        torch._foreach_copy_(self.gradients, gradients)
        with torch.no_grad():
            for group in self.adam.param_groups:
                flat, state = group["params"][0], self.adam.state[group["params"][0]]
                state["step"].add_(1)
                torch._fused_adam_([flat], [flat.grad], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
                                   lr=group["lr"], beta1=ADAM_BETAS[0], beta2=ADAM_BETAS[1], eps=ADAM_EPS,
                                   weight_decay=group["weight_decay"], amsgrad=False, maximize=False)

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return int(self.adam.state[next(iter(self.groups.values())).flat]["step"])

    def names(self, network: nn.Module) -> dict[str, list[str]]:
        """Parameter names per group, found by where each parameter's memory really lies."""
        owner = {g["params"][0].untyped_storage().data_ptr(): str(g["name"]) for g in self.adam.param_groups}
        found: dict[str, list[str]] = {name: [] for name in owner.values()}
        for name, parameter in network.named_parameters():
            place = parameter.untyped_storage().data_ptr()
            if place in owner:  # a frozen one lies elsewhere
                found[owner[place]].append(name)
        return found

    def load(self, state: State) -> None:
        """Set both moments and the step count."""
        for name, group in self.groups.items():
            moments = {key: torch.zeros_like(group.flat.data) for key in ("exp_avg", "exp_avg_sq")}
            for parameter in self.members[name]:
                for key, source in (("exp_avg", state.exp_avg), ("exp_avg_sq", state.exp_avg_sq)):
                    write(parameter, group.view(moments[key], parameter), source[parameter.name])
            step = torch.tensor(float(state.step), device=group.flat.device)  # float32, as Adam keeps it
            self.adam.state[group.flat] = {"step": step, **moments}

    def moments(self, key: str) -> dict[str, Array]:
        """`exp_avg` or `exp_avg_sq` of every trained parameter, neutral copies."""
        return {p.name: read(p, self.groups[name].view(self.adam.state[self.groups[name].flat][key], p))
                for name, members in self.members.items() for p in members}
