"""Are two backends equivalent? Every cell and metric, and the best validation loss, paired by seed."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.studies.tables.arms import LOSS
from core.studies.tables.assemble import Row, layouts, our_rows, planned_for
from core.studies.tables.results import Entry
from core.studies.tables.statistics import LOSS_MARGIN, MARGINS, SHARE_MARGIN, Comparison, compare


@dataclass(frozen=True)
class Pair:
    """`backend` against `reference` in one row of a table, with the seeds that both have."""

    row: Row
    backend: str
    reference: str
    seeds: tuple[int, ...]
    found: Comparison


def compare_backends(entries: Sequence[Entry]) -> list[Pair]:
    """Every row that two backends or more were planned for; the first of them, PyTorch if planned, is the reference."""
    pairs = []
    for layout in layouts(entries).values():
        for row in our_rows(layout, planned_for(layout, entries), (*layout.metrics, LOSS), {}):
            reference, *others = row.arms
            pairs += [_pair(row, backend, reference) for backend in others]
    return pairs


def _pair(row: Row, backend: str, reference: str) -> Pair:
    one, other = row.arms[backend].values, row.arms[reference].values
    seeds = tuple(sorted(one.keys() & other.keys()))
    relative = row.metric == LOSS
    margin = LOSS_MARGIN if relative else MARGINS.get(row.metric, SHARE_MARGIN)
    return Pair(row, backend, reference, seeds,
                compare([one[seed] for seed in seeds], [other[seed] for seed in seeds], margin, relative))
