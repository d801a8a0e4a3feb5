"""Names and layouts between the network and the neutral state, as tables of data."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, ops

from core.models import ModelSpec, ParameterSpec
from core.randomness import Array

if TYPE_CHECKING:
    from backends.mindspore.model import Network

FACTOR, FUSION = "_factor", "fusion"  # endings of the names whose layout differs from the neutral one


def to_numpy(tensor: Tensor) -> Array:
    """A copy on the host."""
    array: Array = tensor.asnumpy().copy()
    return array


def turn(name: str, array: Array) -> Array:
    """`array` from the neutral layout of `name` to the one here.

    A factor (R, 1 + H, O) becomes (1 + H, O, R): its first row is then a bias, the rest a matrix, and the sum over
    the rank one matrix product. LMF's fused terms and their mask, (B, R, O), follow it: (B, O, R). TFN's outer
    product, (B, P), stays as it is.
    """
    if name.endswith(FACTOR):
        return np.ascontiguousarray(array.transpose(1, 2, 0))
    return np.ascontiguousarray(array.swapaxes(1, 2)) if name == FUSION and array.ndim == 3 else array


def turn_back(name: str, array: Array) -> Array:
    """The inverse of `turn`."""
    if name.endswith(FACTOR):
        return np.ascontiguousarray(array.transpose(2, 0, 1))
    return np.ascontiguousarray(array.swapaxes(1, 2)) if name == FUSION and array.ndim == 3 else array


class Flat:
    """The tensors of one group in a single one, so that Adam updates one tensor instead of twenty.

    `views` follow every change of `value`; writing goes through `value`, because MindSpore's in-place operators
    do nothing, without a word, on views.
    """

    def __init__(self, parameters: Sequence[ParameterSpec], dtype: mindspore.dtype) -> None:
        self.slices: dict[str, tuple[int, int, tuple[int, ...]]] = {}
        size = 0
        for parameter in parameters:
            shape = turn(parameter.name, np.empty(parameter.shape)).shape
            self.slices[parameter.name] = (size, math.prod(shape), shape)
            size += math.prod(shape)
        self.value = make_parameter(np.zeros(size), dtype)
        self.views = {name: ops.narrow(self.value, 0, start, count).view(shape)
                      for name, (start, count, shape) in self.slices.items()}

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Replace all tensors by neutral `arrays`."""
        flat = np.concatenate([turn(name, arrays[name]).ravel() for name in self.slices])
        ops.assign(self.value, Tensor(flat, self.value.dtype))

    def read(self) -> dict[str, Array]:
        """Neutral copies of all tensors."""
        flat = to_numpy(self.value)
        return {name: turn_back(name, flat[start:start + count].reshape(shape)).copy()
                for name, (start, count, shape) in self.slices.items()}


def make_parameter(array: Array, dtype: mindspore.dtype) -> Parameter:
    """A tensor that operators may change in place."""
    return Parameter(Tensor(array, dtype), requires_grad=False)  # gradients are written by hand


def read_weights(network: Network, spec: ModelSpec) -> dict[str, Array]:
    """Neutral weights, copied."""
    arrays = {name: to_numpy(tensor) for name, tensor in network.statistics.items()}
    for flat in network.flats.values():
        arrays.update(flat.read())
    return {p.name: arrays[p.name] for p in spec.parameters}


def write_weights(network: Network, spec: ModelSpec, weights: Mapping[str, Array]) -> None:
    """Copy neutral weights into the network, in place."""
    for flat in network.flats.values():
        flat.write(weights)
    for parameter in spec.group("statistics"):
        tensor = network.statistics[parameter.name]
        ops.assign(tensor, Tensor(weights[parameter.name], tensor.dtype))
