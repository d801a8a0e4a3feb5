"""Published pickles converted once into a memory-mapped safetensors file beside a manifest.

    STORE_DIR/<dataset>-<first 12 digits of the source's sha256>.safetensors
    STORE_DIR/<dataset>.manifest.json    written last: what it names is complete

Unpickling reads and holds the whole file (IEMOCAP: four emotions); the store hands out only the
tensors asked for. Two processes that convert at once write the same bytes; the last rename wins.
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from core.data.published import SPLITS
from core.data.readers import Part, read_published
from core.errors import RunFailed, UserError
from core.files import atomic_path, sha256_of, write_json
from core.randomness import Array

SCHEMA = 1  # raise it when the meaning of the stored tensors changes: old stores are then redone
ATTEMPTS = 3  # another process may replace the store between our look at it and our opening it


@dataclass(frozen=True)
class Store:
    """A converted data set on disk. `manifest` holds the source's sha256 and what was cleaned."""

    path: Path
    manifest: dict[str, Any]

    def part(self, emotion: str | None) -> dict[str, Any] | None:
        """`modalities`, `cleaning` and `useless` of an emotion (None: MOSI and POM); None if absent."""
        found: dict[str, Any] | None = self.manifest["parts"].get(emotion or "")
        return found

    def read(self, emotion: str | None, names: tuple[str, ...]) -> dict[str, dict[str, Array]]:
        """The tensors `names` (modalities, `label`) of every split; no others are read.

        Raises SafetensorError or OSError when the file is damaged or gone.
        """
        with safe_open(str(self.path), framework="numpy") as file:
            return {split: {name: file.get_tensor(_key(emotion or "", split, name)) for name in names}
                    for split in SPLITS}


def read_store(source: Path, dataset: str, folder: Path, emotion: str | None,
               modalities: tuple[str, ...]) -> tuple[Store, dict[str, dict[str, Array]]]:
    """The store of `source` in `folder`, made or redone where needed, and the arrays of one part.

    Modalities that the part lacks, or the part itself, are left out of the arrays: the caller knows
    what to say. Raises UserError when the source is unusable or `folder` can't be written.
    """
    for attempt in range(ATTEMPTS):
        store = _current(source, dataset, folder) or _convert(source, dataset, folder)
        part = store.part(emotion)
        if part is None:
            return store, {}
        names = (*(name for name in modalities if name in part["modalities"]), "label")
        try:
            return store, store.read(emotion, names)
        except (SafetensorError, OSError) as error:
            if attempt == ATTEMPTS - 1:
                raise UserError(f"{store.path}: can't be read ({' '.join(str(error).split())}); "
                                f"remove {folder} or choose another --store_dir") from error
            _manifest_path(folder, dataset).unlink(missing_ok=True)
    raise AssertionError("unreachable")


def _key(part: str, split: str, name: str) -> str:
    return "/".join(filter(None, (part, split, name)))


def _manifest_path(folder: Path, dataset: str) -> Path:
    return folder / f"{dataset}.manifest.json"


def _stamp(source: Path) -> list[int]:
    """What changes when a file is replaced or written to: spares hashing it at every start."""
    stat = source.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _current(source: Path, dataset: str, folder: Path) -> Store | None:
    """The store in `folder` if it is whole and made from the source as it is now."""
    try:
        manifest = json.loads(_manifest_path(folder, dataset).read_text(encoding="utf-8"))
        store = Store(folder / manifest["store"]["file"], manifest)
        whole = manifest["schema"] == SCHEMA and store.path.stat().st_size == manifest["store"]["bytes"]
        made_from = manifest["source"]
        same = made_from["stamp"] == _stamp(source) or (
            made_from["bytes"] == source.stat().st_size and made_from["sha256"] == sha256_of(source))
        with safe_open(str(store.path), framework="numpy") as file:
            whole = whole and set(file.keys()) == set(manifest["tensors"])
        return store if whole and same else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None  # no store, half a store or someone else's file: it is made again


def _convert(source: Path, dataset: str, folder: Path) -> Store:
    stamp, digest = _stamp(source), sha256_of(source)
    parts = read_published(source, dataset)
    tensors = {_key(name, split, key): array for name, part in parts.items()
               for split, arrays in part.arrays.items() for key, array in arrays.items()}
    path = folder / f"{dataset}-{digest[:12]}.safetensors"
    with _writable(folder):
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)
            store_digest, size = sha256_of(temporary), temporary.stat().st_size
        manifest = {
            "schema": SCHEMA,
            "source": {"name": source.name, "sha256": digest, "bytes": stamp[0], "stamp": stamp},
            "store": {"file": path.name, "sha256": store_digest, "bytes": size},
            "tensors": {key: {"shape": list(array.shape), "dtype": str(array.dtype)}
                        for key, array in tensors.items()},
            "parts": {name: _summary(part) for name, part in parts.items()},
        }
        write_json(_manifest_path(folder, dataset), manifest)
        for old in folder.glob(f"{dataset}-{'[0-9a-f]' * 12}.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)
    return Store(path, manifest)


def _summary(part: Part) -> dict[str, Any]:
    modalities = [name for name in part.arrays["train"] if name != "label"]
    return {"modalities": modalities, "cleaning": part.cleaning, "useless": part.useless}


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RunFailed, SafetensorError) as error:
        raise UserError(f"{folder}: the converted data can't be written there "
                        f"({' '.join(str(error).split())[:200]}); choose a writable --store_dir") from error
