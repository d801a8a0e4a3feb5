"""How a backend keeps what the neutral state has: a table of layouts, and tensors laid one after the other."""
from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from core.common.arrays import Array
from core.models.graph import ParameterSpec

T = TypeVar("T")


class Layout(NamedTuple):
    """Both ways between the neutral axes and the backend's own: own(array), neutral(array, neutral shape)."""

    own: Callable[[Array], Array]
    neutral: Callable[[Array, tuple[int, ...]], Array]


Layouts = Mapping[str, Layout]  # by the name that a parameter or a value has in the graph; others stay as they are


def to_own(layouts: Layouts, layout: str, array: Array) -> Array:
    """`array` from the neutral layout to the backend's, C-contiguous."""
    return np.ascontiguousarray(layouts[layout].own(array) if layout in layouts else array)


def to_neutral(layouts: Layouts, layout: str, array: Array, shape: tuple[int, ...]) -> Array:
    """`array` from the backend's layout to the neutral one of `shape`, C-contiguous."""
    return np.ascontiguousarray(layouts[layout].neutral(array, shape) if layout in layouts else array)


def own_shape(layouts: Layouts, parameter: ParameterSpec) -> tuple[int, ...]:
    """The shape of a parameter as the backend keeps it."""
    return to_own(layouts, parameter.layout, np.empty(parameter.shape)).shape


class Flat(ABC, Generic[T]):
    """Tensors in a single one, each a view into it: Adam updates one tensor instead of twenty, and costs per tensor.

    parameters: what lies in it, in order, each at a multiple of `align` scalars.
    """

    def __init__(self, parameters: Sequence[ParameterSpec], layouts: Layouts, align: int = 1) -> None:
        self.parameters, self.layouts = tuple(parameters), layouts
        self.places: dict[str, tuple[int, int, tuple[int, ...]]] = {}  # name -> start, stop, own shape
        self.size = 0
        for parameter in parameters:
            shape = own_shape(layouts, parameter)
            stop = self.size + math.prod(shape)
            self.places[parameter.name] = self.size, stop, shape
            self.size = -(-stop // align) * align  # the padding stays zero: no gradient reaches it

    @abstractmethod
    def put(self, values: Array) -> None:
        """Copy `values` (size,) into the tensor."""

    @abstractmethod
    def take(self) -> Array:
        """A copy of the tensor (size,) on the host."""

    @abstractmethod
    def view(self, name: str) -> T:
        """The part that belongs to a parameter, in its own shape."""

    @abstractmethod
    def owns(self, tensor: T) -> bool:
        """Whether the memory of `tensor` lies in here."""

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Replace all tensors by neutral `arrays`."""
        values = np.zeros(self.size)
        for parameter in self.parameters:
            start, stop, _ = self.places[parameter.name]
            values[start:stop] = to_own(self.layouts, parameter.layout, arrays[parameter.name]).ravel()
        self.put(values)

    def read(self) -> dict[str, Array]:
        """Neutral copies of all tensors."""
        values = self.take()
        found: dict[str, Array] = {}
        for parameter in self.parameters:
            start, stop, shape = self.places[parameter.name]
            part = values[start:stop].reshape(shape)
            found[parameter.name] = to_neutral(self.layouts, parameter.layout, part, parameter.shape).copy()
        return found


def read_all(flats: Sequence[Flat[Any]]) -> dict[str, Array]:
    """Neutral copies of everything in `flats`."""
    return {name: array for flat in flats for name, array in flat.read().items()}
