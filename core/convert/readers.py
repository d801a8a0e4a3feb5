"""Which program wrote a file, and its tensors under that program's names. Nothing in a file is run."""
from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from core.common.arrays import Array
from core.common.errors import UserError, one_line
from core.convert.mindspore_files import read_ckpt
from core.convert.network import PublishedNetwork
from core.convert.pickles import MAX_TENSORS, WeightsUnpickler, named_tensors
from core.convert.settings import Setting, settings_of
from core.convert.standins import Storage
from core.convert.torch_files import MAGIC, read_legacy, read_zip
from core.data.archives import open_tensors
from core.data.unpickle import Refused
from core.training.checkpoint import FORMAT

WAY_OUT = "give a checkpoint as Paddle, PyTorch or MindSpore wrote it, best a state dict alone"
WHOLE = ", or a whole module of the course with --model msa"
MOST_SHARING = 8  # Paddle names the LSTM's tensors twice, bfloat16 is widened twofold


@dataclass(frozen=True)
class Source:
    """Tensors as a file has them: names and layouts are the framework's own. settings: those of a whole module."""

    kind: str
    framework: str
    tensors: Mapping[str, Array]
    settings: Mapping[str, Setting] = field(default_factory=dict)


def read_source(path: Path, network: PublishedNetwork) -> Source:
    """Read `path`, whose format is told by its first bytes, never by its name.

    Raises UserError, one line, for a file that is missing, empty, damaged, of an unknown format, or that
    asks for anything beyond tensors; nothing of the file's choosing has run then.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: is no file, but a folder, a pipe or a device; {WAY_OUT}")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}); {WAY_OUT}") from error
    kind, framework, reader = _format(path, head, network.classes)
    try:
        value = reader(path)
        tensors, settings = _arrays(value, path.stat().st_size), settings_of(value, network)
    except UserError:
        raise
    except Refused as error:
        named = one_line(error)
        raise UserError(f"{path}: refused, the {kind} asks for {named}; expected tensors by name, nothing of it "
                        f"was run; {WAY_OUT}{WHOLE if network.classes else ''}") from error
    except Exception as error:  # garbage ends in any of a dozen exceptions; all mean the same
        detail = f"{type(error).__name__} {one_line(error)}"[:160]
        raise UserError(f"{path}: not a readable {kind} ({path.stat().st_size} bytes, {detail}); it may be cut "
                        f"short: fetch it again; {WAY_OUT}") from error
    return Source(kind, framework, tensors, settings)


def _format(path: Path, head: bytes, classes: Collection[str]) -> tuple[str, str, Callable[[Path], Any]]:
    """Name of the format, framework of the names, reader."""
    if not head:
        raise UserError(f"{path}: the file is empty (0 bytes); {WAY_OUT}")
    if head.startswith(b"PK\x03\x04"):
        return "PyTorch zip file", "torch", partial(read_zip, classes=classes)
    if MAGIC in head[:32]:
        return "PyTorch legacy file", "torch", partial(read_legacy, classes=classes)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        _refuse_safetensors(path)
    if head[257:262] == b"ustar":
        raise UserError(f"{path}: a .tar file, as PyTorch wrote before 0.2; load and save it with a later PyTorch")
    if head[:1] in b"\x80(c}]":
        return "Paddle pickle", "paddle", partial(_read_pickle, classes=classes)
    if head[:1] == b"\n":
        return "MindSpore checkpoint", "mindspore", read_ckpt
    raise UserError(f"{path}: unknown format, begins with {head[:16]!r}; {WAY_OUT}")


def _refuse_safetensors(path: Path) -> None:
    try:
        with open_tensors(path) as file:
            ours = (file.metadata() or {}).get("format") == FORMAT
    except (ValueError, OSError, SafetensorError):
        ours = False
    if ours:
        raise UserError(f"{path}: is already a checkpoint of this project; give it to --checkpoint as it is")
    raise UserError(f"{path}: a safetensors file of another program, which doesn't say whose layouts it has; {WAY_OUT}")


def _read_pickle(path: Path, classes: Collection[str]) -> Any:
    size = path.stat().st_size
    storages: dict[str, Storage] = {}
    with open(path, "rb") as file:
        value = WeightsUnpickler(file, size, storages, classes).load()
    if storages:
        raise Refused("storages of PyTorch, whose numbers are not in this file")
    return value


def _arrays(value: Any, size: int) -> dict[str, Array]:
    """The named tensors in `value`, from a file of `size` bytes. Views of one storage can't multiply it at will."""
    named = named_tensors(value)
    if len(named) > MAX_TENSORS:
        raise Refused(f"{len(named)} tensors, at most {MAX_TENSORS} are read")
    arrays: dict[str, Array] = {}
    total = 0
    for name, item in named.items():
        if not name.isprintable():
            raise Refused(f"the name {name[:80]!r}")
        arrays[name] = _array(name, item)
        total += arrays[name].nbytes
        if total > MOST_SHARING * size:
            raise Refused(f"{total} bytes of tensors, more than {MOST_SHARING} times the file")
    return arrays


def _array(name: str, value: Any) -> Array:
    array = value if isinstance(value, np.ndarray) else value.numpy() if hasattr(value, "numpy") else None
    if not isinstance(array, np.ndarray):
        raise Refused(f"entry {name[:80]!r}, a {type(value).__name__} where a tensor should be")
    return array
