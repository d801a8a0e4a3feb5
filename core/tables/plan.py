"""The plan: cells x backends x seeds as runs in one output folder, found again by their names.

    OUTPUT/plan.json           every job ever planned there; what a table reads
    OUTPUT/runs/<run>/         an ordinary run folder; finished when it holds metrics.json

Cells of equal configuration share a run: several of POM's traits have the same hyperparameters, and a run has all 16
outputs.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from core.backend import BACKENDS
from core.config import LONGEST_NAME, Config, make_config
from core.errors import UserError
from core.files import naming_errors, write_json
from core.lock import FolderLock
from core.records import read_record
from core.tables.cells import CELLS, Cell
from core.text import shown

ANEW = "remove it and give the commands again, finished runs are kept"
HARDWARE = ("device", "precision", "amp_level", "loss_scale", "threads")  # may differ between backends of one row


@dataclass(frozen=True)
class Job:
    """One cell of one table in one backend with one seed. `run` names its run folder, which jobs may share.

    config: how to call the file of its hyperparameters; data: `published` or `synthetic`; values: the keys of its
    configuration that differ from the defaults, JSON-ready.
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

    @property
    def row(self) -> tuple[Any, ...]:
        """What a table's row stands for: all its seeds and backends have one configuration."""
        return self.table, self.cell, self.variant, self.model, self.modalities, self.data

    @property
    def key(self) -> tuple[Any, ...]:
        return (*self.row, self.backend, self.seed)


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
        return make_config(self.jobs[0].values)


def plan_jobs(cells: Sequence[Cell], backends: Sequence[str], seeds: Sequence[int], models: Sequence[str],
              modalities: Sequence[tuple[str, ...]], overrides: Mapping[str, Any]) -> list[Job]:
    """Every job of `cells`, seed by seed, so that an interrupted plan has whole seeds.

    Empty `models` or `modalities`: what the cell's file says. Raises UserError for a value that is not allowed.
    """
    jobs = {}
    for seed in seeds:
        for cell in cells:
            for chosen in _choices(cell, models, modalities):
                values = {**cell.values, **overrides, **chosen, "seed": seed}
                origin = {**dict.fromkeys(cell.values, cell.file), **{key: f"--{key}" for key in overrides}}
                config = make_config(values, origin)
                for backend in backends:
                    job = Job(cell.table, cell.name, cell.variant, config.model, config.modalities, backend, seed,
                              run_name(config, backend), cell.file, config.data, settings(config))
                    jobs[job.key] = job
    return list(jobs.values())


def _choices(cell: Cell, models: Sequence[str], modalities: Sequence[tuple[str, ...]]) -> list[dict[str, Any]]:
    return [{**({"model": model} if model else {}), **({"modalities": names} if names else {})}
            for model in models or [""] for names in modalities or [()]]


def settings(config: Config) -> dict[str, Any]:
    """The keys of `config` that differ from the schema's defaults, with absolute places: workers stand elsewhere."""
    defaults = Config.model_construct().model_dump(mode="json", warnings=False)
    values = {key: value for key, value in config.model_dump(mode="json").items()
              if key not in defaults or value != defaults[key]}
    values["data_dir"] = str(config.data_dir.absolute())
    if config.store_dir:
        values["store_dir"] = str(config.store_dir.absolute())
    return values


def identity(config: Config) -> dict[str, Any]:
    """What decides the result of `config`, without the seed and without keys at their defaults.

    A key that the schema gains later, with a default that changes nothing, leaves it as it was.
    """
    decisive, said = config.identity(), settings(config)
    return {key: value for key, value in sorted(decisive.items()) if key in said and key != "seed"}


def run_name(config: Config, backend: str) -> str:
    """Readable, the same for equal configurations, e.g. `pom-audio+video-lmf-1f0c93aa-torch-seed1`."""
    digest = hashlib.sha256(json.dumps(identity(config)).encode()).hexdigest()[:8]
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
        config = make_config(job.values)
    except UserError as error:
        raise UserError(f"{path}: is not a plan, the job of {shown(job.run)} has {error}; {ANEW}") from error
    said = (job.table, job.model, job.modalities, job.seed, job.data)
    meant = (config.dataset, config.model, config.modalities, config.seed, config.data)
    if said != meant or job.cell not in CELLS[job.table] or job.backend not in BACKENDS \
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
            for key, (then, now) in make_config(job.values).changes(make_config(old.values)).items():
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
