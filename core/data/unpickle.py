"""Reading pickles of NumPy arrays from strangers: no code of the file's choosing ever runs.

The file may name only the functions below. Each name stands for a plain record of ours, not for
NumPy's own function; arrays are built afterwards, by us, from checked dtypes and raw bytes.
Python 2 and 3, NumPy 1 and 2, pickle protocols 0 to 5 are understood.
"""
from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from core.common.arrays import Array
from core.common.errors import UserError, one_line
from core.common.text import shown

MAX_DEPTH = 8  # containers within containers; the deepest published file has three
MAX_STEPS = 300_000  # opcodes, a second's work; published files have a few hundred, long lists of names some thousands
MAX_NAME = 1000  # characters of a key or a name
MAX_AXES = 32  # NumPy's own bound
PLAIN_DTYPE = re.compile(r"[biufSU]\d{1,9}")


class Refused(Exception):
    """The file asks for something that an array does not need."""


class _Dtype:
    """Stands for numpy.dtype."""

    def __init__(self, code: Any = "", align: Any = False, copy: Any = False) -> None:
        self.code, self.order = name_of(code), "="

    def __setstate__(self, state: Any) -> None:
        self.order = name_of(state[1])

    def numpy(self) -> np.dtype[Any] | None:
        """The dtype; None for objects, records and other things that aren't numbers or strings."""
        if self.order not in "<>=|" or not PLAIN_DTYPE.fullmatch(self.code):
            return None
        return np.dtype((self.order if self.order in "<>" else "=") + self.code)


class _Array:
    """Stands for the array that NumPy's reconstruct functions return."""

    def __init__(self, shape: Any = (), dtype: Any = None, data: Any = None, fortran: bool = False) -> None:
        self.shape, self.dtype, self.data, self.fortran = shape, dtype, data, fortran

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.data = state

    def numpy(self) -> Array | UnreadArray:
        dtype = self.dtype.numpy() if type(self.dtype) is _Dtype else None
        if dtype is None or type(self.data) not in (bytes, bytearray):
            return UnreadArray(self.dtype.code if type(self.dtype) is _Dtype else "unknown")
        shape = self.shape
        if type(shape) not in (tuple, list) or len(shape) > MAX_AXES or any(type(size) is not int for size in shape):
            raise Refused(f"an array whose shape is {shown(shape) if type(shape) is int else type(shape).__name__}")
        shape = tuple(shape)
        known = all(0 <= size < 2**62 for size in shape) and math.prod(shape) * dtype.itemsize == len(self.data)
        if not known:
            raise Refused(f"an array of shape {shape} and dtype {dtype} comes with {len(self.data)} bytes")
        values: Array = np.frombuffer(self.data, dtype) if len(self.data) else np.empty(0, dtype)
        return values.reshape(shape, order="F" if self.fortran else "C")


class _Scalar(_Array):
    """Stands for a NumPy scalar: an array without axes."""


class UnreadArray:
    """An array that isn't made of plain numbers or strings. Whoever needs it has to refuse it."""

    def __init__(self, code: str) -> None:
        self.code = code


def name_of(value: Any) -> str:
    """A key or name from a file as text: Python 2 wrote bytes, and numbers may be keys.

    Raises Refused for anything else: the text of tuples that hold each other twice would never end.
    """
    size = len(value) if isinstance(value, (str, bytes)) else value.bit_length() if isinstance(value, int) else None
    if size is None or size > (64 if isinstance(value, int) else MAX_NAME):
        raise Refused(f"a name that is a {type(value).__name__}" + (f" of length {size}" if size else ""))
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any = None) -> _Scalar:
    return _Scalar((), dtype, data)


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(shape, dtype, data, fortran=order == "F")


def _encode(value: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes into protocols that have none."""
    if name_of(encoding) not in ("latin1", "latin-1"):
        raise Refused(f"codec {name_of(encoding)!r}")
    return bytes(value.encode("latin-1"))


def _no_bytes() -> bytes:
    return b""


class _Ndarray:
    """Stands for numpy.ndarray, which is only ever named, never called."""

    def __init__(self) -> None:
        raise Refused("a call of numpy.ndarray")


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Ndarray,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _no_bytes,
    ("builtins", "bytes"): _no_bytes,
}
# Other ways to call or fetch things. An array needs none of them, so they don't exist here.
UNUSED_OPCODES = (
    pickle.PERSID, pickle.BINPERSID, pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX,
    pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER,
    pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET,
)


class _Steps(dict[int, Any]):
    """The table of opcodes, which gives out no more than MAX_STEPS of them."""

    def __init__(self, table: dict[int, Any]) -> None:
        super().__init__(table)
        self.left = MAX_STEPS

    def __getitem__(self, opcode: int) -> Any:
        self.spend(1)
        return super().__getitem__(opcode)

    def spend(self, count: int) -> None:
        """Take what an opcode costs beyond itself. Raises Refused when nothing is left."""
        self.left -= count
        if self.left < 0:
            raise Refused(f"more than {MAX_STEPS} steps to be read")


class _Clipped:
    """A file of `size` bytes, of which nobody can ask for more: Python allots what is asked for before it reads."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._most, self.readline = file, size + 1, file.readline

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._most))


class Unpickler(pickle._Unpickler):
    """The pickle machine in Python: unlike the C one, it can be stripped, and it allots no memory for
    numbers that a file merely mentions. Arrays are single opcodes, so it is as fast."""

    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Any]] = {code: step for code, step in pickle._Unpickler.dispatch.items()
                                          if code not in {opcode[0] for opcode in UNUSED_OPCODES}}

    def __init__(self, file: IO[bytes], size: int) -> None:
        super().__init__(_Clipped(file, size), fix_imports=False, encoding="bytes")
        self.size = self.encoded = size
        self.steps = self.dispatch = _Steps(type(self).dispatch)  # type: ignore[misc]

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return ALLOWED[module_name, global_name]
        except KeyError:
            raise Refused(f"{module_name}.{global_name}"[:200]) from None

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple:
            raise Refused(f"a call with a {type(arguments).__name__} for arguments")
        self.steps.spend(sum(len(value) for value in arguments if type(value) in (tuple, list, dict)))
        if function is _encode and arguments:  # each call copies, and text may be referred to again and again
            self.encoded -= len(arguments[0])
            if self.encoded < 0:
                raise Refused("more bytes than the file has")
        self.append(function(*arguments))

    def load_setitem(self) -> None:
        name_of(self.stack[-2])
        super().load_setitem()  # type: ignore[misc]

    def load_setitems(self) -> None:
        for key in self.stack[::2]:  # since the mark; hashing tuples that hold each other twice would never end
            name_of(key)
        super().load_setitems()  # type: ignore[misc]

    def load_dict(self) -> None:
        for key in self.stack[::2]:
            name_of(key)
        super().load_dict()  # type: ignore[misc]

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) not in (_Array, _Dtype):  # else it would set attributes of our classes
            raise Refused(f"a change of a {type(target).__name__}")
        target.__setstate__(state)

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > self.size:  # the stock opcode fills that much memory before it reads
            raise EOFError
        self.append(bytearray(self.read(size)))

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def load_pickle(path: Path, way_out: str = "write it again with pickle.dump", damaged: str | None = None) -> Any:
    """The dicts, lists, tuples, scalars and NumPy arrays in the pickle `path`; strings may be bytes.

    Arrays that aren't plain numbers or strings come back as `UnreadArray`. Raises UserError, one
    line ending in `way_out`, for a file that is missing, empty, truncated, no pickle, or that asks
    for anything beyond ALLOWED; nothing of the file's choosing has run then. `damaged` is the way out
    of a file that isn't a whole pickle, where that is another.
    """
    damaged = damaged or way_out
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise OSError("no regular file")  # a pipe would wait for its writer
        with open(path, "rb") as file:
            if size == 0:
                raise UserError(f"{path}: the file is empty (0 bytes), expected a pickle; {damaged}")
            return _resolve(Unpickler(file, size).load(), 0, {})
    except UserError:
        raise
    except Refused as error:
        named = one_line(error)
        raise UserError(f"{path}: refused, the pickle asks for {named}; expected NumPy arrays in dicts only, "
                        f"nothing of it was run; {way_out}") from error
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}); {way_out}") from error
    except Exception as error:  # garbage ends in any of a dozen exceptions; all mean the same
        short = isinstance(error, EOFError) or "exhausted" in str(error) or "truncated" in str(error)
        reason = "the pickle is cut short" if short else "not a readable pickle"
        detail = f"{type(error).__name__} {one_line(error)}"[:120]
        raise UserError(f"{path}: {reason} ({size} bytes, {detail}); {damaged}") from error


def _resolve(value: Any, depth: int, seen: dict[int, Any]) -> Any:
    """Turn our stand-ins into arrays, each object once however often it is referred to."""
    if depth > MAX_DEPTH:
        raise Refused(f"more than {MAX_DEPTH} containers within each other")
    if isinstance(value, (_Array, _Dtype, dict, list, tuple)) and id(value) not in seen:
        seen[id(value)] = _resolve_one(value, depth + 1, seen)
    return seen.get(id(value), value)


def _resolve_one(value: Any, depth: int, seen: dict[int, Any]) -> Any:
    if isinstance(value, _Scalar):
        array = value.numpy()
        return array[()] if isinstance(array, np.ndarray) else array
    if isinstance(value, _Array):
        return value.numpy()
    if isinstance(value, _Dtype):
        return UnreadArray(value.code)
    if isinstance(value, dict):
        return {key: _resolve(item, depth, seen) for key, item in value.items()}
    return type(value)(_resolve(item, depth, seen) for item in value)

