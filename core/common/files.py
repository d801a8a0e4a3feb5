"""Writing files whole: a reader sees the old file or the new one, never half of one."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.common.errors import RunFailed

LEFTOVER = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.tmp")  # what a temporary file of `atomic_path` is called


@contextlib.contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Turn an operating system's error (disk full, no permission) into a RunFailed naming `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunFailed(f"{path}: can't be written ({reason}); free space or choose another folder") from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success flush it to disk and rename it to `path`.

    What is to be written goes into that very file: its lock says that its writer lives. Temporary files that killed
    processes left of `path` are removed. Raises RunFailed naming the file when the disk is full or the folder can't be
    written.
    """
    with naming_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        with _temporary(path) as temporary:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes files private; results are meant to be shared
            os.replace(temporary, path)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new file beside `path`, locked until the end: so others see that its owner lives. Removed if still there."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        locked = lock_file(handle, wait=True)  # it waits for who is just looking whether this is left over
        if os.fstat(handle).st_nlink:
            break
        os.close(handle)  # who looked took it away
    try:
        if not locked:
            os.close(handle)  # Windows renames no open file
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        if locked:
            os.close(handle)


def lock_file(handle: int, wait: bool = False) -> bool | None:
    """Lock an open file for this process, until it closes it or ends, however that comes.

    True: it is locked; False: another process has it, which `wait` waits for; None: the system or the file system has
    no such lock.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove temporary files that killed processes left in `folder`, of the file `name` or of all.

    One that a living process writes is locked and stays; where there are no locks, all stay.
    """
    with os.scandir(folder) as entries:
        found = [(Path(entry.path), match["name"]) for entry in entries
                 if entry.name.endswith(".tmp") and (match := LEFTOVER.fullmatch(entry.name))
                 and entry.is_file(follow_symlinks=False)]
    for path, of in found:
        if name in (None, of):
            with contextlib.suppress(FileNotFoundError, PermissionError), open(path, "r+b") as file:  # or not ours
                if lock_file(file.fileno()):
                    path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole. NaN is refused: JSON has no word for it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes.

    Raises OSError for anything else: to open a FIFO would wait for a writer, and a device may have no end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("no regular file")
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(f"more than {most} bytes")
    return content


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
