"""The two layouts of torch.save: a zip archive (since 1.6), and pickles followed by raw storages (before)."""
from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any, Literal

from core.common.errors import UserError
from core.convert.pickles import WeightsUnpickler
from core.convert.standins import Storage
from core.data.archives import open_zip
from core.data.unpickle import Refused, name_of

MAGIC = bytes.fromhex("8a0a6cfc9c46f9206aa85019")  # the number that opens the older layout, as a pickle holds it
PROTOCOL = 1001


def read_zip(path: Path, classes: Collection[str]) -> Any:
    """What the archive's data.pkl holds, in stand-ins, with their storages filled."""
    with open_zip(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise UserError(f"{path}: a zip archive with {len(roots)} files data.pkl, expected one, as torch.save "
                            "writes it; give the file that torch.save wrote")
        root = roots[0]
        if f"{root}constants.pkl" in entries:
            raise UserError(f"{path}: a TorchScript archive; save the module's state_dict() with torch.save")

        def read(name: str) -> bytes:
            entry = entries[name]
            if entry.compress_type != zipfile.ZIP_STORED:  # torch never compresses; a bomb has to
                raise Refused(f"the compressed entry {name[:80]!r}")
            return archive.read(entry)

        storages: dict[str, Storage] = {}
        raw = read(f"{root}data.pkl")
        value = WeightsUnpickler(io.BytesIO(raw), len(raw), storages, classes).load()
        big = f"{root}byteorder" in entries and read(f"{root}byteorder") == b"big"
        held = sum(entries[f"{root}data/{key}"].file_size for key in storages)
        if held > path.stat().st_size:  # entries that share their bytes
            raise Refused(f"{held} bytes of storages, more than the file has")
        for key, storage in storages.items():
            storage.data, storage.order = read(f"{root}data/{key}"), ">" if big else "<"
        return value


def read_legacy(path: Path, classes: Collection[str]) -> Any:
    """What the main pickle holds, in stand-ins, with their storages filled."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        storages: dict[str, Storage] = {}

        def load() -> Any:
            return WeightsUnpickler(file, size, storages, classes).load()

        _, protocol, system, value = load(), load(), load(), load()
        if protocol != PROTOCOL or not isinstance(system, dict):
            raise UserError(f"{path}: layout {str(protocol)[:40]} of torch.save, expected {PROTOCOL}; "
                            "save it again with a current PyTorch")
        little = system.get("little_endian", system.get(b"little_endian", True))
        for key in load():
            _fill(storages[name_of(key)], file, size, "<" if little else ">")
        return value


def _fill(storage: Storage, file: IO[bytes], size: int, order: Literal["<", ">"]) -> None:
    """A storage: its count as int64, then its numbers."""
    (count,) = struct.unpack(f"{order}q", file.read(8))
    if count != storage.count or storage.size > size:
        raise ValueError(f"a storage of {count} numbers, announced with {storage.count}, in {size} bytes")
    storage.data, storage.order = file.read(storage.size), order
