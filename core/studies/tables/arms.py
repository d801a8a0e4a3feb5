"""What one backend has for a row of a table: a value per seed, and why there is none."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.common.errors import UserError
from core.runtime.backend import BACKENDS
from core.studies.tables.results import AGAIN, Entry, Run
from core.studies.tables.statistics import Summary, summarise
from core.training.metrics import Value

LOSS = "validation loss"


@dataclass(frozen=True)
class Arm:
    """All planned seeds: values (None: undefined), and why one is missing or undefined.

    parameters: measured counts of the runs, ascending. hardware: what they run on, where not the default.
    """

    values: Mapping[int, Value]
    missing: Mapping[int, str]
    undefined: Mapping[int, str]
    parameters: tuple[int, ...]
    hardware: str

    @cached_property
    def summary(self) -> Summary:
        return summarise([self.values[seed] for seed in sorted(self.values)])


def arms_of(found: Sequence[Entry], cell: str, metric: str) -> dict[str, Arm]:
    """What each planned backend has of `metric`; of the mean over cells, when `cell` is that, from all their entries.

    In the order of core.runtime.backend.BACKENDS. Raises UserError when a run's file has no such metric.
    """
    arms = {}
    for backend in BACKENDS:
        mine = [entry for entry in found if entry.job.backend == backend]
        if mine:
            arms[backend] = (_mean_arm if cell == mine[0].spec.mean else _single_arm)(mine, metric)
    return arms


def _single_arm(mine: Sequence[Entry], metric: str) -> Arm:
    values = {entry.job.seed: value_of(entry.run, _key(entry, metric)) for entry in mine if entry.run}
    return _arm(mine, values, {entry.job.seed: entry.missing for entry in mine if not entry.run},
                {seed: "undefined" for seed, value in values.items() if value is None})


def _mean_arm(mine: Sequence[Entry], metric: str) -> Arm:
    """Per seed the mean of each cell's own score over all cells; a seed that lacks a cell is missing."""
    spec = mine[0].spec
    values: dict[int, Value] = {}
    missing, undefined = {}, {}
    for seed in dict.fromkeys(entry.job.seed for entry in mine):
        cells = {entry.job.cell: value_of(entry.run, _key(entry, metric)) for entry in mine
                 if entry.job.seed == seed and entry.run}
        if set(cells) != set(spec.cells):
            missing[seed] = f"with {len(cells)} of {len(spec.cells)} {spec.cell}s finished"
            continue
        known = [value for value in cells.values() if value is not None]
        values[seed] = float(np.mean(known)) if len(known) == len(cells) else None
        if values[seed] is None:
            undefined[seed] = f"undefined in {len(cells) - len(known)} of {len(cells)} {spec.cell}s"
    return _arm(mine, values, missing, undefined)


def _arm(mine: Sequence[Entry], values: Mapping[int, Value], missing: Mapping[int, str],
         undefined: Mapping[int, str]) -> Arm:
    counts = {entry.run.parameters for entry in mine if entry.run}
    return Arm(values, missing, undefined, tuple(sorted(counts)),
               "; ".join(dict.fromkeys(entry.hardware for entry in mine if entry.hardware)))


def _key(entry: Entry, metric: str) -> str:
    """The name of `metric` in metrics.json: a cell that is one of several scores reads its own."""
    return metric if metric == LOSS else entry.spec.key(metric, entry.job.cell)


def value_of(run: Run, key: str) -> Value:
    """One number of a run's test split, or its best validation loss. Raises UserError for an unknown one."""
    if key == LOSS:
        return run.valid_loss
    if key not in run.test:
        raise UserError(f"{run.path / 'metrics.json'}: has no {key!r} among the test metrics; {AGAIN}")
    return run.test[key]
