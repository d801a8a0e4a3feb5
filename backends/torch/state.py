"""Names and layouts between the network and the neutral state: the same in PyTorch, but for the factors.

A factor is (R, 1 + H, O) in the neutral state and (1 + H, R O) in the network.
"""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from core.models import ModelSpec, ParameterSpec
from core.randomness import Array

FLATTENED = ("_factor",)  # (R, 1 + H, O) -> (1 + H, R O), by ending


def to_numpy(tensor: Tensor) -> Array:
    """A copy on the host."""
    array: Array = tensor.detach().cpu().numpy().copy()
    return array


def named_tensors(network: nn.Module, spec: ModelSpec) -> dict[str, Tensor]:
    """Parameters and statistics by neutral name, in the network's layout."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {p.name: tensors[p.name].data for p in spec.parameters}


def read_weights(network: nn.Module, spec: ModelSpec) -> dict[str, Array]:
    """Neutral weights, copied."""
    tensors = named_tensors(network, spec)
    return {p.name: read(p, tensors[p.name]) for p in spec.parameters}


def write_weights(network: nn.Module, spec: ModelSpec, weights: Mapping[str, Array]) -> None:
    """Copy neutral weights into the network, in place: its tensors are views into the optimizer's."""
    tensors = named_tensors(network, spec)
    for parameter in spec.parameters:
        write(parameter, tensors[parameter.name], weights[parameter.name])


def read(parameter: ParameterSpec, tensor: Tensor) -> Array:
    """The neutral array of `parameter`, copied from `tensor`."""
    return to_numpy(_turned(parameter, tensor))


def write(parameter: ParameterSpec, tensor: Tensor, array: Array) -> None:
    """Copy the neutral `array` of `parameter` into the memory of `tensor`."""
    _turned(parameter, tensor).copy_(torch.from_numpy(array.copy()))


def _turned(parameter: ParameterSpec, tensor: Tensor) -> Tensor:
    """`tensor`, in the network's layout, as a view in the neutral one."""
    if not parameter.name.endswith(FLATTENED):
        return tensor
    rank, width, out = parameter.shape
    return tensor.view(width, rank, out).transpose(0, 1)  # (1 + H, R O) -> (R, 1 + H, O)
