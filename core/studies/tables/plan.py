"""The plan: cells x backends x seeds as runs in one output folder, found again by their names.

    OUTPUT/plan.json           every job ever planned there; what a table reads
    OUTPUT/runs/<run>/         an ordinary run folder; finished when it holds metrics.json

Cells of equal configuration share a run: where cells are scores of one data set, several may have the same
hyperparameters, and a run has all scores.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, TypeAdapter

from core.common.errors import UserError
from core.common.files import naming_errors, write_json
from core.common.lock import FolderLock
from core.common.records import read_record
from core.common.text import shown
from core.config import (
    DEFAULT_MODEL,
    Config,
    all_keys,
    changes,
    make_config,
    models_with,
    own_keys,
    run_keys,
    to_values,
)
from core.config import identity as identity_of
from core.data.keys import LONGEST_NAME
from core.data.tables import TABLES, TableSpec
from core.runtime.backend import BACKENDS
from core.studies.defaults import plain
from core.studies.tables.cells import Cell

ANEW = "remove it and give the commands again, finished runs are kept"
SAID = ("emotion", "epochs", "output_dim", "text_out")  # in a plan and in the names of runs also at their defaults
HARDWARE = ("device", "precision", "amp_level", "amp_dtype", "loss_scale", "loss_scale_init", "loss_scale_growth",
            "loss_scale_backoff", "loss_scale_interval", "tf32", "threads")  # may differ between backends of one row


@dataclass(frozen=True)
class Job:
    """One cell of one table in one backend with one seed. `run` names its run folder, which jobs may share.

    config: how to call the file of its hyperparameters; data: `published` or `synthetic`; values: the keys of its
    configuration that differ from the defaults, JSON-ready; same: of a port's settings, how to call the file of the
    table's own where they are the same, but for what they run on; else empty, as in plans of earlier versions.
    """

    table: str
    cell: str
    variant: str
    model: str
    modalities: tuple[str, ...]
    backend: str
    seed: int
    run: str
    config: str
    data: str
    values: Mapping[str, Any]
    same: str = ""

    @property
    def row(self) -> tuple[Any, ...]:
        """What a table's row stands for: all its seeds and backends have one configuration."""
        return (self.table, self.values.get("dataset"), self.cell, self.variant, self.model, self.modalities, self.data)

    @property
    def key(self) -> tuple[Any, ...]:
        return (*self.row, self.backend, self.seed)

    @property
    def made(self) -> Config:
        """The configuration. Earlier versions wrote the keys of other models with it."""
        return make_config(run_keys(self.values))


def spec_of(job: Job, config: Config) -> TableSpec:
    """The table of `job`, on the data that its configuration names."""
    spec = TABLES[job.table]
    return spec.on(config.known) if spec.base else spec


class _Plan(BaseModel):
    cells: list[Job]


PLAN = TypeAdapter(_Plan)


@dataclass(frozen=True)
class Run:
    """One training, for one job or more."""

    jobs: tuple[Job, ...]

    @property
    def name(self) -> str:
        return self.jobs[0].run

    @property
    def backend(self) -> str:
        return self.jobs[0].backend

    @property
    def table(self) -> str:
        return self.jobs[0].table

    @property
    def seed(self) -> int:
        return self.jobs[0].seed

    @property
    def cells(self) -> str:
        """Names of the cells that share this run, comma-separated."""
        return ",".join(dict.fromkeys(job.cell for job in self.jobs))

    @property
    def config(self) -> Config:
        return self.jobs[0].made


def plan_jobs(cells: Sequence[Cell], backends: Sequence[str], seeds: Sequence[int], models: Sequence[str],
              modalities: Sequence[tuple[str, ...]], overrides: Mapping[str, Any]) -> list[Job]:
    """Every job of `cells`, seed by seed, so that an interrupted plan has whole seeds.

    Empty `models` or `modalities`: what the cell's file says. A key of a cell's file that only other models have is
    left out, and so is one of `overrides`, if another planned model has it. Raises UserError for a value that is not
    allowed.
    """
    jobs = {}
    chosen = [(cell, {**cell.values, **overrides, **choice})
              for cell in cells for choice in _choices(models, modalities)]
    planned = {str(values.get("model", DEFAULT_MODEL)) for _, values in chosen}
    for seed in seeds:
        for cell, given in chosen:
            values = {**given, "seed": seed}
            origin = {**dict.fromkeys(cell.values, cell.file), **{key: f"--{key}" for key in overrides}}
            own = own_keys(values)
            idle = {key: value for key, value in values.items() if key not in own
                    and (key not in overrides or planned.intersection(models_with(key)))}
            config = make_config({key: value for key, value in values.items() if key not in idle}, origin)
            beside = _checked(idle, config, origin)
            for backend in backends:
                job = Job(cell.spec.name, cell.name, cell.variant, config.model, config.modalities, backend, seed,
                          run_name(config, backend, beside), cell.file, config.data, settings(config), same_as(cell))
                jobs[job.key] = job
    return list(jobs.values())


def same_as(cell: Cell) -> str:
    """How the file of the table's own settings is called, where those of `cell` differ from it only in what they run
    on, and in the seed, which a plan sets itself."""
    own = cell.own
    if own is None:
        return ""
    differ = changes(make_config(cell.values, dict.fromkeys(cell.values, cell.file)),
                     make_config(own.values, dict.fromkeys(own.values, own.file)))
    return own.file if differ.keys() <= {*HARDWARE, "seed"} else ""


def _choices(models: Sequence[str], modalities: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    return [{**({"model": model} if model else {}), **({"modalities": names} if names else {})}
            for model in models or [""] for names in modalities or [()]]


def _checked(idle: Mapping[str, Any], config: Config, origin: Mapping[str, str]) -> dict[str, Any]:
    """Values of keys that only other models than `config.model` have, as those would have them."""
    beside = {key: make_config({"dataset": config.dataset, "model": models_with(key)[0], key: value}, origin)
              for key, value in idle.items()}
    return {key: to_values(other)[key] for key, other in beside.items()}


def settings(config: Config) -> dict[str, Any]:
    """The keys of `config` that differ from their defaults, with absolute places: workers stand elsewhere."""
    values = {key: value for key, value in to_values(config).items() if not at_default(key, value, config)}
    values["data_dir"] = str(config.data_dir.absolute())
    if config.store_dir:
        values["store_dir"] = str(config.store_dir.absolute())
    return values


def at_default(key: str, value: Any, config: Config) -> bool:
    """Whether `key` is as it is where nobody says it.

    Never of SAID: they were written out before defaults could depend on other keys.
    """
    field = all_keys()[key]
    if key in SAID:
        return value is None
    if field.is_required():
        return False
    if field.default_factory:
        return bool(value == to_values(plain(config))[key])
    return bool(value == TypeAdapter(Any).dump_python(field.default, mode="json"))


def identity(config: Config, idle: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the result of `config`, without the seed and without keys at their defaults.

    A key that the schema gains later, with a default that changes nothing, leaves it as it was. `idle`: keys that only
    other models have and that stand beside it; they always had a part in the names of runs, and finished runs are found
    by these.
    """
    said = {key: value for key, value in {**identity_of(config), **idle}.items() if not at_default(key, value, config)}
    return {key: value for key, value in sorted(said.items()) if key != "seed"}


def run_name(config: Config, backend: str, idle: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Readable, the same for equal configurations, `<data set>-<inputs>-lmf-1f0c93aa-torch-seed1`."""
    digest = hashlib.sha256(json.dumps(identity(config, idle)).encode()).hexdigest()[:8]
    parts = [config.dataset, config.emotion, "synthetic" if config.data == "synthetic" else None,
             "+".join(config.modalities), config.model, digest, backend, f"seed{config.seed}"]
    return "-".join(part for part in parts if part)


def distinct_runs(jobs: Sequence[Job]) -> list[Run]:
    """The trainings that `jobs` need, in their order."""
    shared: dict[str, list[Job]] = {}
    for job in jobs:
        shared.setdefault(job.run, []).append(job)
    return [Run(tuple(found)) for found in shared.values()]


def run_path(output: Path, run: str) -> Path:
    return output / "runs" / run


def load_plan(output: Path) -> list[Job]:
    """Every job ever planned into `output`. Raises UserError when there is no plan, or no readable one."""
    path = output / "plan.json"
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file; make it with python -m core.reproduce --output {output}")
    jobs = read_record(path, PLAN, ANEW).cells
    for job in jobs:
        _check_job(path, job)
    return jobs


def _check_job(path: Path, job: Job) -> None:
    """Raises UserError where a job's parts contradict each other, or its run would lie elsewhere."""
    try:
        config = job.made
    except UserError as error:
        raise UserError(f"{path}: is not a plan, the job of {shown(job.run)} has {error}; {ANEW}") from error
    named = TABLES.get(job.table)
    table = config.dataset if named is None or not named.base else job.table  # a model's table takes any data
    said = (job.table, job.model, job.modalities, job.seed, job.data)
    meant = (table, config.model, config.modalities, config.seed, config.data)
    if said != meant or named is None or job.cell not in spec_of(job, config).cells or job.backend not in BACKENDS \
            or job.run in ("", ".", "..") or not set(job.run).isdisjoint("/\\") or not job.run.isprintable() \
            or len(job.run.encode()) > LONGEST_NAME:
        raise UserError(f"{path}: is not a plan, the job of {shown(job.run)} contradicts itself "
                        f"({shown(job.cell)} of {shown(said)} in {shown(job.backend)}, its values say {meant}); {ANEW}")


def save_plan(output: Path, jobs: Sequence[Job]) -> None:
    """Add `jobs` to the plan of `output`; one that is there already is replaced."""
    old = load_plan(output) if (output / "plan.json").exists() else []
    merged = list({job.key: job for job in [*old, *jobs]}.values())
    write_json(output / "plan.json", {
        "cells": [{**asdict(job), "modalities": list(job.modalities)} for job in merged],
        "backends": list(dict.fromkeys(job.backend for job in merged)),
        "seeds": sorted({job.seed for job in merged}),
    })


def refuse_mixture(output: Path, jobs: Sequence[Job]) -> None:
    """Raises UserError where a row of the plan in `output` has another configuration than `jobs` would give it.

    A mean over seeds, or a comparison of backends, of different experiments would mean nothing. Backends may differ
    in what they run on.
    """
    if not (output / "plan.json").exists():
        return
    before: dict[tuple[Any, ...], list[Job]] = {}
    for job in load_plan(output):
        before.setdefault(job.row, []).append(job)
    for job in {(*job.row, job.backend): job for job in jobs}.values():  # all seeds of a call are alike
        for old in {old.backend: old for old in before.get(job.row, [])}.values():
            free = {"seed", *(HARDWARE if old.backend != job.backend else ())}
            for key, (then, now) in changes(job.made, old.made).items():
                if key not in free:
                    raise UserError(
                        f"{output / 'plan.json'}: {job.table} {job.cell} ({job.model}, {'+'.join(job.modalities)}) is "
                        f"planned there with {key} = {json.dumps(then)} in {old.backend}, now {json.dumps(now)} in "
                        f"{job.backend}; give another --output for another configuration")


@contextlib.contextmanager
def only_here(output: Path) -> Iterator[None]:
    """Hold `output` for this process, until it ends: two commands would train the same runs."""
    with naming_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(output, "wait for it, or give another --output")
    try:
        yield
    finally:
        lock.release()
