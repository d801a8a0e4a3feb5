"""What others report: results and speeds of the paper and of the published ports, from published.yaml."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import yaml
from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from core.common.errors import UserError
from core.common.keys import OneOf
from core.data.keys import PARTS
from core.data.tables import TABLES

FILE = Path(__file__).with_name("published.yaml")
REPORTED = ("lmf", "tfn", "mfn", "msa")  # the models that publications have numbers of
WIDEST = max(high - low for spec in TABLES.values() for low, high in filter(None, [spec.data.task.label_range]))
BOUNDS = {"MAE": (0.0, WIDEST), "Corr": (-1.0, 1.0)}  # no error is larger than the label's range; all else is a share
CLOSED = ConfigDict(extra="forbid", allow_inf_nan=False)
Text = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Strict()]  # "76.4" and true are no numbers
Amount = Annotated[Number, Field(gt=0)]
Count = Annotated[int, Strict(), Field(gt=0)]
Entry = TypeVar("Entry")


@dataclass(frozen=True, config=CLOSED)
class System:
    """One row of a published table.

    selection: which epoch, setting or restart was reported, and by what; runs: what is known of seeds, repetitions
    and spread; both say "not stated" where that could not be found out. parameters: the number claimed, or None.
    values: table (its data set) -> cell -> metric -> number. Shares are fractions, MAE is in units of the label.
    """

    key: Text
    title: Text
    source: Text
    model: Annotated[str, OneOf(REPORTED)]
    selection: Text
    runs: Text
    parameters: Amount | None
    values: Mapping[str, Mapping[str, Mapping[str, Number]]]


@dataclass(frozen=True, config=CLOSED)
class Efficiency:
    """One published speed. None where not stated.

    system: key of a System; cell: a part of a data set; remark: what the number leaves out.
    """

    system: Text
    cell: Annotated[str, OneOf(PARTS)] | None
    device: Text
    batch_size: Count | None
    train_samples_per_second: Amount | None
    test_samples_per_second: Amount | None
    step_seconds: Amount | None
    remark: str


def load_published(path: Path = FILE) -> tuple[System, ...]:
    """All published rows, in the order of the file.

    Raises UserError naming file and key for what is unreadable, unknown, missing or out of its bounds.
    """
    systems = _read(path, "systems", TypeAdapter(list[System]))
    for index, system in enumerate(systems):
        if system.key in {other.key for other in systems[:index]}:
            raise UserError(f"{path}: systems.{index}.key = {system.key!r}: given twice; keys have to differ")
        _check_values(path, system)
    return tuple(systems)


def load_efficiency(path: Path = FILE) -> tuple[Efficiency, ...]:
    """All published speeds, in the order of the file. Raises UserError as `load_published` does."""
    speeds = _read(path, "efficiency", TypeAdapter(list[Efficiency]))
    known = {system.key for system in load_published(path)}
    for index, speed in enumerate(speeds):
        if speed.system not in known:
            raise UserError(f"{path}: efficiency.{index}.system = {speed.system!r}: expected the key of a system: "
                            f"{', '.join(sorted(known))}")
    return tuple(speeds)


def _read(path: Path, section: str, schema: TypeAdapter[list[Entry]]) -> list[Entry]:
    """The validated entries of one section."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: published numbers can't be read ({' '.join(str(error).split())}); "
                        "install the package again") from error
    if not isinstance(loaded, dict) or set(loaded) != {"systems", "efficiency"}:
        raise UserError(f"{path}: expected a mapping of systems and efficiency, and nothing else")
    try:
        return schema.validate_python(loaded[section])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (section, *first["loc"]))
        value = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"  # a whole entry, where a key lacks
        raise UserError(f"{path}: {key}{value}: {first['msg']}") from error


def _check_values(path: Path, system: System) -> None:
    """Tables, cells and metrics have known names, and numbers lie in their bounds."""
    def refuse(key: str, found: object, expected: str) -> NoReturn:
        raise UserError(f"{path}: systems.{system.key}.values.{key}: found {found}, expected {expected}")

    for table, cells in system.values.items():
        if table not in TABLES:
            refuse(table, f"a table {table!r}", f"one of {', '.join(TABLES)}")
        known = TABLES[table].reported
        for cell, metrics in cells.items():
            if cell not in known:
                refuse(f"{table}.{cell}", f"a cell {cell!r}", f"one of {', '.join(known)}")
            for metric, value in metrics.items():
                key = f"{table}.{cell}.{metric}"
                if metric not in known[cell]:
                    refuse(key, f"a metric {metric!r}", f"one of {', '.join(known[cell])}")
                low, high = BOUNDS.get(metric, (0.0, 1.0))
                if not low <= value <= high:
                    refuse(key, value, f"{low:g} to {high:g}; shares are fractions, not percentages")
