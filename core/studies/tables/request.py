"""The command line of `python -m core.reproduce`, and the jobs that it asks for."""
from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.common.errors import UserError
from core.config import DEFAULT_MODEL, RUN_PLACES, all_keys, build_graph, make_config
from core.config.flags import Parser, add_keys, read_count, whole
from core.data.keys import INPUTS
from core.data.tables import PAPERS, TABLES, TableSpec
from core.models import MODELS
from core.runtime.backend import BACKENDS, missing_reason
from core.studies.tables.cells import FILE, Cell, find_cells
from core.studies.tables.plan import Job, Run, distinct_runs, plan_jobs

PLANNED = ("dataset", "emotion", "modalities", "model", "seed", *RUN_PLACES)
MOST_SEEDS = 1000
CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def parser() -> Parser:
    """The flags of a plan, and every key of the schema that a plan doesn't set itself."""
    made = Parser(prog="python -m core.reproduce", allow_abbrev=False,
                  description="Train every cell of tables, the papers' or a model's, and write them. Interrupted or "
                              "failed, the same command goes on where it was.",
                  formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110))
    plan = made.add_argument_group("plan")
    plan.add_argument("--table", metavar="NAMES",
                      help=f"comma-separated, of {', '.join(TABLES)}; or all: {', '.join(PAPERS)} [required]")
    models = [spec for spec in TABLES.values() if spec.base]
    plan.add_argument("--dataset", metavar="DATA",
                      help=f"{', '.join(spec.name for spec in models)}: other data than {models[0].data.name}")
    plan.add_argument("--backend", metavar="NAMES",
                      help=f"comma-separated, of {', '.join(BACKENDS)} [every installed one]")
    plan.add_argument("--seeds", metavar="SEEDS", help="5: 1 to 5; 7,9 or 3-6: just these; 7-7: only 7 [5]")
    cells = ", ".join(f"{spec.title}'s {spec.cell}s" for spec in TABLES.values() if not spec.whole)
    plan.add_argument("--cells", metavar="NAMES", help=f"comma-separated: {cells} [all]")
    plan.add_argument("--model", metavar="NAMES",
                      help=f"comma-separated, of {', '.join(MODELS)}; keys that a model doesn't have are left out for "
                           f"it, but one that no model of the plan has is refused as a flag [what the cell's file "
                           f"says: {DEFAULT_MODEL}]")
    plan.add_argument("--modalities", metavar="SETS",
                      help=f"one set or more, ; between them: '{','.join(INPUTS[:-1])};{INPUTS[-1]}' [what the cell's "
                           "file says: all]")
    parted = [spec for spec in TABLES.values() if spec.data.parts]
    plan.add_argument("--variant", metavar="NAMES",
                      help=f"comma-separated settings, compared seed by seed with the first or the table's own base: "
                           f"files that end in {FILE}; {', '.join(spec.name for spec in models)}: names of files in "
                           f"CONFIGS/{' or CONFIGS/'.join(spec.folder for spec in models)} "
                           f"[{', '.join('all' if spec.every else spec.base for spec in models)}]; "
                           f"{', '.join(spec.title for spec in parted)}: another port's, a folder below "
                           f"CONFIGS/{' or '.join(spec.name for spec in parted)} such as ascend [none]")
    plan.add_argument("--configs", metavar="DIR", help="folder of the cells' files [configs]")
    plan.add_argument("--output", metavar="DIR", help="folder of plan, runs and tables [tables]")
    plan.add_argument("--jobs", metavar="N", help="worker processes at a time [1]")
    plan.add_argument("--dry_run", action="store_const", const=True, help="check and print the plan, run nothing")
    plan.add_argument("--debug", action="store_const", const=True, help="show the traceback of an error")
    add_keys(made, "configuration of all cells, over their files", PLANNED)
    return made


@dataclass(frozen=True)
class Request:
    """What the command line asks for. notes: what was left out of it."""

    jobs: list[Job]
    backends: list[str]
    output: Path
    slots: int  # worker processes at a time
    notes: tuple[str, ...] = ()

    @property
    def runs(self) -> list[Run]:
        return distinct_runs(self.jobs)


def read_request(given: Mapping[str, Any]) -> Request:
    """Flags to jobs. Raises UserError for everything that can be seen without the data."""
    if "table" not in given:
        raise UserError(f"--table is required: {', '.join(TABLES)} or all")
    tables = list(PAPERS) if given["table"] == "all" else names_of(given, "table", list(TABLES))
    backends = names_of(given, "backend", list(BACKENDS)) if "backend" in given else \
        [name for name in BACKENDS if not missing_reason(name)]
    if not backends:
        raise UserError("no framework is installed; install one with: pip install -c constraints.txt -e '.[torch]'")
    for name in backends:
        if reason := missing_reason(name):
            raise UserError(f"--backend {name}: {reason}")
    models = names_of(given, "model", list(MODELS)) if "model" in given else []
    cells = names_of(given, "cells", None) if "cells" in given else []
    specs = [_on(TABLES[name], given.get("dataset")) for name in tables]
    variants = names_of(given, "variant", None) if "variant" in given else []
    stems = [Path(name).stem if name.endswith(FILE) else name for name in variants]
    for name in stems:
        if stems.count(name) > 1:
            raise UserError(f"--variant {given['variant']}: two rows would be called {name}; rename a file")
    sets = read_sets(given["modalities"], specs[0].data.names if "dataset" in given else INPUTS) \
        if "modalities" in given else []
    seeds = read_seeds(given.get("seeds", "5"))
    overrides = {key: None if given[key] == "none" else given[key]
                 for key in all_keys() if key in given and key not in PLANNED}
    configs = Path(given.get("configs", CONFIGS))
    shown = Path(given.get("configs", "configs"))
    if "dataset" in given:
        overrides["dataset"] = given["dataset"]
    jobs, notes = [], dict[str, None]()
    chosen: list[tuple[str, ...] | None] = [*sets] or [None]
    for names in chosen:
        found = find_cells(specs, cells, variants, names, configs, shown)
        if not variants:
            found = [cell for cell in found if _has_a_place(cell, names, given.get("dataset"), notes)]
        jobs += plan_jobs(found, backends, seeds, models, [names] if names else [], overrides)
    jobs.sort(key=lambda job: seeds.index(job.seed))
    return Request(jobs, backends, Path(given.get("output", "tables")), read_count(given.get("jobs", "1"), "jobs"),
                   tuple(notes))


def _on(spec: TableSpec, dataset: str | None) -> TableSpec:
    """The table of the data that --dataset names. Raises UserError where the data is what the table is about."""
    if dataset is None:
        return spec
    if not spec.base:
        having = ", ".join(name for name, other in TABLES.items() if other.base)
        raise UserError(f"--dataset {dataset}: the {spec.name} table is about {spec.data.name}; give it with --table "
                        f"{having}, or leave it out")
    return spec.on(make_config({"dataset": dataset}, {"dataset": "--dataset"}).known)


def _has_a_place(cell: Cell, names: tuple[str, ...] | None, dataset: str | None, notes: dict[str, None]) -> bool:
    """Whether a row that nobody asked for by name can be made of these inputs and data; `notes` say why not."""
    if not cell.spec.every:
        return True
    why = ""
    if "modalities" in cell.values and (names or dataset):
        why = "it chooses its own inputs"
    else:
        config = make_config({**cell.values, **({"modalities": names} if names else {}),
                              **({"dataset": dataset} if dataset else {})}, dict.fromkeys(cell.values, cell.file))
        try:
            build_graph(config)
        except UserError as error:
            why = str(error)
    if why:
        notes[f"{cell.spec.name}: {cell.variant} is left out: {why}"] = None
    return not why


def names_of(given: Mapping[str, Any], key: str, allowed: Sequence[str] | None) -> list[str]:
    """A comma-separated flag. Raises UserError for an unknown or repeated name."""
    names = [name.strip() for name in given[key].split(",")]
    for name in names:
        if not name or (allowed is not None and name not in allowed):
            raise UserError(f"--{key} {given[key]}: unknown {name!r}, expected " + (
                f"some of {', '.join(allowed)}, commas between" if allowed else "names, commas between"))
        if names.count(name) > 1:
            raise UserError(f"--{key} {given[key]}: {name!r} stands there twice; name it once")
    return names


def read_sets(text: str, inputs: Sequence[str] = INPUTS) -> list[tuple[str, ...]]:
    """`a,b;c` -> [("a", "b"), ("c",)], in the order of the data's inputs. Raises UserError."""
    sets = []
    for part in text.split(";"):
        names = names_of({"modalities": part.strip()}, "modalities", inputs)
        chosen = tuple(name for name in inputs if name in names)
        if chosen in sets:
            raise UserError(f"--modalities {text}: {','.join(chosen)} stands there twice; name it once")
        sets.append(chosen)
    return sets


def read_seeds(text: str) -> list[int]:
    """`5` -> 1 to 5; `7,9,20-22` -> just these. Raises UserError."""
    expected = "expected a count such as 5, or seeds such as 7,9 or 3-6"
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1 and parts[0].isdecimal():
        count = read_count(parts[0], "seeds")
        if count > MOST_SEEDS:
            raise UserError(f"--seeds {text}: is a count, at most {MOST_SEEDS}; one seed is written {count}-{count}")
        return list(range(1, count + 1))
    seeds: list[int] = []
    for part in parts:
        low, dash, high = part.partition("-")
        high = high if dash else low
        if not low.isdecimal() or not high.isdecimal():
            raise UserError(f"--seeds {text}: {part!r} is no seed; {expected}")
        first, last = whole(low), whole(high)
        if first is None or last is None or last >= 2**63 or last - first >= MOST_SEEDS:
            raise UserError(f"--seeds {text}: {part!r}: expected seeds below 2^63, at most {MOST_SEEDS} of them")
        if first > last:
            raise UserError(f"--seeds {text}: {part!r} is no seed; {expected}")
        seeds += range(first, last + 1)
        if len(seeds) > MOST_SEEDS:
            raise UserError(f"--seeds {text}: more than {MOST_SEEDS} seeds; give several --output their parts")
    double = [seed for seed, count in Counter(seeds).items() if count > 1]
    if double:
        raise UserError(f"--seeds {text}: {double[0]} stands there twice; name it once")
    return seeds
