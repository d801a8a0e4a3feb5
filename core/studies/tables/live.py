"""What a person sees while a plan runs: a live table in a terminal, one line per run elsewhere."""
from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from core.studies.tables.plan import Job, Run
from core.studies.tables.pool import Event
from core.studies.tables.request import Request


@dataclass
class Row:
    """A table in a backend: how far it is."""

    total: int = 0
    finished: int = 0
    failed: int = 0
    running: dict[str, tuple[Event, float]] = field(default_factory=dict)  # run -> latest event, when it began


class Board:
    """Counts events; shows them. Use it as a context: in a terminal the table lives as long."""

    def __init__(self, finished: Sequence[Run], waiting: Sequence[Run], jobs: int, console: Console) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        for run in [*finished, *waiting]:
            self._row(run).total += 1
        for run in finished:
            self._row(run).finished += 1
        self.jobs, self.console = jobs, console
        self.failures: list[Event] = []
        self._seconds: dict[str, list[float]] = {}  # backend -> how long its runs took
        self._left = {backend: sum(run.backend == backend for run in waiting)
                      for backend in dict.fromkeys(run.backend for run in waiting)}
        self._live = Live(console=console, get_renderable=self.render, refresh_per_second=2) \
            if console.is_terminal else None

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    @property
    def total(self) -> int:
        return sum(row.total for row in self.rows.values())

    @property
    def finished(self) -> int:
        return sum(row.finished for row in self.rows.values())

    def hear(self, event: Event) -> None:
        """Take an event of the pool in."""
        row, name = self._row(event.run), event.run.name
        if event.kind in ("begun", "epoch"):
            row.running[name] = (event, row.running[name][1] if name in row.running else time.monotonic())
            return
        row.running.pop(name, None)
        self._left[event.run.backend] -= 1
        if event.kind == "failed":
            row.failed += 1
            self.failures.append(event)
            self._say(event, Text(f"failed: {event.error}", "red"))
            return
        row.finished += 1
        self._seconds.setdefault(event.run.backend, []).append(event.seconds)
        if not self._live:
            self._say(event, Text(f"finished in {span(event.seconds)}, {event.epoch} epochs, "
                                  f"best validation loss {event.best_loss:.5f}"))

    def _say(self, event: Event, text: Text) -> None:
        done = f"{self.finished + len(self.failures)}/{self.total}"
        self.console.print(Text(f"{done} {event.run.name}: ") + text, soft_wrap=True)

    def seconds_left(self) -> float | None:
        """Of what waits and what runs, by the median of the finished runs; None before there is one."""
        known = {backend: statistics.median(taken) for backend, taken in self._seconds.items()}
        if not known:
            return None
        other = statistics.median(known.values())  # for a backend that has finished none
        spent = sum(min(known.get(event.run.backend, other), time.monotonic() - begun)
                    for row in self.rows.values() for event, begun in row.running.values())
        work = sum(left * known.get(backend, other) for backend, left in self._left.items()) - spent
        return work / max(1, min(self.jobs, sum(self._left.values())))

    def render(self) -> Any:
        """The table, a bar and one line."""
        table = Table("table", "backend", "finished", "failed", "running", expand=False)
        for (name, backend), row in self.rows.items():
            running = "\n".join(_line(event) for event, _ in row.running.values())
            table.add_row(name, backend, f"{row.finished}/{row.total}",
                          Text(str(row.failed), "red") if row.failed else "0", Text(running))
        left = self.seconds_left()
        words = f"{self.finished} of {self.total} runs finished"
        words += f", {len(self.failures)} failed" if self.failures else ""
        words += "" if not any(self._left.values()) else \
            f", about {span(left)} left" if left is not None else ", time left: known after the first run"
        below = Table.grid(padding=(0, 1))
        below.add_row(ProgressBar(self.total, self.finished + len(self.failures), width=40), Text(words))
        return Group(table, below)

    def _row(self, run: Run) -> Row:
        return self.rows.setdefault((run.table, run.backend), Row())


def _line(event: Event) -> str:
    """`vivid seed 2: epoch 31 of at most 500, best 0.81230`."""
    names = event.run.cells.split(",")
    cell = names[0] + (f" +{len(names) - 1}" if len(names) > 1 else "")
    model = event.run.jobs[0]
    what = f"{cell} {model.model} {'+'.join(model.modalities)} seed {event.run.seed}"
    if event.kind == "begun":
        return f"{what}: starting"
    best = "" if event.best_loss is None else f", best {event.best_loss:.5f}"
    return f"{what}: epoch {event.epoch} of at most {event.run.config.epochs}{best}"


def span(seconds: float) -> str:
    """A duration as a person says it."""
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def summary(request: Request, finished: Sequence[Run]) -> str:
    """The plan in one line."""
    runs, seeds = len(request.runs), len({job.seed for job in request.jobs})
    rows = len({job.row for job in request.jobs})
    shared = len(request.jobs) - runs
    counts = ((rows, "cell"), (len(request.backends), "backend"), (seeds, "seed"))
    said = " x ".join(f"{n} {what}{'' if n == 1 else 's'}" for n, what in counts) + f" = {len(request.jobs)}"
    said += f", {shared} share a run with another cell" if shared else ""
    return f"{said}: {runs} runs, {len(finished)} finished, {runs - len(finished)} to do, in {request.output}"


def print_plan(request: Request, finished: Sequence[Run], console: Console) -> None:
    """--dry_run: a row per cell, with finished and all runs of each backend."""
    done = {run.name for run in finished}
    rows: dict[tuple[Any, ...], list[Job]] = {}
    for job in request.jobs:
        rows.setdefault(job.row, []).append(job)
    owner: dict[str, str] = {}  # run -> the cell that has it first
    table = Table("cell", "model", "modalities", "data", "config", *request.backends, "seeds")
    for jobs in rows.values():
        one = jobs[0]
        first = owner.setdefault(one.run, one.cell)
        shared = "" if first == one.cell else f" (with {first})"
        counts = [f"{sum(job.run in done for job in own)}/{len(own)}{shared}" for own in
                  ([job for job in jobs if job.backend == backend] for backend in request.backends)]
        seeds = ",".join(dict.fromkeys(str(job.seed) for job in jobs))
        names = dict.fromkeys(filter(None, (one.table, one.cell, one.variant)))  # an only cell is called like its table
        table.add_row(" ".join(names), one.model, ",".join(one.modalities),
                      one.data, one.config, *counts, seeds)
    console.print(table)
    console.print(summary(request, finished), soft_wrap=True)
