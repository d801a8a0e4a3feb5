"""docs/divergences.md and the tests agree: each row names tests that exist, each test of a divergence has a row."""
from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from parity_tests.divergences import PAGE, Row, read_rows

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
