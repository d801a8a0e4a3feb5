"""Figures of a table: loss curves, values per seed, confusion matrices, predicted against true. Test rows are drawn,
never chosen by: every finished run is in every figure of its system.
"""
from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import pyplot
from matplotlib.lines import Line2D

from core.common.errors import UserError
from core.common.figures import COLOURS, inline_svg, plain
from core.data.tables import TableSpec
from core.runtime.backend import BACKENDS
from core.studies.tables.assemble import Row, Table
from core.studies.tables.frames import data_text
from core.studies.tables.results import AGAIN, Entry, Run, Setup

CURVES = "Loss per row, a line per seed: training dashed, validation solid"
WIDTHS = (2.6, 1.6, 0.8)  # of curves in one panel: equal ones stay visible behind one another
NARROWEST = 0.02
MANY = 20_000  # more points than this are embedded as a picture, which keeps the report small
Counts = npt.NDArray[np.int64]
Cells = Mapping[str, Mapping[str, Sequence[Run]]]  # cell -> backend -> finished runs


@dataclass(frozen=True)
class Figure:
    """An <svg> element and what it shows."""

    svg: str
    caption: str


def draw(table: Table, entries: Sequence[Entry]) -> list[Figure]:
    """All figures of `table`, system by system. Raises UserError when a run's files can't be read."""
    if table.layout.spec.every:
        return _draw_settings(table, entries)
    figures = []
    for setup in dict.fromkeys(row.setup for row in table.rows if row.setup and row.data):
        rows = [row for row in table.rows if row.setup == setup]
        cells = _runs(table, setup, entries)
        subject = f"{table.layout.title}, {setup.title}. Data: {data_text(rows)}"
        if any(row.arms and any(arm.summary.mean is not None for arm in row.arms.values()) for row in rows):
            figures.append(_figure(_points(rows, table), subject, "One point per seed, mean and 95 % interval"))
        if table.layout.mean:
            continue  # its curves and predictions are those of the cells
        figures.append(_figure(_curves(cells), subject, CURVES))
        spec = table.layout.spec
        if spec.classes or spec.data.task.kind == "classification":
            figures.append(_figure(_confusion(cells, spec), subject, "Confusion of test rows, all seeds together; "
                                   "colour: share of the row" + _clipped(spec)))
        if spec.data.task.kind == "regression":
            figures.append(_figure(_scatter(cells, spec), subject, "Predicted against true, test rows of all seeds"))
    return figures


def _draw_settings(table: Table, entries: Sequence[Entry]) -> list[Figure]:
    """Of a table of many settings: one figure with the curves of all, and one with their points."""
    rows = [row for row in table.rows if row.setup and row.data]
    setups = list(dict.fromkeys(row.setup for row in rows if row.setup))
    if not setups:
        return []
    subject = textwrap.fill(f"{table.layout.title}. Data: {data_text(rows)}", 40 * (1 + len(table.backends)))
    figures = []
    if any(arm.summary.mean is not None for row in rows for arm in row.arms.values()):
        named = [replace(row, cell=row.setup.variant) for row in rows if row.setup]
        figures.append(_figure(_points(named, table), subject, "One point per seed, mean and 95 % interval"))
    if not table.layout.mean:
        figures.append(_figure(_side_by_side(table, setups, entries), subject, CURVES))
    return figures


def _side_by_side(table: Table, setups: Sequence[Setup], entries: Sequence[Entry]) -> Any:
    """A row per setting, a column per backend; a row shares its scale, since losses of several kinds have none."""
    figure, grid = _grid(len(setups), len(table.backends), 3.1, 1.9, sharey="row", sharex=True)
    drawn = []
    for setup, row in zip(setups, grid, strict=True):
        for name, axes in zip(table.backends, row, strict=True):
            axes.set_title(plain(f"{setup.variant}, {name}"), fontsize=8)
            axes.tick_params(labelsize=7)
            found = {entry.job.run: entry.run for entry in entries if entry.run and entry.setup == setup
                     and entry.spec == table.layout.spec and entry.job.backend == name}
            for run in found.values():
                drawn += _lines(axes, run, name, WIDTHS[-1])
    for axes in grid[-1]:
        axes.set_xlabel("epoch", fontsize=7)
    _rasterized_where_many(drawn)
    return figure


def _runs(table: Table, setup: Setup, entries: Sequence[Entry]) -> Cells:
    cells: dict[str, dict[str, list[Run]]] = {}
    for entry in entries:
        if entry.run and entry.setup == setup and entry.spec == table.layout.spec:
            cells.setdefault(entry.job.cell, {}).setdefault(entry.job.backend, []).append(entry.run)
    known = [cell for cell in table.layout.cells if cell in cells]
    return {cell: {name: cells[cell][name] for name in BACKENDS if name in cells[cell]} for cell in known or cells}


def _figure(figure: Any, subject: str, what: str) -> Figure:
    """The picture carries its subject, caveats included, wherever it is copied to."""
    figure.suptitle(plain(subject), fontsize=9)
    return Figure(inline_svg(figure), f"{what}. {subject}.")


def _grid(rows: int, columns: int, width: float, height: float, **more: Any) -> tuple[Any, Any]:
    return pyplot.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False,
                           layout="constrained", **more)


def _cell_grid(cells: Sequence[str], backends: Sequence[str], height: float, **more: Any) -> tuple[Any, Any]:
    """Axes by cell and backend. One cell: its backends side by side; several: a row per backend."""
    figure, grid = _grid(*((1, len(backends)) if len(cells) == 1 else (len(backends), len(cells))), 3.1, height, **more)
    return figure, dict(zip(((cell, name) for name in backends for cell in cells), grid.flat, strict=True))


def _backends(cells: Cells) -> list[str]:
    return [name for name in BACKENDS if any(name in runs for runs in cells.values())]


def _panels(cells: Cells) -> tuple[Any, list[tuple[Any, str, list[str]]]]:
    """(axes, cell, backends in it): a panel per cell and backend, or, of many cells, one with all backends."""
    backends = _backends(cells)
    if len(cells) <= 4:
        figure, grid = _cell_grid(list(cells), backends, 2.5, sharey=len(cells) == 1)
        chosen = [(axes, cell, [name]) for (cell, name), axes in grid.items()]
    else:
        figure, grid = _grid(math.ceil(len(cells) / 4), 4, 2.7, 2.3)
        chosen = [(axes, cell, backends) for axes, cell in zip(grid.flat, cells, strict=False)]
        for axes in grid.flat[len(cells):]:
            axes.remove()
        figure.legend(handles=[Line2D([], [], color=COLOURS[name], label=name) for name in backends],
                      loc="outside lower center", ncols=len(backends), fontsize=8)
    for axes, cell, names in chosen:
        axes.set_title(plain(f"{cell}, {names[0]}" if len(cells) <= 4 else cell), fontsize=8)
        axes.tick_params(labelsize=7)
    return figure, chosen


def _curves(cells: Cells) -> Any:
    figure, panels = _panels(cells)
    drawn = []
    for axes, cell, backends in panels:
        for index, name in enumerate(backends):
            for run in cells[cell].get(name, ()):
                drawn += _lines(axes, run, name, WIDTHS[index - len(backends)])
        axes.set_xlabel("epoch", fontsize=7)
    _rasterized_where_many(drawn)
    return figure


def _lines(axes: Any, run: Run, backend: str, width: float) -> list[Any]:
    """The losses of one run."""
    history = run.history()
    style: Any = {"color": COLOURS[backend], "linewidth": width, "alpha": 0.7}
    return [*axes.plot(history["epoch"], history["valid_loss"], **style),
            *axes.plot(history["epoch"], history["train_loss"], linestyle="--", **style)]


def _rasterized_where_many(drawn: Sequence[Any]) -> None:
    many = sum(len(line.get_xdata()) for line in drawn) > MANY
    for line in drawn:
        line.set_rasterized(many)


def _points(rows: Sequence[Row], table: Table) -> Any:
    """A panel per metric; along x the cells, and in each the backends beside one another."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    cells = list(dict.fromkeys(row.cell for row in rows))
    columns = 1 if len(cells) > 4 else min(4, len(metrics))
    width = 0.7 * len(cells) if columns == 1 else max(2.7, 0.9 * len(cells))
    figure, grid = _grid(math.ceil(len(metrics) / columns), columns, width, 2.5)
    for axes in grid.flat[len(metrics):]:
        axes.remove()
    for axes, metric in zip(grid.flat, metrics, strict=False):
        for row in (row for row in rows if row.metric == metric):
            _points_of(axes, row, cells.index(row.cell), table.backends)
        axes.set_title(metric, fontsize=8)
        axes.set_xticks(range(len(cells)), [plain(cell) for cell in cells], fontsize=7,
                        rotation=45 if len(cells) > 4 else 0)
        axes.tick_params(labelsize=7)
        axes.set_xlim(-0.5, len(cells) - 0.5)
        low, high = axes.get_ylim()
        spread = max(NARROWEST - (high - low), 0) / 2  # rounding errors are not to look like differences
        axes.set_ylim(low - spread, high + spread)
    handles = [Line2D([], [], color=COLOURS[name], marker="o", linestyle="", label=name) for name in table.backends]
    if any("paper" in row.published for row in rows):
        label = "paper" if all(row.comparable for row in rows) else "paper, from other data"
        handles.append(Line2D([], [], color="black", linestyle=":", label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8)
    return figure


def _points_of(axes: Any, row: Row, at: int, backends: Sequence[str]) -> None:
    for index, name in enumerate(backends):
        arm = row.arms.get(name)
        known = [value for value in arm.values.values() if value is not None] if arm else []
        centre = at + 0.8 * ((index + 0.5) / len(backends) - 0.5)
        axes.scatter(np.linspace(centre - 0.06, centre + 0.06, len(known)), known, s=8, color=COLOURS[name], alpha=0.6)
        summary = arm.summary if arm else None
        if summary and summary.mean is not None:
            axes.plot([centre - 0.1, centre + 0.1], [summary.mean] * 2, color=COLOURS[name], linewidth=1.5)
        if summary and summary.low is not None:
            axes.plot([centre] * 2, [summary.low, summary.high], color=COLOURS[name], linewidth=1)
    if "paper" in row.published:
        axes.hlines(row.published["paper"], at - 0.45, at + 0.45, color="black", linestyle=":", linewidth=1)


def _confusion(cells: Cells, spec: TableSpec) -> Any:
    """Of scores the kinds of classes that `spec` names; else the classes of each cell."""
    kinds = spec.classes or tuple(cells)
    figure, grid = _cell_grid(kinds, _backends(cells), 2.9)
    for (kind, name), axes in grid.items():
        runs = cells[spec.cells[0] if spec.classes else kind].get(name, ())
        _matrix(axes, [KINDS[kind](run, spec) if spec.classes else classes(run) for run in runs], f"{kind}, {name}")
    return figure


def _clipped(spec: TableSpec) -> str:
    high = spec.data.task.label_range[1] if spec.data.task.label_range else 0
    return f". Predictions beyond {high:g} count as {high:g}" if spec.classes else ""


def sign(run: Run, spec: TableSpec) -> tuple[list[str], Counts]:
    """Of a score, Has0: true (rows) against predicted (columns), (2, 2)."""
    truth, found = (values >= 0 for values in _of_score(run, spec.data.task.names[0]))
    return ["< 0", "≥ 0"], _count(truth.astype(int), found.astype(int), 2)


def rounded(run: Run, spec: TableSpec) -> tuple[list[str], Counts]:
    """Of a score clipped to the labels' range and rounded: true (rows) against predicted (columns), (C, C)."""
    low, high = spec.data.task.label_range or (0, 0)
    names = [str(value) for value in range(int(low), int(high) + 1)]
    truth, found = (np.round(np.clip(values, low, high)).astype(int) - int(low)
                    for values in _of_score(run, spec.data.task.names[0]))
    return names, _count(truth, found, len(names))


KINDS = {"sign": sign, "seven classes": rounded}  # as core.data.tables names them


def _of_score(run: Run, name: str) -> list[Any]:
    """Labels and predictions of a score, (N,) each."""
    return run.numbers(f"label_{name}", name)


def classes(run: Run) -> tuple[list[str], Counts]:
    """Of a classification: true (rows) against predicted (columns), (2, 2)."""
    frame = run.predictions()
    names = [name.removeprefix("p_") for name in frame.columns if name.startswith("p_")]
    truth, = run.numbers("label")
    found = frame.get("predicted")
    if found is None or not found.isin(names).all() or not np.isin(truth, range(len(names))).all():
        raise UserError(f"{run.path / 'predictions_test.csv'}: its labels and predicted classes aren't those of its "
                        f"columns p_...; {AGAIN}")
    return names, _count(truth.astype(int), found.map(names.index).to_numpy(), len(names))


def _count(truth: Any, found: Any, classes: int) -> Counts:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth, found), 1)
    return counts


def _matrix(axes: Any, counted: Sequence[tuple[list[str], Counts]], title: str) -> None:
    axes.set_title(plain(title), fontsize=8)
    if not counted:
        axes.set_axis_off()
        return
    labels, counts = counted[0][0], sum((found for _, found in counted[1:]), counted[0][1])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(counts):
        axes.text(j, i, str(count), ha="center", va="center", fontsize=6 if len(labels) > 2 else 9,
                  color="white" if share[i, j] > 0.6 else "black")
    ticks = [plain(label) for label in labels]
    axes.set_xticks(range(len(ticks)), ticks, fontsize=7)
    axes.set_yticks(range(len(ticks)), ticks, fontsize=7)
    axes.set_xlabel("predicted", fontsize=7)
    axes.set_ylabel("true", fontsize=7)


def _scatter(cells: Cells, spec: TableSpec) -> Any:
    """A cell's own score."""
    figure, panels = _panels(cells)
    for axes, cell, backends in panels:
        ends: list[float] = []
        for name in backends:
            for run in cells[cell].get(name, ()):
                truth, found = _of_score(run, spec.score(cell))
                axes.scatter(truth, found, s=3, color=COLOURS[name], alpha=0.25, linewidths=0, rasterized=True)
                ends += [truth.min(), truth.max()]
        if ends:
            axes.plot([min(ends), max(ends)], [min(ends), max(ends)], color="black", linewidth=0.7, linestyle=":")
        axes.set_xlabel("true", fontsize=7)
        axes.set_ylabel("predicted", fontsize=7)
    return figure
