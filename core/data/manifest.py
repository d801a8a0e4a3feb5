"""The manifest of a store: read only where it is what was written, and a note of what was verified.

    STORE_DIR/<dataset>.manifest.json    what the store holds, with a sha256 of every tensor and of itself
    STORE_DIR/<dataset>.verified.json    the version of the store's file that was last found to hold that
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import stat
import time
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from core.common.errors import RunFailed, one_line
from core.common.files import read_bounded, write_json

SCHEMA = 1  # raise it when the meaning of the stored tensors changes: old stores are then redone
MANIFEST_BYTES = 2**20  # IEMOCAP's has 20,000
TICK = 0.02  # seconds: two ticks of the coarsest clock that file systems have their times from

Stamp = list[int]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _Source(_Strict):
    name: str
    sha256: str
    bytes: int
    stamp: Stamp


class _File(_Strict):
    file: Annotated[str, Field(pattern=r"^[a-z0-9_]+-[0-9a-f]{12}\.safetensors$")]
    bytes: int


class _Part(_Strict):
    """As core.data.readers.Part has it."""

    modalities: list[str]
    cleaning: dict[str, dict[str, dict[str, int]]]
    useless: dict[str, str]


class _Manifest(_Strict):
    """What every manifest has. tensors: name -> what core.common.digests.describe says of it. description: the digest
    of that by which a user's own data was read."""

    version: int = Field(alias="schema")
    source: _Source
    store: _File
    tensors: dict[str, dict[str, Any]]
    description: str = ""
    parts: dict[str, _Part]


class Damaged(Exception):
    """A store that is not what was written; the message names the file. It is converted again."""


def stamp_of(path: Path) -> Stamp:
    """What changes when a file is replaced or written to, even if its mtime is set back: spares hashing it each time.

    Raises OSError for what is no regular file. A bit that the disk itself loses changes none of this.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path}: no regular file")
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def manifest_path(folder: Path, dataset: str) -> Path:
    return folder / f"{dataset}.manifest.json"


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest as it was written; None where there is none. Raises Damaged for everything else."""
    try:
        manifest = json.loads(read_bounded(path, MANIFEST_BYTES))
        if not isinstance(manifest, dict):
            raise ValueError(f"a {type(manifest).__name__}")
        written = manifest.pop("sha256", None)
        if written is None:
            raise ValueError("no sha256 of itself, an earlier version may have made it")
        if written != _digest(manifest):
            raise ValueError("not what was written, by its sha256")
        _Manifest.model_validate(manifest)
        return manifest
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path}: {one_line(error)[:200]}") from error


def clear_place(path: Path) -> None:
    """Remove an empty folder in the place of a file; all else gives way by itself. Raises OSError if it has files."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest` whole, with its own sha256. Raises RunFailed or OSError when that can't be done."""
    clear_place(path)
    write_json(path, {**manifest, "sha256": _digest(manifest)})


def verified(folder: Path, dataset: str, manifest: dict[str, Any], stamp: Stamp) -> bool:
    """Whether this version of the store's file was found to be what `manifest` says."""
    try:
        return bool(json.loads(read_bounded(_note(folder, dataset), MANIFEST_BYTES)) == _said(manifest, stamp))
    except (OSError, ValueError, RecursionError):
        return False  # no note, or none that says so: then it is verified now


def settle(stamp: Stamp) -> bool:
    """Wait, for two TICKs at most, until a later change of the file must show in its times.

    False: by our clock the file was changed in the future, which proves nothing.
    """
    age = time.time() - stamp[2] / 1e9
    if abs(age) < TICK:
        time.sleep(TICK - age)
        return True
    return age > 0


def note_verified(folder: Path, dataset: str, manifest: dict[str, Any], stamp: Stamp) -> None:
    """Note that the version `stamp` is what `manifest` says. In a folder that can't be written it is verified anew."""
    with contextlib.suppress(RunFailed):
        write_json(_note(folder, dataset), _said(manifest, stamp))


def _note(folder: Path, dataset: str) -> Path:
    return folder / f"{dataset}.verified.json"


def _said(manifest: dict[str, Any], stamp: Stamp) -> dict[str, Any]:
    return {"manifest": _digest(manifest), "stamp": stamp}


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
