"""How a divergence is shown: a backend runs the framework's own call, and the check that guards it must fail."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.common.errors import RunFailed
from core.runtime.worker import Worker
from parity.ladder import Rung

PAGE = Path(__file__).resolve().parents[1] / "docs" / "divergences.md"
REFERENCE = re.compile(r"`(test_\w+::test_\w+)`")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
SIZES = (r"relative to (?:what was summed into it|the largest) ([\d.e+-]+)", r"Max relative difference: ([\d.e+-]+)",
         r"Max relative difference among violations: ([\d.e+-]+)")  # as parity.compare and NumPy say it
WITHIN = 3.0  # the page's sizes are orders of magnitude
# Sizes that belong to the CPU, by what a row says of them: no more than these bounds is asserted. float64 rounds by
# 1e-16 times the length of a sum, at most 2,560 terms here: 1e-12 is what the rungs allow it, too (parity/bounds.py).
# Where a float32 is on the way, that is 2^-24 times some hundred terms; half precision would begin at 2^-11.
ROUNDINGS = {"a rounding of float64": (0.0, 1e-12), "a rounding of float32": (1e-12, 2.0**-15)}


@dataclass(frozen=True)
class Row:
    """A line of one of the page's tables. `guards` fail if the divergence comes back; `shown` sees them fail."""

    differs: str
    size: str
    here: str
    guards: tuple[str, ...]
    shown: tuple[str, ...]


def read_rows() -> list[Row]:
    """Every row of every table, headers left out. Raises ValueError on a row of another width."""
    rows = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith("| what differs"):
            differs, size, here, guards, shown = (cell.strip() for cell in line.strip("|").split(" | "))
            rows.append(Row(differs, size, here, tuple(REFERENCE.findall(guards)), tuple(REFERENCE.findall(shown))))
    return rows


def assert_written(test: str, size: float) -> None:
    """`size` is, within a factor of three, the first number of the size that the page gives in the row of `test`.

    Where the page says that it is a rounding, `size` lies between the bounds of such a rounding.
    """
    row = next((row for row in read_rows() if test in row.shown), None)
    assert row is not None, f"no row of {PAGE.name} names {test}"
    for kind, (low, high) in ROUNDINGS.items():
        if row.size.startswith(kind):
            assert low <= size <= high, f"{test}: {size:.2e}, {kind} lies between {low:.0e} and {high:.0e}"
            return
    found = NUMBER.search(row.size)
    assert found, f"{test}: measured {size:.2e}, but its row has no number: {row.size!r}"
    wanted = float(found[0])
    assert wanted / WITHIN <= size <= wanted * WITHIN, f"{test}: {size:.2e}, the page has {row.size!r}"


def fails(check: Callable[..., Any], *args: Any, match: str) -> float:
    """Run a check that has to fail with a message that matches. Returns the relative size that it reports, or NaN."""
    with pytest.raises((AssertionError, RunFailed), match=match) as caught:
        check(*args)
    sizes = [found[1] for pattern in SIZES if (found := re.search(pattern, str(caught.value)))]
    return float(sizes[0]) if sizes else float("nan")


def differs(rung: Rung, tensor: str) -> float:
    """That `tensor` is beyond what the rung allows. Returns the relative size."""
    found = rung.gaps[tensor]
    assert found.exceeds(rung.tolerance), f"{tensor}: {found.sentence(rung.tolerance)}"
    return found.relative


@contextmanager
def installed(worker: Worker, default: str, package: str = "parity_tests.defaults") -> Iterator[None]:
    """Within the block, `worker` runs the framework's default of that name in place of the backend's own code: what is
    opened there is made of its blocks, its losses and its optimizer.

    `package`: whose file of that framework has it.
    """
    try:
        worker.run("parity_tests.defaults:install", worker.backend, default, package)
        yield
    finally:
        worker.run("parity_tests.defaults:restore")


class Altered:
    """`inner` with some attributes replaced."""

    def __init__(self, inner: Any, **changes: Any) -> None:
        self._inner, self._changes = inner, changes

    def __getattr__(self, name: str) -> Any:
        return self._changes[name] if name in self._changes else getattr(self._inner, name)
