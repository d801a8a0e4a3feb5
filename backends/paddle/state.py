"""Names and layouts between the network and the neutral state, as tables of data."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import paddle
from paddle import Tensor, _C_ops, nn

from core.models import ModelSpec
from core.randomness import Array

RENAMED = {"running_mean": "_mean", "running_var": "_variance"}  # last part of a name: neutral -> Paddle
TRANSPOSED = ("linear_1.weight", "linear_2.weight", "linear_3.weight")  # (out, in) -> (in, out), by ending


def to_numpy(tensor: Tensor) -> Array:
    """A copy on the host."""
    array: Array = tensor.numpy().copy()
    return array


def paddle_name(name: str) -> str:
    """Paddle's name of the neutral `name`."""
    head, dot, last = name.rpartition(".")
    return head + dot + RENAMED.get(last, last)


def turn(name: str, array: Array) -> Array:
    """`array` from the neutral layout of `name` to Paddle's, or back: both are the same transposition."""
    return array.T if name.endswith(TRANSPOSED) else array


def named_tensors(network: nn.Layer, spec: ModelSpec) -> dict[str, Tensor]:
    """Parameters and statistics by neutral name, in Paddle's layout.

    `named_parameters` gives each tensor once; `state_dict` would add the LSTM's aliases `rnn.0.cell.*`.
    """
    tensors = dict(network.named_parameters())
    return {p.name: tensors[paddle_name(p.name)] for p in spec.parameters}


def read_weights(network: nn.Layer, spec: ModelSpec) -> dict[str, Array]:
    """Neutral weights, copied."""
    return {name: read(name, tensor) for name, tensor in named_tensors(network, spec).items()}


def write_weights(network: nn.Layer, spec: ModelSpec, weights: Mapping[str, Array]) -> None:
    """Copy neutral weights into the network, in place: its tensors are views into the optimizer's."""
    for name, tensor in named_tensors(network, spec).items():
        write(name, tensor, weights[name])


def read(name: str, tensor: Tensor) -> Array:
    """The neutral array of `name`, copied from `tensor`."""
    return np.ascontiguousarray(turn(name, to_numpy(tensor)))


def write(name: str, tensor: Tensor, array: Array) -> None:
    """Copy the neutral `array` of `name` into the memory of `tensor`."""
    with paddle.no_grad():
        _C_ops.assign_out_(paddle.to_tensor(np.ascontiguousarray(turn(name, array)), dtype=tensor.dtype), tensor)
