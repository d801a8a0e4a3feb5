"""docs/divergences.md and the tests agree: each row names tests that exist, each test of a divergence has a row."""
from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from parity_tests.divergences import NUMBER, PAGE, Row, assert_written, read_rows

ROWS = read_rows()
FOLDERS = ("parity_tests", "tests")


def named_tests(pattern: str) -> set[str]:
    """`module::function` of every test in files of that name."""
    paths = [path for folder in FOLDERS for path in (PAGE.parents[1] / folder).glob(pattern)]
    return {f"{path.stem}::{node.name}" for path in paths for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.differs[:40])
def test_a_row_names_tests_that_exist(row: Row) -> None:
    assert row.differs and row.size and row.here and row.guards and row.shown
    assert set(row.guards) | set(row.shown) <= named_tests("test_*.py")
    assert all(name.startswith("test_divergences_") for name in row.shown)


def test_each_test_of_a_divergence_has_a_row() -> None:
    shown = named_tests("test_divergences_*.py") - named_tests("test_divergences_page.py")
    assert shown == {name for row in ROWS for name in row.shown}


def test_all_that_was_found_in_the_ports_has_a_row() -> None:
    numbers = {int(found[1]) for row in ROWS if (found := re.match(r"(\d+)\. ", row.differs))}
    assert numbers == set(range(1, 20))
    read = {int(row.differs.split(".")[0]) for row in ROWS if "(read, not run)" in row.differs}
    assert read == {13, 15, 16, 17, 18, 19}


def test_a_row_of_another_width_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "divergences.md"
    page.write_text("| a | b | c |\n")
    monkeypatch.setattr("parity_tests.divergences.PAGE", page)
    with pytest.raises(ValueError, match="unpack"):
        read_rows()


@pytest.mark.parametrize(("cell", "right", "wrong"), [
    ("2e-3, or 5 elsewhere", (0.7e-3, 2e-3, 5.9e-3), (0.6e-3, 6.1e-3, float("nan"))),
    ("a rounding of float64 (6.6e-16)", (0.0, 1.5e-16, 9e-13), (2e-12, 1e-7, float("nan"))),
    ("a rounding of float32 (1.2e-7)", (2e-12, 1.3e-8, 1.2e-7, 2e-5), (0.0, 1e-15, 1e-4, float("nan"))),
])
def test_sizes_are_held_to_what_their_row_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cell: str,
                                               right: tuple[float, ...], wrong: tuple[float, ...]) -> None:
    """A number to a factor of three, a rounding to its bounds: its own number is what one CPU made of it."""
    page = tmp_path / "divergences.md"
    page.write_text(f"| a | {cell} | b | `test_a::test_b` | `test_c::test_d` |\n")
    monkeypatch.setattr("parity_tests.divergences.PAGE", page)
    for size in right:
        assert_written("test_c::test_d", size)
    for size in wrong:
        with pytest.raises(AssertionError, match="test_c::test_d"):
            assert_written("test_c::test_d", size)


def test_no_row_asserts_a_rounding_by_its_number() -> None:
    """A size as small as a rounding is one, unless the row says what it is that is rounded, alike on every CPU."""
    for row in ROWS:
        found = NUMBER.search(row.size)
        assert found is None or float(found[0]) > 1e-6 or "what rounding" in row.size, row.size
