"""Published pickles converted once into a memory-mapped safetensors file beside a manifest.

    STORE_DIR/<dataset>-<first 12 digits of the source's sha256>.safetensors
    STORE_DIR/<dataset>.manifest.json    written last: what it names is complete

Unpickling reads and holds the whole file (IEMOCAP: four emotions); the store hands out only the
tensors asked for. Two processes that convert at once write the same bytes; the last rename wins.
Every tensor is held to its sha256 in the manifest once per version of the file (core.data.manifest);
a store that is not what was written is converted again, with a warning.
"""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from core.common.arrays import Array
from core.common.digests import describe, difference
from core.common.errors import RunFailed, UserError, one_line
from core.common.files import atomic_path, remove_leftovers, sha256_of
from core.common.text import warn
from core.data.manifest import (
    SCHEMA,
    Damaged,
    clear_place,
    manifest_path,
    note_verified,
    read_manifest,
    settle,
    stamp_of,
    verified,
    write_manifest,
)
from core.data.published import SPLITS
from core.data.readers import READERS, Part
from core.data.specs import DataSpec

ATTEMPTS = 3  # another process may replace the store between our look at it and our opening it


@dataclass(frozen=True)
class Store:
    """A converted data set on disk. `manifest` holds the source's sha256 and what was cleaned."""

    path: Path
    dataset: str
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

    def verify(self) -> None:
        """Hold every tensor to its sha256, unless this version of the file was found to be right before.

        Raises Damaged naming file and tensor, SafetensorError or OSError when the file can't be read.
        """
        folder, stamp = self.path.parent, stamp_of(self.path)
        if verified(folder, self.dataset, self.manifest, stamp):
            return
        settled, written = settle(stamp), self.manifest["tensors"]
        with safe_open(str(self.path), framework="numpy") as file:
            names = set(file.keys())
            for name in sorted(names ^ set(written)):
                raise Damaged(f"{self.path}: {name} {'is missing' if name in written else 'was not written with it'}")
            for name, was in written.items():
                changed = difference(file.get_tensor(name), was)
                if changed:
                    raise Damaged(f"{self.path}: {name} is not what was written ({changed})")
        if settled:
            note_verified(folder, self.dataset, self.manifest, stamp)


def read_store(source: Path, known: DataSpec, folder: Path, emotion: str | None,
               modalities: tuple[str, ...]) -> tuple[Store, dict[str, dict[str, Array]]]:
    """The store of `source` in `folder`, made or redone where needed, and the arrays of one part.

    Modalities that the part lacks, or the part itself, are left out of the arrays: the caller knows
    what to say. Raises UserError when the source is unusable or `folder` can't be written.
    """
    damaged = False
    for _ in range(ATTEMPTS):
        store = (None if damaged else _current(source, known, folder)) or _convert(source, known, folder)
        part = store.part(emotion)
        if part is None:
            return store, {}
        names = (*(name for name in modalities if name in part["modalities"]), "label")
        try:
            store.verify()
            return store, store.read(emotion, names)
        except FileNotFoundError as error:
            reason = one_line(error)  # another process has just replaced it, or someone has removed it: look again
        except (Damaged, SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:  # types of no array
            damaged = True
            reason = one_line(error) if isinstance(error, Damaged) else f"{store.path}: {one_line(error)}"
            _say(reason, source)
    raise UserError(f"{reason}, after {ATTEMPTS} attempts; remove {folder} or choose another --store_dir")


def _say(reason: str, source: Path) -> None:
    warn(f"{reason}; {source} is converted again")


def _key(part: str, split: str, name: str) -> str:
    return "/".join(filter(None, (part, split, name)))


def _current(source: Path, known: DataSpec, folder: Path) -> Store | None:
    """The store in `folder` if there is one, made from the source as it is now; its tensors are not looked at yet."""
    path = manifest_path(folder, known.name)
    try:
        manifest = read_manifest(path)
        if manifest is None or manifest["schema"] != SCHEMA or manifest.get("description", "") != known.description:
            return None
        made_from, store = manifest["source"], Store(folder / manifest["store"]["file"], known.name, manifest)
        same = made_from["stamp"] == stamp_of(source) or (
            made_from["bytes"] == source.stat().st_size and made_from["sha256"] == sha256_of(source))
        if same and stamp_of(store.path)[0] != manifest["store"]["bytes"]:
            raise Damaged(f"{store.path}: {stamp_of(store.path)[0]} bytes, written {manifest['store']['bytes']}")
        return store if same else None
    except (Damaged, OSError) as error:
        _say(one_line(error), source)
        return None


def _convert(source: Path, known: DataSpec, folder: Path) -> Store:
    stamp, digest, dataset = stamp_of(source), sha256_of(source), known.name
    parts = READERS[known.reader](source, known)
    tensors = {_key(name, split, key): array for name, part in parts.items()
               for split, arrays in part.arrays.items() for key, array in arrays.items()}
    path = folder / f"{dataset}-{digest[:12]}.safetensors"
    with _writable(folder):
        clear_place(path)
        with atomic_path(path) as temporary:
            temporary.write_bytes(save(tensors))  # into this very file: save_file would put another in its place
            size = temporary.stat().st_size
        remove_leftovers(folder)
        manifest = {
            "schema": SCHEMA,
            "source": {"name": source.name, "sha256": digest, "bytes": stamp[0], "stamp": stamp},
            "store": {"file": path.name, "bytes": size},
            "tensors": {key: describe(array) for key, array in tensors.items()},
            "parts": {name: _summary(part) for name, part in parts.items()},
            **({"description": known.description} if known.description else {}),
        }
        write_manifest(manifest_path(folder, dataset), manifest)
        for old in folder.glob(f"{dataset}-{'[0-9a-f]' * 12}.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)
    return Store(path, dataset, manifest)


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
