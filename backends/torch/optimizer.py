"""Adam over groups of parameters, in PyTorch's own fused kernel."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backends.torch import kernels
from backends.torch.model import Network
from backends.torch.state import Flat
from core.models.graph import Graph
from core.runtime.optimizer import AdamGroup, GroupedAdam, trained_groups
from core.runtime.scaler import LossScaler


class Group(AdamGroup[Tensor]):
    """One optimizer group."""

    def __init__(self, value: Flat, decay: float) -> None:
        moments = (Flat(value.parameters, value.value.dtype, value.value.device) for _ in range(2))
        super().__init__(value, *moments, decay)
        self.tensors = value.value, torch.zeros_like(value.value), self.exp_avg.value, self.exp_avg_sq.value
        gradient = Flat(value.parameters, value.value.dtype, value.value.device)
        gradient.value = self.tensors[1]
        self.gradients = [gradient.view(name) for name in value.places]
        self.count = torch.zeros((), device=value.value.device)  # float32, as the kernel keeps it

    def step(self, gradients: Sequence[Tensor], count: int | Tensor, rate: float | Tensor) -> None:
        kernels.copy_all(self.gradients, gradients)
        with torch.no_grad():
            kernels.adam(*self.tensors, self.count.fill_(count), rate, self.decay)

    def gather(self, gradients: Sequence[Tensor], scaler: LossScaler) -> Tensor:
        kernels.copy_all(self.gradients, gradients)
        return self.tensors[1].div_(scaler.scale)

    def step_if(self, finite: Tensor, gradient: Tensor, scaler: LossScaler, rate: float | Tensor) -> None:
        with torch.no_grad():
            overflow = finite.logical_not().to(torch.float32)
            kernels.adam(*self.tensors, self.count.copy_(scaler.taken), rate, self.decay, overflow)


def make_optimizer(graph: Graph, network: Network) -> GroupedAdam[Tensor]:
    """The optimizer of `network`."""
    return GroupedAdam(graph, {group.name: Group(network.flats[group.name][0], group.decay)
                               for group in trained_groups(graph)})
