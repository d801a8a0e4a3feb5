"""What a benchmark worker runs: epochs of real sessions on random data and, in turn, their framework's floor."""
from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.floors import floor_of
from core.common.arrays import Array
from core.config import Config, build_graph, make_config
from core.data.specs import InputSpec
from core.models.graph import Graph
from core.runtime.backend import open_session
from core.training.plan import make_plan
from core.training.session import Session
from core.training.state import initial_state


@dataclass(frozen=True)
class Cell:
    """An open session with what it was made of."""

    session: Session
    graph: Graph
    config: Config


cells: dict[str, Cell] = {}
floors: dict[str, Callable[[], object]] = {}


def open_cell(backend: str, cell: str, graph: Graph, config: Config, rows: int) -> Session:
    """Open the session of `cell` on random numbers: `rows` rows to train on, and a batch of them to predict."""
    session, arrays = open_session(backend, graph, config), random_rows(graph, rows)
    session.load_data("train", arrays)
    session.load_data("test", {name: array[:config.batch_size] for name, array in arrays.items()})
    session.load_state(initial_state(graph, 0, config.precision))
    cells[cell] = Cell(session, graph, config)
    return session


def random_rows(graph: Graph, rows: int) -> dict[str, Array]:
    """Random numbers in the shapes of the inputs and the label."""
    draw = np.random.default_rng(0)
    arrays = {one.name: draw.normal(size=(rows, *one.shape)).astype("float32") for one in graph.inputs}
    arrays["label"] = (draw.integers(0, 2, rows) if graph.task.kind == "classification"
                       else draw.uniform(-1, 1, (rows, graph.task.outputs)).astype("float32"))
    return arrays


def train(cell: str, rows: int, epoch: int) -> float:
    """Seconds of one training epoch over `rows` rows, plan included."""
    session, graph, config = cells[cell].session, cells[cell].graph, cells[cell].config
    start = time.perf_counter()
    session.train_epoch(make_plan(graph, config, epoch, rows))
    return time.perf_counter() - start


def predict(cell: str, times: int) -> float:
    """Seconds of predicting one batch, `times` times."""
    session = cells[cell].session
    start = time.perf_counter()
    for _ in range(times):
        session.predict("test")
    return time.perf_counter() - start


def prepare(backend: str, cell: str, values: dict[str, Any], inputs: Sequence[InputSpec], rows: int) -> str:
    """Open the session of a cell and the floor; run both once to warm up. What the floor consists of."""
    config = make_config(values)
    graph = build_graph(config, inputs)
    open_cell(backend, cell, graph, config, rows)
    title, floors[cell] = floor_of(backend, graph, config.batch_size)
    measure(cell, min(rows, 4 * config.batch_size), 0)
    return title


def measure(cell: str, rows: int, epoch: int) -> tuple[float, float]:
    """Seconds of one training epoch, plan included, and of as many floors as it has steps."""
    seconds = train(cell, rows, epoch)
    start = time.perf_counter()
    for _ in range(0, rows, cells[cell].config.batch_size):
        floors[cell]()
    return seconds, time.perf_counter() - start


def profile(cell: str, rows: int) -> list[tuple[str, int, float]]:
    """The functions in which an epoch spends its own time: name, calls, share. Seen from Python."""
    profiler = cProfile.Profile()
    profiler.enable()
    train(cell, rows, 0)
    profiler.disable()
    stats: Any = pstats.Stats(profiler)
    total = stats.total_tt
    found = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:12]
    return [(f"{key[0].rsplit('/', 1)[-1]}:{key[2]}", value[0], value[2] / total) for key, value in found]
