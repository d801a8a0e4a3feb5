"""Which cells a table has, and the configuration file of each.

    CONFIGS/<data set>/<inputs>.yaml            one cell, the data set; a set of inputs may have a file of its own
    CONFIGS/<data set>/<cell>.yaml              a cell per score or per part of the data set
    CONFIGS/<data set>/<variant>/<part>.yaml    for another port's values
    CONFIGS/<folder>/<variant>.yaml             of a model's table: its settings, for all cells
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.config import RUN_PLACES
from core.config.flags import read_yaml
from core.data.tables import TABLES, TableSpec, two_ended

FILE = ".yaml"  # a variant that ends like this is a file of its own


@dataclass(frozen=True)
class Cell:
    """One cell of a table. variant: "" or the settings that it has; file: how to call its configuration.

    own: beside another port's settings, the cell with those of the table, where these are there.
    """

    spec: TableSpec
    name: str
    variant: str
    file: str
    values: Mapping[str, Any]
    own: Cell | None = None


def find_cells(specs: Sequence[TableSpec], names: Sequence[str], variants: Sequence[str],
               modalities: tuple[str, ...] | None, configs: Path, shown: Path) -> list[Cell]:
    """The cells called `names` (empty: all) of tables, with each of `variants` (empty: what the table plans by itself).

    `modalities` chooses the file of a data set that is one cell; None: all. `shown`: how to call `configs`. Raises
    UserError for a cell, a variant or a file that doesn't exist, and for a file that is about something else.
    """
    known = [name for spec in specs for name in spec.cells]
    for name in names:
        if name not in known:
            raise UserError(f"--cells {name}: no such cell in {', '.join(spec.name for spec in specs)}; expected some "
                            f"of {', '.join(known)}")
    if not os.path.isdir(configs):
        raise UserError(f"--configs {shown}: no such folder; give the folder that holds "
                        f"{two_ended(tuple(spec.folder or spec.name for spec in specs))}")
    if variants and len(specs) != 1:
        raise UserError(f"--variant {','.join(variants)}: belongs to one table; give --table one of "
                        f"{', '.join(spec.name for spec in specs)}")
    cells = []
    for spec in specs:
        for variant in variants or (_all(spec, configs, shown) if spec.every else (spec.base,)):
            cells += [_read(spec, name, Path(variant).stem if variant.endswith(FILE) else variant, path, file)
                      for name, (path, file) in _files(spec, variant, names, modalities, configs, shown).items()
                      if not names or name in names]
    return [replace(cell, own=_own(cell, configs, shown)) for cell in cells]


def _own(cell: Cell, configs: Path, shown: Path) -> Cell | None:
    """The cell with the table's own settings, for one that has a port's."""
    path = configs / cell.spec.name / f"{cell.name}{FILE}"
    if not cell.variant or cell.spec.base or not cell.spec.data.parts or not path.is_file():
        return None
    return _read(cell.spec, cell.name, "", path, str(shown / cell.spec.name / path.name))


def _all(spec: TableSpec, configs: Path, shown: Path) -> list[str]:
    """Every setting in the folder of a model's table, the base first."""
    found = sorted(path.stem for path in (configs / spec.folder).glob(f"*{FILE}"))
    if spec.base not in found:
        raise UserError(f"{shown / spec.folder / spec.base}{FILE}: no such file, and the others of the {spec.name} "
                        "table are compared with it; put it there, or give another folder with --configs")
    return sorted(found, key=lambda name: name != spec.base)


def _files(spec: TableSpec, variant: str, names: Sequence[str], modalities: tuple[str, ...] | None, configs: Path,
           shown: Path) -> dict[str, tuple[Path, str]]:
    """Cell -> file, and how to call it."""
    if variant.endswith(FILE):
        return dict.fromkeys(spec.cells, (Path(variant), variant))
    if spec.base:
        named = f"{spec.folder}/{variant}{FILE}"
        return dict.fromkeys(spec.cells, (configs / named, str(shown / named)))
    if variant and not spec.data.parts:
        having = two_ended(tuple(name for name, other in TABLES.items() if other.base or other.data.parts))
        raise UserError(f"--variant {variant}: only {having} have variants by name; give {spec.name} a file that ends "
                        f"in {FILE}")
    files = _variant_files(configs, spec.name, variant, names) if variant else {
        name: f"{spec.name}/{_file_of_inputs(configs, spec, modalities) if spec.whole else name}{FILE}"
        for name in spec.cells}
    return {name: (configs / file, str(shown / file)) for name, file in files.items()}


def _file_of_inputs(configs: Path, spec: TableSpec, names: tuple[str, ...] | None) -> str:
    """That of all inputs stands in for a set without a file of its own."""
    own = "_".join(names or spec.data.names)
    return own if (configs / spec.data.name / f"{own}.yaml").is_file() else "_".join(spec.data.names)


def _variant_files(configs: Path, table: str, variant: str, names: Sequence[str]) -> dict[str, str]:
    """Part -> file. Variant `ascend` is the folder's <part>.yaml, `ascend_readme` its <part>_readme.yaml."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((configs / table).glob("*/*.yaml")):
        part, _, suffix = path.stem.partition("_")
        key = "_".join(filter(None, (path.parent.name, suffix)))
        found.setdefault(key, {})[part] = f"{table}/{path.parent.name}/{path.name}"
    if variant not in found:
        raise UserError(f"--variant {variant}: no such variant in {configs / table}; "
                        f"expected {' or '.join(found) or 'a folder of configurations there'}")
    for name in names:
        if name not in found[variant]:
            raise UserError(f"--cells {name}: variant {variant} doesn't have it, only {', '.join(found[variant])}")
    return found[variant]


def _read(spec: TableSpec, name: str, variant: str, path: Path, file: str) -> Cell:
    if not path.is_file():
        others = "settings with --variant" if variant else "cells with --cells"
        raise UserError(f"{file}: no such file, and the {spec.name} table needs it for {name}; put it there, "
                        f"give another folder with --configs or other {others}")
    values = read_yaml(path)
    expected = {"dataset": TABLES[spec.name].data.name, "emotion": spec.part(name)}
    if spec.base and spec.data.parts:
        values = {**values, "emotion": spec.part(name)}  # settings of a model serve all parts
    for key, value in expected.items():
        if values.get(key) != value:
            raise UserError(f"{file}: {key} = {values.get(key)!r}, expected {value!r} for this cell; correct the file")
    for key in RUN_PLACES:
        if key in values:
            raise UserError(f"{file}: {key} = {values[key]!r}: a plan names and places its runs itself; remove the key")
    return Cell(spec, name, variant, file, values)
