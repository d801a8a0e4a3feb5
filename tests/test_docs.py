"""What README.md and docs/*.md name is there: files, links, commands, modules and what stands in them."""
from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.running import ROOT

PAGES = [ROOT / "README.md", ROOT / "ports/ascend/README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("core", "backends", "parity", "parity_tests", "tests", "benchmarks")
FOLDERS = (*PACKAGES, "configs", "docs", "ports")
ENDINGS = "py|md|yaml|toml|txt|svg|j2"
# by the reader of docs/adding_a_model.md, by its test, by a plan
MADE = {"core/models/early_fusion.py", "small.yaml", "differences.md"}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def names_in(path: Path) -> frozenset[str]:
    """Functions, classes, methods and constants that a module defines."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update(target.id for target in targets if isinstance(target, ast.Name))
    return frozenset(found)


def module_of(dotted: str) -> tuple[Path | None, list[str]]:
    """The file or folder that the beginning of `a.b.c` is, and what is left of the name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        for there in (path.with_suffix(".py"), path / "__init__.py"):
            if there.is_file():
                return there, parts[length:]
    return None, parts


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page))]
    missing = [link for link in links if link and "://" not in link and not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_are_there(page: Path) -> None:
    """`core/x/y.py`, `backends/*/z.py`, `configs/`. A name without a folder is that of a file somewhere."""
    known = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")}
    known |= {path.name for path in ROOT.iterdir()}
    missing = []
    for quoted in set(re.findall(r"`([^`\n]+)`", text_of(page))) - MADE:
        if re.fullmatch(rf"\w+\.(?:{ENDINGS})", quoted):
            missing += [] if quoted in known else [quoted]
        elif re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w*./-]*", quoted):
            path = quoted.replace("/x/", "/*/").rstrip("/")  # x: any backend
            missing += [] if list(ROOT.glob(path)) else [quoted]
    assert not missing, f"{page.name} names {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_functions_are_in_the_files_that_are_named_with_them(page: Path) -> None:
    """`core/x/y.py`, `function`."""
    pairs = re.findall(r"`([\w/]+\.py)`, `(\w+)`", text_of(page))
    missing = [pair for pair in pairs if (ROOT / pair[0]).is_file() and pair[1] not in names_in(ROOT / pair[0])]
    assert not missing, f"{page.name} names {missing}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_what_is_in_them_are_there(page: Path) -> None:
    """`python -m core.search`, `core.training.losses.softmax`, `parity.ladder`."""
    text = text_of(page)
    commands = {name for name in re.findall(r"python -m ([\w.]+)", text) if name.split(".")[0] in PACKAGES}
    missing = [name for name in commands if not any((ROOT / f"{name.replace('.', '/')}{end}").is_file()
                                                    for end in (".py", "/__main__.py"))]
    for dotted in re.findall(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)`", text):
        path, rest = module_of(dotted)
        if path is None or not set(rest) <= names_in(path):
            missing.append(dotted)
    assert not missing, f"{page.name} names {missing}"
