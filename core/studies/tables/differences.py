"""Settings side by side: each against the one that the others are compared with, paired by seed."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.studies.tables.assemble import Row, layouts, our_rows, planned_for
from core.studies.tables.legend import better
from core.studies.tables.results import Entry, Setup
from core.studies.tables.statistics import Difference, difference, holm

LEVEL = 0.05
BETTER, WORSE, UNSETTLED = "better", "worse", "no significant difference"


@dataclass(frozen=True)
class Gap:
    """`row` against `base`, the row of the same cell and metric, in one backend, over the seeds that both have.

    corrected: p of the paired t-test, corrected for the settings that were compared with this base in this backend and
    metric (Holm). verdict: `better`, `worse` or `no significant difference`, or why nothing can be said.
    """

    row: Row
    base: Row
    backend: str
    seeds: tuple[int, ...]
    found: Difference
    corrected: float | None = None

    @property
    def verdict(self) -> str:
        if self.corrected is None:
            return self.found.why
        if self.corrected >= LEVEL or not self.found.mean:
            return UNSETTLED
        return BETTER if (self.found.mean < 0) == (better(self.row.metric) == "lower") else WORSE


def compare_settings(entries: Sequence[Entry]) -> list[Gap]:
    """Every row of a table with several settings against that of its base: the table's own, or the first planned."""
    gaps: list[Gap] = []
    for layout in layouts(entries).values():
        planned = planned_for(layout, entries)
        rows = our_rows(layout, planned, layout.metrics, {})
        variants = [entry.setup.variant for entry in planned]
        base = layout.spec.base if layout.spec.base in variants else variants[0]
        for row in rows:
            other = _base_of(row, rows, base)
            if other is not None:
                gaps += [_gap(row, other, backend) for backend in row.arms if backend in other.arms]
    return _corrected(gaps)


def summed(gaps: Sequence[Gap]) -> str:
    """How many differences say what, in a sentence."""
    counted = Counter(gap.verdict if gap.corrected is not None else "without a test" for gap in gaps)
    said = ", ".join(f"{counted[name]} {name}" for name in (BETTER, WORSE, UNSETTLED, "without a test")
                     if counted[name] or name in (BETTER, WORSE))
    return f"{len(gaps)} differences: {said}"


def _base_of(row: Row, rows: Sequence[Row], base: str) -> Row | None:
    """The base's row with the same inputs, or else with the most."""
    assert row.setup is not None
    mine = row.setup
    if mine.variant == base:
        return None

    def distance(setup: Setup) -> tuple[bool, int]:
        return setup.modalities != mine.modalities, -len(setup.modalities)

    found = [(distance(other.setup), place) for place, other in enumerate(rows) if other.setup
             and other.setup.variant == base and other.cell == row.cell and other.metric == row.metric
             and (other.setup.model, other.setup.synthetic) == (mine.model, mine.synthetic)]
    return rows[min(found)[1]] if found else None


def _gap(row: Row, base: Row, backend: str) -> Gap:
    one, other = row.arms[backend].values, base.arms[backend].values
    seeds = tuple(sorted(one.keys() & other.keys()))
    return Gap(row, base, backend, seeds, difference([one[seed] for seed in seeds], [other[seed] for seed in seeds]))


def _corrected(gaps: Sequence[Gap]) -> list[Gap]:
    """With p-values corrected within each table, base, cell, metric and backend."""
    families: dict[tuple[object, ...], list[int]] = {}
    for place, gap in enumerate(gaps):
        if gap.found.paired_t is not None:
            families.setdefault((gap.base.setup, gap.base.data, gap.row.cell, gap.row.metric, gap.backend),
                                []).append(place)
    made = list(gaps)
    for places in families.values():
        values = holm([gaps[place].found.paired_t or 0.0 for place in places])
        for place, value in zip(places, values, strict=True):
            made[place] = replace(gaps[place], corrected=value)
    return made
