"""What stands for PyTorch's objects while a file is read: inert records, turned into arrays afterwards."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from core.common.arrays import Array
from core.data.unpickle import Refused

STORAGES = {  # PyTorch's storage class -> NumPy's code; bfloat16 is read as its 16 bits
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "u2", "LongStorage": "i8",
    "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1",
}


@dataclass(frozen=True)
class StorageClass:
    """Stands for torch.FloatStorage and its like."""

    name: str

    @property
    def code(self) -> str:
        return STORAGES[self.name]

    def __call__(self, *_: Any) -> Any:
        raise Refused(f"a call of torch.{self.name}")


@dataclass
class Storage:
    """Flat memory of `count` numbers. Its bytes lie elsewhere in the file and are filled in afterwards."""

    kind: StorageClass
    count: int
    data: bytes = b""
    order: Literal["<", ">"] = "<"

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * np.dtype(self.kind.code).itemsize

    def numpy(self) -> Array:
        """(count,), bfloat16 widened to float32."""
        return self.widened(self.raw())

    def raw(self) -> Array:
        """(count,) as the file has it, not copied. Raises ValueError when the file has fewer or more bytes."""
        if len(self.data) != self.size:
            raise ValueError(f"a {self.kind.name} of {self.count} numbers comes with {len(self.data)} bytes")
        return np.frombuffer(self.data, np.dtype(self.kind.code).newbyteorder(self.order))

    def widened(self, values: Array) -> Array:
        """A copy of raw values in this machine's byte order, bfloat16 as float32."""
        if self.kind.name == "BFloat16Storage":
            return (values.astype(np.uint32).ravel() << 16).view(np.float32).reshape(values.shape)
        return values.astype(values.dtype.newbyteorder("="))


@dataclass(frozen=True)
class StorageView:
    """Numbers `start` to `start + count` of a storage."""

    storage: Storage
    start: int
    count: int


@dataclass(frozen=True)
class Tensor:
    """Stands for a torch tensor or parameter; strides count numbers."""

    view: StorageView
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def numpy(self) -> Array:
        """A contiguous copy. Raises ValueError when the numbers would lie outside of the storage."""
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        empty = 0 in self.shape
        if not empty and (last >= self.view.count or math.prod(self.shape) > self.view.count):
            raise ValueError(f"a tensor of shape {self.shape} reaches beyond its storage of {self.view.count} numbers")
        flat = self.view.storage.raw()[self.view.start:self.view.start + self.view.count]
        if empty:
            return self.view.storage.widened(np.empty(self.shape, flat.dtype))
        if len(flat) != self.view.count:
            raise ValueError(f"a view of {self.view.count} numbers reaches beyond its storage")
        strides = [step * flat.itemsize for step in self.strides]
        return self.view.storage.widened(np.lib.stride_tricks.as_strided(flat[self.offset:], self.shape, strides))


@dataclass(frozen=True)
class ClassName:
    """Stands for a module class. It can be instantiated empty, never called."""

    name: str

    def __call__(self, *_: Any) -> Any:
        raise Refused(f"a call of {self.name}")


@dataclass
class Module:
    """Stands for an instance of a module class: its attributes, uninterpreted."""

    name: str
    attributes: dict[str, Any] = field(default_factory=dict)
