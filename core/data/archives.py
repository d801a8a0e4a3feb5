"""Zip archives and safetensors files from strangers, opened within limits: what they announce is looked at first."""
from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import safe_open

from core.common.arrays import Array

MAX_DIRECTORY = 1 << 20  # bytes of a zip directory: 20,000 entries; torch.save writes one per tensor
MAX_HEADER = 1 << 25  # bytes of a safetensors header: the record of a run of 100,000 epochs, or 300,000 tensors
MAX_NAMES = 10_000  # tensors in a file
ALWAYS, MOST_UNPACKED = 1 << 26, 20  # a .npz may unpack to 64 MiB, or to twenty times its size


class _Opening:
    """A file that hands out at most MAX_DIRECTORY bytes at once until it is `opened`.

    zipfile reads the directory in one piece and makes an object of every entry, all before its caller can look.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.opened = file, False
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY and not self.opened:
            raise ValueError(f"a zip directory of {size} bytes, at most {MAX_DIRECTORY} are read")
        return self._file.read(size)


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`. Raises ValueError for a directory of too many entries, and what zipfile raises."""
    with open(path, "rb") as file:
        opening: Any = _Opening(file)
        with zipfile.ZipFile(opening) as archive:
            opening.opened = True
            yield archive


def read_npz(path: Path, wanted: set[str]) -> dict[str, Array | None]:
    """The arrays `wanted` of a .npz file; None for its others, which stay unread.

    Raises ValueError for arrays that unpack to more than a file of its size should hold, whose shape isn't that of
    their bytes, or that are made of Python objects; and what zipfile and NumPy raise for garbage.
    """
    found: dict[str, Array | None] = {}
    left = max(ALWAYS, MOST_UNPACKED * os.path.getsize(path))
    with open_zip(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            found[name] = None
            if name in wanted:
                left -= entry.file_size  # zipfile unpacks no more than an entry announces
                if left < 0:
                    raise ValueError(f"{name} unpacks to {entry.file_size} bytes out of a file of "
                                     f"{os.path.getsize(path)}; write it with numpy.savez, not compressed")
                found[name] = _read_npy(archive, entry)
    return found


def _read_npy(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Array:
    with archive.open(entry) as file:
        npy: Any = np.lib.format
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"format {version} of .npy, expected 1.0 or 2.0")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("an array of Python objects (allow_pickle is off)")
        raw = file.read()
    values: Array = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """The safetensors file at `path`, as safe_open gives it.

    Raises ValueError for a header too large to be read, or of too many tensors; SafetensorError for garbage.
    """
    with open(path, "rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
    if MAX_HEADER < size < os.path.getsize(path):
        raise ValueError(f"a header of {size} bytes, at most {MAX_HEADER} are read")
    with safe_open(str(path), framework="numpy") as file:
        count = len(file.keys())
        if count > MAX_NAMES:
            raise ValueError(f"{count} tensors, at most {MAX_NAMES} are read")
        yield file
