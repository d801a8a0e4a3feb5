"""Readers with the faults that the harness looks for: it has to find each."""
from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

from core.common.errors import UserError
from tests.fuzz.formats import Format

BELOW = b"cposix\nsystem\n(S'true'\ntR."


def _raise() -> None:
    raise KeyError("x")


def _spin() -> None:
    while True:
        pass


def _grow() -> None:
    try:
        bytearray(2**30 + 2**20)
    except MemoryError as error:
        raise UserError("x: can't be read; give another file") from error


def _escape() -> None:
    print("\x1b[31m")


def _no_way_out() -> None:
    raise UserError("x: is wrong")


def _write_elsewhere() -> None:
    path = Path(tempfile.gettempdir()) / "fuzz-elsewhere"
    path.open("ab").close()
    path.unlink()


def _run() -> None:
    pickle.loads(BELOW)


def _canary() -> None:
    pickle._loads(b"cfuzz_canary\nfire\n)R.")  # type: ignore[attr-defined]


def _die() -> None:
    os._exit(3)


FAULTY: dict[str, tuple[Callable[[], None], str]] = {
    "raises": (_raise, "KeyError"), "spins": (_spin, "s of processor time"), "grows": (_grow, "asked for more than"),
    "escapes": (_escape, "it printed"), "silent": (_no_way_out, "no way out"), "runs": (_run, "it did: "),
    "calls": (_canary, "it did: pickle.find_class"),
    "writes": (_write_elsewhere, "it did: open"), "dies": (_die, "died with exit code 3"),
}


def maker(name: str) -> Callable[[Path], Format]:
    """Sound at first, when the seed is read; then at fault."""
    reads = []

    def read(_: int) -> None:
        reads.append(name)
        if len(reads) > 1:
            FAULTY[name][0]()

    return lambda folder: Format([{"x": b"sound"}], {"x": "bytes"}, read, seconds=1)
