"""Text that a file or a user had a say in, fit for a terminal: it can neither steer it nor break a line."""
from __future__ import annotations

import sys
from typing import Any, TextIO

LONGEST = 2000  # characters of a message; a file may call things by names of a megabyte


def printable(text: str) -> str:
    """`text` with everything that isn't a visible character as its escape: `\\x1b`, `\\u202e`, `\\udc80`.

    Line breaks, control characters, marks that turn the direction of writing, and the bytes of file names that are no
    text are such.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def single_line(text: str) -> str:
    """`text` on one line, printable; of a very long one the beginning, and the end, where the way out stands."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= LONGEST else f"{line[:LONGEST // 2]} ... {line[-LONGEST // 4:]}"


def shown(value: Any, most: int = 200) -> str:
    """repr of a value from a file, which escapes what can't be printed, and cut short.

    An integer that Python won't write in decimals is called by its size.
    """
    try:
        text = repr(value)
    except ValueError:
        return "a number of too many digits"
    return text if len(text) <= most else f"{text[:most]}..."


def say(text: str, file: TextIO | None = None) -> None:
    """One printable line, to stdout or `file`, at once: an output that is gone shows here."""
    print(printable(text), file=sys.stdout if file is None else file, flush=True)


def warn(message: str) -> None:
    """One line on stderr."""
    say(f"warning: {message}", sys.stderr)
