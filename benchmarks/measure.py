"""What a benchmark worker runs: epochs of the real session and its floor, in turn."""
from __future__ import annotations

import cProfile
import pstats
import time
from typing import Any

import numpy as np

from benchmarks.floors import FLOORS
from core.backend import Session, open_session
from core.config import make_config
from core.models import InputDims, ModelSpec, build_spec
from core.plan import make_plan
from core.state import initial_state

ready: dict[str, tuple[Session, ModelSpec, Any, Any]] = {}


def prepare(backend: str, cell: str, values: dict[str, Any], dims: InputDims, rows: int) -> None:
    """Open the session of a cell on random data, and the floor; run both once to warm up."""
    config = make_config(values)
    spec = build_spec(config, dims)
    session = open_session(backend, spec, config)
    draw = np.random.default_rng(0)
    arrays = {m: draw.normal(size=(rows, *dims.row_shape(m))).astype("float32") for m in spec.modalities}
    arrays["label"] = (draw.integers(0, 2, rows) if spec.task == "classification"
                       else draw.uniform(-1, 1, (rows, spec.output_dim)).astype("float32"))
    session.load_data("train", arrays)
    session.load_state(initial_state(spec, 0, config.precision))
    floor = FLOORS[backend](config.batch_size, config.text_hidden)
    ready[cell] = session, spec, config, floor
    measure(cell, min(rows, 4 * config.batch_size), 0)


def measure(cell: str, rows: int, epoch: int) -> tuple[float, float]:
    """Seconds of one training epoch, plan included, and of as many floors as it has steps."""
    session, spec, config, floor = ready[cell]
    start = time.perf_counter()
    plan = make_plan(spec, 0, epoch, rows, config.batch_size, config.precision)
    session.train_epoch(plan)
    middle = time.perf_counter()
    for _ in plan.bounds:
        floor()
    return middle - start, time.perf_counter() - middle


def profile(cell: str, rows: int) -> list[tuple[str, int, float]]:
    """The functions in which an epoch spends its own time: name, calls, share. Seen from Python."""
    session, spec, config, _ = ready[cell]
    profiler = cProfile.Profile()
    profiler.enable()
    session.train_epoch(make_plan(spec, 0, 0, rows, config.batch_size, config.precision))
    profiler.disable()
    stats: Any = pstats.Stats(profiler)
    total = stats.total_tt
    found = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:12]
    return [(f"{key[0].rsplit('/', 1)[-1]}:{key[2]}", value[0], value[2] / total) for key, value in found]
