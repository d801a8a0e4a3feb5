"""The tables' rows, before any format: a system, a cell, a metric; published numbers, and ours per backend."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from core.data.findings import HEADS as FINDINGS
from core.data.tables import TABLES, TableSpec
from core.models import MODELS as OURS
from core.runtime.backend import BACKENDS
from core.studies.tables.arms import Arm, arms_of
from core.studies.tables.published import REPORTED, System, load_published
from core.studies.tables.results import Entry, Setup

MODELS = tuple(dict.fromkeys((*OURS, *REPORTED)))
CLEANED = "NaN or infinite features set to 0"


@dataclass(frozen=True)
class Layout:
    """What a table shows of the plan's table `spec`: its cells, or their mean.

    detail: whether it has a line per backend, with the metrics side by side, and no published numbers.
    """

    title: str
    spec: TableSpec
    cells: tuple[str, ...]
    detail: bool = False

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.spec.metrics

    @property
    def mean(self) -> bool:
        """Whether it shows the mean over cells."""
        return self.cells == (self.spec.mean,)


def layouts(entries: Sequence[Entry]) -> dict[str, Layout]:
    """Name of the files -> what the table in them shows, of every table with a planned job."""
    found = {}
    planned = {entry.spec.key_of_files: entry.spec for entry in entries}
    for name, spec in sorted(planned.items(), key=lambda item: list(TABLES).index(item[1].name)):
        if spec.mean:
            found[name] = Layout(f"{spec.heading}, {spec.mean}", spec, (spec.mean,))
            found[f"{name}_{spec.cell}s"] = Layout(f"{spec.heading}, {spec.cell} by {spec.cell}", spec, spec.cells,
                                                   True)
        else:
            found[name] = Layout(spec.heading, spec, spec.cells, spec.every)
    return found


def planned_for(layout: Layout, entries: Sequence[Entry]) -> list[Entry]:
    """The jobs of the table that `layout` shows."""
    return [entry for entry in entries if entry.spec == layout.spec]


@dataclass(frozen=True)
class Row:
    """One system, cell and metric. setup: None where the number is only published.

    published: heading -> number. claimed: parameters that the paper claims. arms: backend -> what it has. notes: all
    sentences about the data. selections: which epochs are the best of ours. same: files with the same settings.
    """

    model: str
    setup: Setup | None
    cell: str
    metric: str
    published: Mapping[str, float]
    claimed: float | None = None
    arms: Mapping[str, Arm] = field(default_factory=dict)
    data: str = ""
    notes: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    selections: tuple[str, ...] = ()
    same: tuple[str, ...] = ()

    @property
    def system(self) -> str:
        return self.setup.title if self.setup else f"{self.model.upper()}, published only"

    @property
    def caveats(self) -> tuple[str, ...]:
        """The notes in few words: what a reader of this row has to know."""
        return tuple(dict.fromkeys(short(note) for note in self.notes))

    @property
    def comparable(self) -> bool:
        """Whether ours was made from the published data, all of it; what is found in these doesn't change that."""
        return set(self.caveats) <= {CLEANED, *FINDINGS}

    @property
    def parameters(self) -> tuple[int, ...]:
        """Measured counts, each once, ascending."""
        return tuple(sorted({count for arm in self.arms.values() for count in arm.parameters}))


@dataclass(frozen=True)
class Table:
    """columns: heading -> the published systems in it, of which a row shows the one of its model."""

    key: str
    layout: Layout
    columns: Mapping[str, tuple[System, ...]]
    backends: tuple[str, ...]
    rows: tuple[Row, ...]
    missing: tuple[str, ...]


def build_tables(entries: Sequence[Entry]) -> list[Table]:
    """Every table with a planned job."""
    published = load_published()
    tables = []
    for key, layout in layouts(entries).items():
        planned = planned_for(layout, entries)
        columns = {} if layout.detail else published_columns(published, layout.spec.key_of_files)
        ours = our_rows(layout, planned, layout.metrics, columns)
        backends = tuple(name for name in BACKENDS if any(entry.job.backend == name for entry in planned))
        tables.append(Table(key, layout, columns, backends, (*ours, *_published_rows(layout, columns, ours)),
                            _missing(planned)))
    return tables


def published_columns(published: Sequence[System], table: str) -> dict[str, tuple[System, ...]]:
    """Heading -> systems with a number in `table`. The paper's three systems share a column."""
    columns: dict[str, tuple[System, ...]] = {}
    for system in published:
        if table in system.values:
            heading = "paper" if system.key.startswith("paper_") else system.title
            columns[heading] = (*columns.get(heading, ()), system)
    return columns


def our_rows(layout: Layout, planned: Sequence[Entry], metrics: Sequence[str],
             columns: Mapping[str, tuple[System, ...]]) -> list[Row]:
    """A row per system, cell and metric that was planned."""
    rows = []
    for setup in sorted({entry.setup for entry in planned}, key=lambda setup: _order(setup, layout.spec)):
        of_setup = [entry for entry in planned if entry.setup == setup]
        whole = setup.modalities == layout.spec.data.names and setup.variant in ("", layout.spec.base)
        for cell in layout.cells:
            found = [entry for entry in of_setup if layout.mean or entry.job.cell == cell]
            for metric in metrics if found else ():
                rows.append(Row(
                    setup.model, setup, _cell_title(layout, cell, found), metric,
                    _numbers(columns, setup.model, layout, cell, metric) if whole else {},
                    _claimed(columns, setup.model) if whole and layout.spec.claimed else None,
                    arms_of(found, cell, metric), *_data(found),
                    tuple(dict.fromkeys(entry.job.config for entry in found)),
                    tuple(dict.fromkeys(entry.selection for entry in found)),
                    tuple(dict.fromkeys(entry.job.same for entry in found if entry.job.same))))
    return rows


def _order(setup: Setup, spec: TableSpec) -> tuple[object, ...]:
    """Settings of a model side by side begin with the base; else a system's inputs come before its settings."""
    inputs = -len(setup.modalities), [spec.data.names.index(name) for name in setup.modalities]
    settings = setup.variant != spec.base, setup.variant
    return (MODELS.index(setup.model), *((settings, inputs) if spec.base else (inputs, settings)), setup.synthetic)


def _cell_title(layout: Layout, cell: str, found: Sequence[Entry]) -> str:
    """A mean is called partial as long as no backend has a seed with all cells."""
    if not layout.mean:
        return cell
    per_seed: dict[tuple[str, int], set[str]] = {}
    for entry in found:
        per_seed.setdefault((entry.job.backend, entry.job.seed), set()).update([entry.job.cell] if entry.run else [])
    most = max(len(cells) for cells in per_seed.values())
    spec = layout.spec
    return cell if most == len(spec.cells) else f"partial: {most} of {len(spec.cells)} {spec.cell}s"


def _data(found: Sequence[Entry]) -> tuple[str, tuple[str, ...]]:
    """How the data is called, with the beginning of its fingerprint, and every note about it.

    The fingerprint tells the splits of one data set apart. Runs of one row saw the same data.
    """
    runs = [entry.run for entry in found if entry.run]
    called = dict.fromkeys(f"{run.data} {run.fingerprint[:12]}" for run in runs)
    return ", ".join(called), tuple(dict.fromkeys(note for run in runs for note in run.notes))


def short(note: str) -> str:
    """The beginning of a note, which names the matter."""
    return CLEANED if note.endswith("set to 0") else note.split(":")[0].split(" (")[0]


def _numbers(columns: Mapping[str, tuple[System, ...]], model: str, layout: Layout, cell: str, metric: str
             ) -> dict[str, float]:
    table, where = layout.spec.key_of_files, "mean" if layout.mean else cell
    return {heading: system.values[table][where][metric] for heading, systems in columns.items() for system in systems
            if system.model == model and metric in system.values[table].get(where, {})}


def _claimed(columns: Mapping[str, tuple[System, ...]], model: str) -> float | None:
    return next((system.parameters for system in columns.get("paper", ()) if system.model == model), None)


def _published_rows(layout: Layout, columns: Mapping[str, tuple[System, ...]], ours: Sequence[Row]) -> list[Row]:
    """Rows for published numbers that stand beside none of ours."""
    shown = {(row.model, row.metric, layout.spec.mean if layout.mean else row.cell) for row in ours if row.published}
    rows = []
    for model in MODELS:
        claimed = _claimed(columns, model) if layout.spec.claimed else None
        for cell in layout.cells:
            for metric in layout.metrics:
                numbers = _numbers(columns, model, layout, cell, metric)
                if numbers and (model, metric, cell) not in shown:
                    rows.append(Row(model, None, cell, metric, numbers, claimed))
    return rows


def _missing(planned: Sequence[Entry]) -> tuple[str, ...]:
    """A sentence per run that isn't there, naming the cells that share it."""
    sentences: dict[str, tuple[Entry, list[str]]] = {}
    for entry in planned:
        if not entry.run:
            sentences.setdefault(entry.job.run, (entry, []))[1].append(entry.job.cell)
    return tuple(f"{entry.setup.title}, {', '.join(dict.fromkeys(cells))}, {entry.job.backend}, seed {entry.job.seed}: "
                 f"{entry.missing}" for entry, cells in sentences.values())
