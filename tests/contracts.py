"""The calls that backends and benchmarks make to accelerators, bound against the signatures of the real packages.

    python -m tests.contracts torch_npu-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl

writes tests/contracts.json anew: what torch_npu's public modules hold, read from the wheel and never imported. (Get it
with `pip download --no-deps torch_npu==2.13.0`.) The signatures of the frameworks are those of the installed packages.
Only calls by name are seen: neither methods of what a call returned nor what is passed on.
"""
from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STORED = Path(__file__).with_name("contracts.json")
NPU_MODULES = ("torch_npu.npu", "torch_npu.npu.amp", "torch_npu.optim")
PREFIXES = {
    "torch_npu": ("torch_npu.", "torch.npu."),
    "torch": ("torch.cuda.", "torch.accelerator.", "torch.amp.", "torch.backends.", "torch._", "torch.lstm",
              "torch.batch_norm"),
    "paddle": ("paddle.device.", "paddle.base.", "paddle.amp.", "paddle.set_", "paddle.CUDA", "paddle.Custom"),
    "mindspore": ("mindspore.set_", "mindspore.runtime.", "mindspore.device_context.", "mindspore.hal.",
                  "mindspore.amp.", "mindspore.jit"),
}
ANY = "(*args, **kwargs)"  # it is there, and says no more
Signatures = Mapping[str, list[str]]  # by dotted name, one text for each overload: `(x, /, *, lr=0.1)`


@dataclass(frozen=True)
class Call:
    """One call in a source file. open: it has * or **, so that more may be given than is seen."""

    where: str
    name: str
    positional: int
    keywords: tuple[str, ...]
    open: bool

    def problem(self, signatures: Signatures) -> str | None:
        """Why no overload takes it, in one line; None when one does."""
        if self.name not in signatures:
            return f"{self.where}: {self.name} is not among the signatures; if it is new, run `python -m " \
                   f"tests.contracts WHEEL` with torch_npu's wheel; if it is misspelt, correct it"
        bind = inspect.Signature.bind_partial if self.open else inspect.Signature.bind
        errors = []
        for text in signatures[self.name]:
            try:
                bind(parsed(text), *[None] * self.positional, **dict.fromkeys(self.keywords))
            except TypeError as error:
                errors.append(f"{self.where}: {self.name}{text}: {error}")
            else:
                return None
        return errors[0]


def calls(source: str, where: str, prefixes: Iterable[str]) -> Iterator[Call]:
    """Those in a source text whose full name begins with one of `prefixes`."""
    tree, begins = ast.parse(source), tuple(prefixes)
    known: dict[str, str] = {}  # what a name in this file stands for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                known[one.asname or one.name.split(".")[0]] = one.name if one.asname else one.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module:
            known.update({one.asname or one.name: f"{node.module}.{one.name}" for one in node.names})
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            name = ".".join(part for part in (known.get(first, ""), rest) if part)
            if first in known and name.startswith(begins):
                starred = sum(isinstance(one, ast.Starred) for one in node.args)
                names = tuple(one.arg for one in node.keywords if one.arg)
                yield Call(f"{where}:{node.lineno}", re.sub(r"^torch\.npu\b", "torch_npu.npu", name),
                           len(node.args) - starred, names, bool(starred) or len(names) < len(node.keywords))


def calls_of(package: str) -> list[Call]:
    """All of backends/ and benchmarks/ to an accelerator by way of `package`."""
    return [call for folder in ("backends", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
            for call in calls(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)), PREFIXES[package])]


def parsed(text: str) -> inspect.Signature:
    """Of a text without annotations, whose defaults need not be known."""
    arguments = ast.parse(f"lambda {text[1:-1]}: 0", mode="eval").body.args  # type: ignore[attr-defined]
    kinds, P = [], inspect.Parameter
    plain = [*((one, P.POSITIONAL_ONLY) for one in arguments.posonlyargs),
             *((one, P.POSITIONAL_OR_KEYWORD) for one in arguments.args)]
    given = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    kinds += [P(one.arg, kind, default=default or P.empty) for (one, kind), default in zip(plain, given, strict=True)]
    kinds += [P(arguments.vararg.arg, P.VAR_POSITIONAL)] if arguments.vararg else []
    kinds += [P(one.arg, P.KEYWORD_ONLY, default=default or P.empty)
              for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    kinds += [P(arguments.kwarg.arg, P.VAR_KEYWORD)] if arguments.kwarg else []
    return inspect.Signature(kinds)


# ---- of installed packages: called in a process of their own ----

def installed(names: Iterable[str]) -> dict[str, list[str]]:
    """The signatures of those names that are there."""
    found = {}
    for name in names:
        package, *path = name.split(".")
        value: Any = importlib.import_module(package)
        for part in path:
            value = getattr(value, part, None)
        if value is not None:
            found[name] = _signatures(value, path)
    return found


def _signatures(value: Any, path: list[str]) -> list[str]:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):  # not written in Python
        return _operator(path) or _documented(value) or [ANY]
    plain = [one.replace(annotation=one.empty, default=one.default if one.default is one.empty else ...)
             for one in signature.parameters.values()]
    return [str(signature.replace(parameters=plain, return_annotation=signature.empty)).replace("Ellipsis", "...")]


def _operator(path: list[str]) -> list[str]:
    """Of one of torch's operators, from its schemas."""
    torch = sys.modules.get("torch")
    packet = getattr(torch.ops.aten, path[0], None) if torch and len(path) == 1 else None
    texts = []
    for overload in packet.overloads() if packet else ():
        arguments = getattr(packet, overload)._schema.arguments
        parts = [one.name + ("=..." if one.has_default_value() else "") for one in arguments]
        plain = sum(not one.kwarg_only for one in arguments)
        texts.append(f"({', '.join([*parts[:plain], *(['*'] if parts[plain:] else []), *parts[plain:]])})")
    return texts


def _documented(value: Any) -> list[str]:
    """Of one of pybind's functions, from the first lines of its docstring: `f(arg0: int) -> None`."""
    of_class = isinstance(value, type)
    texts = []
    for given in re.findall(r"^(?:\d+\. )?\w+\((.*)\) -> .*$", (value.__init__ if of_class else value).__doc__ or "",
                            re.MULTILINE):
        arguments = ast.parse(f"def f({given}): 0").body[0].args  # type: ignore[attr-defined]
        texts.append(_text(arguments, 1 if of_class else 0))
    return texts


# ---- of a wheel ----

def _text(arguments: ast.arguments, skipped: int) -> str:
    """Without annotations and the first `skipped` arguments; those that pybind numbered have no names."""
    arguments = copy.deepcopy(arguments)
    del (arguments.posonlyargs or arguments.args)[:skipped]
    for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg):
        if one:
            one.annotation = None
    if arguments.args and all(re.fullmatch(r"arg\d+", one.arg) for one in arguments.args):
        arguments.posonlyargs, arguments.args = arguments.posonlyargs + arguments.args, []
    return f"({ast.unparse(arguments)})"


class Wheel:
    """The modules of a wheel, as syntax trees."""

    def __init__(self, path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            self.sources = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): archive.read(name)
                            for name in archive.namelist() if name.endswith(".py")}
            self.packages = {name.removesuffix("/__init__.py").replace("/", ".") for name in archive.namelist()
                             if name.endswith("/__init__.py")}
        self.trees: dict[str, ast.Module] = {}

    def public(self, module: str) -> list[str]:
        """What its __all__ holds."""
        lists = [node.value for node in self._body(module) if isinstance(node, ast.Assign)
                 and ast.unparse(node.targets[0]) == "__all__"]
        return list(ast.literal_eval(lists[0]))

    def signature(self, module: str, name: str, seen: tuple[str, ...] = ()) -> str:
        """Of a function or class, wherever it is imported from; ANY where it is not written in Python.

        seen: the modules that were come by.
        """
        for node in self._body(module):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return _text(node.args, 0)
            if isinstance(node, ast.ClassDef) and node.name == name:
                return self._made(module, node)
            if isinstance(node, ast.ImportFrom):
                home = self._absolute(module, node)
                for one in node.names if home in self.sources and home not in seen else ():
                    if (one.asname or one.name) in (name, "*"):
                        found = self.signature(home, name if one.name == "*" else one.name, (*seen, module))
                        if one.name != "*" or found != ANY:
                            return found
        return ANY

    def _made(self, module: str, node: ast.ClassDef) -> str:
        methods = {one.name: one for one in node.body if isinstance(one, ast.FunctionDef)}
        for maker in ("__init__", "__new__"):
            if maker in methods:
                return _text(methods[maker].args, 1)
        return self.signature(module, ast.unparse(node.bases[0])) if node.bases else "()"

    def _body(self, module: str) -> list[ast.stmt]:
        if module not in self.trees:
            self.trees[module] = ast.parse(self.sources[module])
        return self.trees[module].body

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        up = node.level - (module in self.packages)
        parts = module.split(".")[:len(module.split(".")) - up] if node.level else []
        return ".".join([*parts, *([node.module] if node.module else [])])


def stored() -> dict[str, list[str]]:
    """torch_npu's signatures."""
    return {name: [text] for name, text in json.loads(STORED.read_text(encoding="utf-8"))["signatures"].items()}


def write(path: Path) -> None:
    """Store those of torch_npu's wheel."""
    wheel = Wheel(path)
    found = {f"{module}.{name}": wheel.signature(module, name)
             for module in NPU_MODULES for name in wheel.public(module)}
    STORED.write_text(json.dumps({"wheel": path.name, "signatures": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
