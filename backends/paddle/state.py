"""Names and layouts between the network and the neutral state, as tables of data."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle
from paddle import Tensor, nn

from backends.paddle.model import kernels
from core.models import ModelSpec, ParameterSpec
from core.randomness import Array

RENAMED = {"running_mean": "_mean", "running_var": "_variance"}  # last part of a name: neutral -> Paddle
TRANSPOSED = ("linear_1.weight", "linear_2.weight", "linear_3.weight", "post_fusion_layer_1.weight",
              "post_fusion_layer_2.weight", "post_fusion_layer_3.weight")  # (out, in) -> (in, out), by ending
FLATTENED = ("_factor",)  # (R, 1 + H, O) -> (1 + H, R O), by ending


def to_numpy(tensor: Tensor) -> Array:
    """A copy on the host."""
    array: Array = tensor.numpy().copy()
    return array


def paddle_name(name: str) -> str:
    """Paddle's name of the neutral `name`."""
    head, dot, last = name.rpartition(".")
    return head + dot + RENAMED.get(last, last)


def to_neutral(parameter: ParameterSpec, array: Array) -> Array:
    """`array` from Paddle's layout to the neutral one, C-contiguous."""
    if parameter.name.endswith(TRANSPOSED):
        array = array.T
    elif parameter.name.endswith(FLATTENED):
        rank, width, out = parameter.shape
        array = array.reshape(width, rank, out).transpose(1, 0, 2)
    return np.ascontiguousarray(array)


def from_neutral(parameter: ParameterSpec, array: Array) -> Array:
    """`array` from the neutral layout to Paddle's, C-contiguous."""
    if parameter.name.endswith(TRANSPOSED):
        array = array.T
    elif parameter.name.endswith(FLATTENED):
        array = array.transpose(1, 0, 2).reshape(array.shape[1], -1)
    return np.ascontiguousarray(array)


def named_tensors(network: nn.Layer, spec: ModelSpec) -> dict[str, Tensor]:
    """Parameters and statistics by neutral name, in Paddle's layout.

    `named_parameters` gives each tensor once; `state_dict` would add the LSTM's aliases `rnn.0.cell.*`.
    """
    tensors = dict(network.named_parameters())
    return {p.name: tensors[paddle_name(p.name)] for p in spec.parameters}


def read_weights(network: nn.Layer, spec: ModelSpec) -> dict[str, Array]:
    """Neutral weights, copied."""
    tensors = named_tensors(network, spec)
    return {p.name: read(p, tensors[p.name]) for p in spec.parameters}


def write_weights(network: nn.Layer, spec: ModelSpec, weights: Mapping[str, Array]) -> None:
    """Copy neutral weights into the network, in place: its tensors are views into the optimizer's."""
    tensors = named_tensors(network, spec)
    for parameter in spec.parameters:
        write(parameter, tensors[parameter.name], weights[parameter.name])


def read(parameter: ParameterSpec, tensor: Tensor) -> Array:
    """The neutral array of `parameter`, copied from `tensor`."""
    return to_neutral(parameter, to_numpy(tensor))


def write(parameter: ParameterSpec, tensor: Tensor, array: Array) -> None:
    """Copy the neutral `array` of `parameter` into the memory of `tensor`."""
    with paddle.no_grad():
        kernels.assign_out_(paddle.to_tensor(from_neutral(parameter, array), dtype=tensor.dtype), tensor)
