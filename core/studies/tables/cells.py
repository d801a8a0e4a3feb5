"""Which cells a table has, and the configuration file of each.

    CONFIGS/<data set>/<inputs>.yaml            one cell, the data set; a set of inputs may have a file of its own
    CONFIGS/<data set>/<cell>.yaml              a cell per score or per part of the data set
    CONFIGS/<data set>/<variant>/<part>.yaml    for another port's values
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.config import RUN_PLACES
from core.config.flags import read_yaml
from core.data.tables import TABLES, TableSpec, two_ended


@dataclass(frozen=True)
class Cell:
    """One cell of a table. variant: "" or the port whose values it has; file: how to call its configuration."""

    table: str
    name: str
    variant: str
    file: str
    values: Mapping[str, Any]


def find_cells(tables: Sequence[str], names: Sequence[str], variant: str, modalities: tuple[str, ...] | None,
               configs: Path, shown: Path) -> list[Cell]:
    """The cells called `names` (empty: all) of `tables`, read from `configs`.

    `modalities` chooses the file of a data set that is one cell; None: all. `shown`: how to call `configs`. Raises
    UserError for a cell, a variant or a file that doesn't exist, and for a file that is about something else.
    """
    known = [name for table in tables for name in TABLES[table].cells]
    for name in names:
        if name not in known:
            raise UserError(f"--cells {name}: no such cell in {', '.join(tables)}; expected some of {', '.join(known)}")
    if variant and (len(tables) != 1 or not TABLES[tables[0]].data.parts):
        having = " or ".join(name for name, spec in TABLES.items() if spec.data.parts)
        raise UserError(f"--variant {variant}: only {having} has variants; give --table {having}")
    if not os.path.isdir(configs):
        raise UserError(f"--configs {shown}: no such folder; give the folder that holds "
                        f"{two_ended(tuple(TABLES))}")
    cells = []
    for table in tables:
        spec = TABLES[table]
        files = _variant_files(configs, table, variant, names) if variant else {
            name: f"{table}/{_file_of_inputs(configs, spec, modalities) if spec.whole else name}.yaml"
            for name in spec.cells}
        cells += [_read(spec, name, variant, configs / file, str(shown / file))
                  for name, file in files.items() if not names or name in names]
    return cells


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
    table = spec.data.name
    if not path.is_file():
        raise UserError(f"{file}: no such file, and the {table} table needs it for {name}; put it there, "
                        "give another folder with --configs or other cells with --cells")
    values = read_yaml(path)
    expected = {"dataset": table, "emotion": spec.part(name)}
    for key, value in expected.items():
        if values.get(key) != value:
            raise UserError(f"{file}: {key} = {values.get(key)!r}, expected {value!r} for this cell; correct the file")
    for key in RUN_PLACES:
        if key in values:
            raise UserError(f"{file}: {key} = {values[key]!r}: a plan names and places its runs itself; remove the key")
    return Cell(table, name, variant, file, values)
