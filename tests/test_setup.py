"""What an installation gets, and that the three backends have the same rooms."""
from __future__ import annotations

import ast
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from core.runtime.backend import BACKENDS
from tests.running import ROOT

FILES = ("lmf", "blocks", "normalisation", "attention", "fusion", "kernels", "losses", "model", "optimizer",
         "precision", "runtime", "state", "session", "deployment", "train", "evaluate", "infer", "export")
OWN_FILES = {"torch": ("captured",), "mindspore": ("captured",)}  # a step as one graph, in the framework's own way
OWN_NAMES = ("kernels",)  # calls that a framework has no public name for: each its own
PREFIXES = {"torch": "Torch", "mindspore": "MindSpore", "paddle": "Paddle"}


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of setup()."""
    found: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("setuptools.setup", lambda **arguments: found.update(arguments))
    runpy.run_path(str(ROOT / "setup.py"), run_name="__main__")
    return found


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower()


def test_every_package_is_found(setup: dict[str, Any]) -> None:
    found = set(setup["packages"])
    assert {"core", "core.data", "backends", *(f"backends.{name}" for name in BACKENDS)} <= found
    folders = {path.parent for root in found if "." not in root for path in (ROOT / root).rglob("*.py")}
    assert found == {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert not [name for name in found if "test" in name]


def test_every_data_file_is_installed(setup: dict[str, Any]) -> None:
    """A file beside the modules is part of the package only when it is declared."""
    declared = {Path(*package.split(".")) / name for package, names in setup["package_data"].items() for name in names}
    folders = [ROOT / Path(*package.split(".")) for package in setup["packages"]]
    found = {path.relative_to(ROOT) for folder in folders for path in folder.iterdir()
             if path.is_file() and path.suffix != ".py"}
    assert found <= declared


def test_every_dependency_is_pinned(setup: dict[str, Any]) -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [line for line in lines if line]
    assert all(re.fullmatch(r'[\w-]+==[\w.]+(; python_version (<|>=) "3\.\d+")?', pin) for pin in pins)
    pinned = {name_of(pin) for pin in pins}
    named = [*setup["install_requires"], *(name for extra in setup["extras_require"].values() for name in extra)]
    assert {name_of(requirement) for requirement in named} <= pinned


def test_extras_are_the_backends(setup: dict[str, Any]) -> None:
    extras = setup["extras_require"]
    assert set(extras) == {*BACKENDS, "all", "postgres", "dev"}
    assert sorted(extras["all"]) == sorted(name for backend in BACKENDS for name in extras[backend])
    for framework in BACKENDS:
        assert not [name for name in setup["install_requires"] if framework in name], framework


def test_what_core_imports_is_declared(setup: dict[str, Any]) -> None:
    given = {"yaml": "pyyaml", "sklearn": "scikit-learn"}
    declared = {name_of(requirement) for requirement in setup["install_requires"]}
    for path in (ROOT / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                     else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            for name in {name.split(".")[0] for name in names} - {"core"} - set(sys.stdlib_module_names):
                assert given.get(name, name).lower() in declared, f"{path}: {name}"


def source_of(backend: str, file: str) -> Path:
    path = ROOT / "backends" / backend / f"{file}.py"
    if not path.is_file():
        pytest.skip(f"{path.relative_to(ROOT)} does not exist")
    return path


def public_names(backend: str, file: str) -> list[str]:
    """Top-level functions and classes in order, without the private ones; the framework's name becomes X."""
    nodes = ast.parse(source_of(backend, file).read_text()).body
    names = [node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return [re.sub(f"^{PREFIXES[backend]}", "X", name) for name in names if not name.startswith("_")]


@pytest.mark.parametrize("file", [name for name in FILES if name not in OWN_NAMES])
@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "torch"])
def test_backends_have_the_same_names(backend: str, file: str) -> None:
    """A reader of torch's file finds the same functions; a framework may need a few more."""
    lacking = set(public_names("torch", file)) - set(public_names(backend, file))
    assert not lacking


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_have_no_files_of_their_own(backend: str) -> None:
    found = {path.stem for path in (ROOT / "backends" / backend).glob("*.py")} - {"__init__"}
    assert found == {*FILES, *OWN_FILES.get(backend, ())}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_imports_its_own_framework_only(backend: str) -> None:
    others = {name for name in BACKENDS if name != backend}
    for path in (ROOT / "backends" / backend).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = ([alias.name for alias in node.names] if isinstance(node, ast.Import)
                     else [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
            assert not {name.split(".")[0] for name in names} & others, path
            assert not [name for name in names if name.startswith(tuple(f"backends.{other}" for other in others))], path
