"""MindSpore's .ckpt: a protobuf message of named tensors. It holds no code; its wire format is read here by hand.

    Checkpoint  { repeated Value value = 1 }
    Value       { string tag = 1; TensorProto tensor = 2; MapTensorProto maptensor = 3 }
    TensorProto { repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3 }
"""
from __future__ import annotations

import binascii
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.common.arrays import Array
from core.data.unpickle import MAX_AXES, Refused, name_of

TYPES = {"Float64": "<f8", "Float32": "<f4", "Float16": "<f2", "BFloat16": "<u2", "Int64": "<i8", "Int32": "<i4",
         "Int16": "<i2", "Int8": "<i1", "UInt8": "<u1", "Bool": "<b1"}
CRC_MARK, CRC_BYTES = b"crc_num", 10
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 50_000  # a second's work; a network has 28 tensors, its optimizer thrice as many, each of some ten fields
Field = tuple[int, int | memoryview]


def read_ckpt(path: Path) -> dict[str, Array]:
    """Tensors by name; text entries are left out. Raises Refused or ValueError for what is no checkpoint."""
    raw = memoryview(_without_crc(path.read_bytes()))
    left = [MAX_FIELDS]
    parts: dict[str, tuple[tuple[int, ...], str, list[memoryview]]] = {}
    for number, value in fields(raw, left):
        if number != 1 or isinstance(value, int):
            raise ValueError(f"field {number} at the top level, expected 1")
        tag, dims, kind, content = _value(value, left)
        slices = parts.setdefault(tag, (dims, kind, []))[2]  # a large tensor comes in several values of one name
        slices.append(content)
    return {tag: _array(tag, *part) for tag, part in parts.items() if part[1] != "str"}


def fields(raw: memoryview, left: list[int]) -> Iterator[Field]:
    """(number, value) of each field of a message; `left` counts down the fields of the whole file.

    Raises ValueError where the message is cut short, Refused when no field is left.
    """
    at = 0
    while at < len(raw):
        left[0] -= 1
        if left[0] < 0:
            raise Refused(f"more than {MAX_FIELDS} entries and parts of them")
        key, at = _varint(raw, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(raw, at)
            yield number, value
            continue
        if wire == BYTES:
            size, at = _varint(raw, at)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(raw):
            raise ValueError(f"cut short: a field of {size} bytes at byte {at} of {len(raw)}")
        yield number, raw[at:at + size]
        at += size


def _varint(raw: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(raw):
            raise ValueError(f"cut short: a number at byte {at} of {len(raw)}")
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"a number of more than 10 bytes before byte {at}")


def _value(raw: memoryview, left: list[int]) -> tuple[str, tuple[int, ...], str, memoryview]:
    """Name, dims, type and content of one Value."""
    found = {number: value for number, value in fields(raw, left) if not isinstance(value, int)}
    tag = name_of(bytes(found.get(1, b"")))
    if 2 not in found:
        raise Refused(f"entry {tag[:80]!r}, which is no tensor")
    dims: list[int] = []
    kind, content = "", memoryview(b"")
    for number, value in fields(found[2], left):
        if number == 1:
            dims += [value] if isinstance(value, int) else _packed(value[:10 * (MAX_AXES + 1)])
            if len(dims) > MAX_AXES:
                raise Refused(f"a tensor of more than {MAX_AXES} axes")
        elif number == 2 and not isinstance(value, int):
            kind = name_of(bytes(value))
        elif number == 3 and not isinstance(value, int):
            content = value
    return tag, tuple(dims), kind, content


def _packed(raw: memoryview) -> list[int]:
    numbers, at = [], 0
    while at < len(raw):
        number, at = _varint(raw, at)
        numbers.append(number)
    return numbers


def _array(tag: str, dims: tuple[int, ...], kind: str, slices: list[memoryview]) -> Array:
    if kind not in TYPES:
        raise Refused(f"entry {tag[:80]!r} of type {kind[:80]!r}")
    values: Array = np.frombuffer(b"".join(slices), TYPES[kind])
    shape = () if dims == (0,) and len(values) == 1 else dims  # how older versions write a scalar
    if math.prod(shape) != len(values):
        raise ValueError(f"{tag[:80]} of shape {shape} comes with {len(values)} numbers")
    if kind == "BFloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.reshape(shape)


def _without_crc(raw: bytes) -> bytes:
    """The message alone; a checksum behind it has to be right."""
    mark = len(raw) - CRC_BYTES - len(CRC_MARK)
    if mark < 0 or raw[mark:mark + len(CRC_MARK)] != CRC_MARK:
        return raw
    body, crc = raw[:mark], int.from_bytes(raw[-CRC_BYTES:], "big")
    if binascii.crc32(body) != crc:
        raise ValueError(f"its checksum is {binascii.crc32(body)}, expected {crc}")
    return body
