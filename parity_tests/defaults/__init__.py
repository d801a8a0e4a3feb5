"""What the frameworks do by default, put in the place of our corrected calls, inside a worker process.

Each function of a framework's file that `install` names returns replacements: owner, attribute, value. The others
are called by name and return plain values.
"""
from __future__ import annotations

import importlib
from typing import Any

Replacements = list[tuple[Any, str, Any]]
_kept: Replacements = []


def install(framework: str, default: str, package: str = __name__) -> None:
    """Replace what `<package>.<framework>.<default>` says, until `restore`."""
    for owner, attribute, value in getattr(importlib.import_module(f"{package}.{framework}"), default)():
        _kept.append((owner, attribute, getattr(owner, attribute)))
        setattr(owner, attribute, value)


def restore() -> None:
    """Put everything back."""
    while _kept:
        setattr(*_kept.pop())
