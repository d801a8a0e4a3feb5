"""What the frameworks do by default, put in the place of our corrected calls, inside a worker process.

Each function of a framework's file that `install` names returns replacements: owner, key, value. The owner is a table,
such as that of the blocks, or has attributes. The others are called by name and return plain values.
"""
from __future__ import annotations

import importlib
from typing import Any

Replacements = list[tuple[Any, str, Any]]
_kept: Replacements = []
_NOTHING = object()  # what stood where a table had no entry


def install(framework: str, default: str, package: str = __name__) -> None:
    """Replace what `<package>.<framework>.<default>` says, until `restore`."""
    for owner, key, value in getattr(importlib.import_module(f"{package}.{framework}"), default)():
        _kept.append((owner, key, owner.get(key, _NOTHING) if isinstance(owner, dict) else getattr(owner, key)))
        _put(owner, key, value)


def restore() -> None:
    """Put everything back."""
    while _kept:
        _put(*_kept.pop())


def _put(owner: Any, key: str, value: Any) -> None:
    if not isinstance(owner, dict):
        setattr(owner, key, value)
    elif value is _NOTHING:
        del owner[key]
    else:
        owner[key] = value
