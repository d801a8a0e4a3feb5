"""Which cells a table has, and the configuration file of each.

    CONFIGS/mosi/<modalities>.yaml    one cell, `mosi`; a set of modalities may have a file of its own
    CONFIGS/pom/<trait>.yaml          16 cells: each trains all 16 outputs, the table reads its own trait
    CONFIGS/iemocap/<emotion>.yaml    4 cells, and CONFIGS/iemocap/<variant>/<emotion>.yaml for another port's values
"""
from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import EMOTIONS, MODALITIES, RUN_PLACES
from core.data.published import POM_TRAITS
from core.errors import UserError
from core.flags import read_yaml

CELLS = {"mosi": ("mosi",), "pom": POM_TRAITS, "iemocap": EMOTIONS}  # table, which is its data set -> cells
MOSI_FILE = "_".join(MODALITIES)  # stands in for a set of modalities without a file of its own


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

    `modalities` chooses MOSI's file; None: all three. `shown`: how to call `configs`. Raises UserError for a cell,
    a variant or a file that doesn't exist, and for a file that is about something else.
    """
    known = [name for table in tables for name in CELLS[table]]
    for name in names:
        if name not in known:
            raise UserError(f"--cells {name}: no such cell in {', '.join(tables)}; expected some of {', '.join(known)}")
    if variant and tuple(tables) != ("iemocap",):
        raise UserError(f"--variant {variant}: only iemocap has variants; give --table iemocap")
    if not os.path.isdir(configs):
        raise UserError(f"--configs {shown}: no such folder; give the folder that holds mosi, pom and iemocap")
    cells = []
    for table in tables:
        files = _variant_files(configs, variant, names) if variant else {
            name: f"{table}/{_mosi_file(configs, modalities) if table == 'mosi' else name}.yaml"
            for name in CELLS[table]}
        cells += [_read(table, name, variant, configs / file, str(shown / file))
                  for name, file in files.items() if not names or name in names]
    return cells


def _mosi_file(configs: Path, modalities: tuple[str, ...] | None) -> str:
    own = "_".join(modalities or MODALITIES)
    return own if (configs / "mosi" / f"{own}.yaml").is_file() else MOSI_FILE


def _variant_files(configs: Path, variant: str, names: Sequence[str]) -> dict[str, str]:
    """emotion -> file. Variant `ascend` is the folder's <emotion>.yaml, `ascend_readme` its <emotion>_readme.yaml."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted((configs / "iemocap").glob("*/*.yaml")):
        emotion, _, suffix = path.stem.partition("_")
        key = "_".join(filter(None, (path.parent.name, suffix)))
        found.setdefault(key, {})[emotion] = f"iemocap/{path.parent.name}/{path.name}"
    if variant not in found:
        raise UserError(f"--variant {variant}: no such variant in {configs / 'iemocap'}; "
                        f"expected {' or '.join(found) or 'a folder of configurations there'}")
    for name in names:
        if name not in found[variant]:
            raise UserError(f"--cells {name}: variant {variant} doesn't have it, only {', '.join(found[variant])}")
    return found[variant]


def _read(table: str, name: str, variant: str, path: Path, file: str) -> Cell:
    if not path.is_file():
        raise UserError(f"{file}: no such file, and the {table} table needs it for {name}; put it there, "
                        "give another folder with --configs or other cells with --cells")
    values = read_yaml(path)
    expected = {"dataset": table, "emotion": name if table == "iemocap" else None}
    for key, value in expected.items():
        if values.get(key) != value:
            raise UserError(f"{file}: {key} = {values.get(key)!r}, expected {value!r} for this cell; correct the file")
    for key in RUN_PLACES:
        if key in values:
            raise UserError(f"{file}: {key} = {values[key]!r}: a plan names and places its runs itself; remove the key")
    return Cell(table, name, variant, file, values)
