"""How fast is it on the device? Samples per second of the four IEMOCAP cells, and of several seeds at once."""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.device_cells import LEVELS, Size, Values, in_half, settings
from benchmarks.measure import random_rows
from benchmarks.rounds import Spread, interleave, spread
from core.config import Config, build_graph, make_config
from core.runtime.backend import open_session
from core.runtime.session import GraphSession
from core.training.plan import EpochPlan, GivenMasks, make_plan
from core.training.scaler import initial_scale
from core.training.state import initial_state

MEASURES = {"port": "as the Ascend port times: no optimizer step, the loss read at each step", "step": "a full step",
            "epoch": "a whole epoch, its plan and the last smaller batch included"}
PLAIN = "float32"
Key = tuple[str, str, str]  # precision, measure, way


@dataclass(frozen=True)
class Speed:
    """One cell of the table. rounds: samples per second in each."""

    emotion: str
    batch: int
    precision: str
    measure: str
    way: str
    rounds: list[float]

    @property
    def spread(self) -> Spread:
        return spread(self.rounds)


@dataclass(frozen=True)
class Seeds:
    """Several seeds in one graph. ratio: the time of a full step of all over that of one, round by round."""

    emotion: str
    batch: int
    seeds: int
    ratio: Spread


def measure(backend: str, own: ModuleType, device: str, threads: int, size: Size, rounds: int
            ) -> tuple[list[Speed], list[Seeds]]:
    """Every cell and batch; within a round all of its jobs follow one another."""
    speeds: list[Speed] = []
    seeds: list[Seeds] = []
    for emotion in size.emotions:
        for batch in size.batches:
            values = {**settings(emotion), "batch_size": batch, "device": device, "threads": threads}
            jobs = jobs_of(backend, own, values, size)
            for job in jobs.values():  # warm up
                job(-1)
            times = interleave(jobs, rounds, f"{emotion}, batch {batch}")
            speeds += [Speed(emotion, batch, *key, [1 / one for one in found]) for key, found in times.items()
                       if key[1] in MEASURES]
            if "graph" in own.WAYS:
                seeds.append(Seeds(emotion, batch, size.seeds, spread(ratios_of(times, size.seeds))))
    return speeds, seeds


def ratios_of(times: dict[Key, list[float]], seeds: int) -> list[float]:
    """The time of a step of so many seeds over that of one, round by round, from seconds per sample."""
    together, alone = times[PLAIN, "seeds", "graph"], times[PLAIN, "step", "graph"]
    return [seeds * one / other for one, other in zip(together, alone, strict=True)]


def jobs_of(backend: str, own: ModuleType, values: Values, size: Size) -> dict[Key, Callable[[int], float]]:
    """What is timed of a cell: each job gives the seconds of a sample. Jobs are called with the number of the round."""
    found: dict[Key, Callable[[int], float]] = {}
    batch: int = values["batch_size"]
    for precision, chosen in ((PLAIN, values), *((level, in_half(values, level, "float16")) for level in LEVELS)):
        session, plan = opened(backend, chosen, size)
        for way in own.WAYS:
            if way == "graph":
                port, full = own.port_way(session, plan), own.full_step([session], [plan])
            else:
                port, full = partial(port_way, session, plan, own), partial(full_step, session, plan, own)
            found[precision, "port", way] = per_sample(port, batch)
            found[precision, "step", way] = per_sample(full, batch)
            found[precision, "epoch", way] = partial(epoch, session, own, way, size.epoch_rows)
        if precision == PLAIN and "graph" in own.WAYS:
            others = [opened(backend, {**chosen, "seed": seed}, size) for seed in range(1, size.seeds)]
            sessions, plans = zip((session, plan), *others, strict=True)
            found[precision, "seeds", "graph"] = per_sample(own.full_step(sessions, plans), batch * size.seeds)
    return found


def opened(backend: str, values: Values, size: Size) -> tuple[GraphSession[Any], EpochPlan]:
    """A session in its initial state on random rows, and a plan of `size.steps` full batches of them."""
    config = make_config(values)
    graph = build_graph(config)
    session = open_session(backend, graph, config)
    assert isinstance(session, GraphSession)
    session.load_data("train", random_rows(graph, size.epoch_rows))
    session.load_state(initial_state(graph, config.seed, config.precision, initial_scale(config)))
    return session, plan_of(session, config, size)


def plan_of(session: GraphSession[Any], config: Config, size: Size) -> EpochPlan:
    """Full batches alone, as many as are timed at a time, whose masks are there already: rows come again and again."""
    rows = size.steps * config.batch_size
    plan = make_plan(session.graph, config, 0, rows)
    return replace(plan, order=np.asarray(plan.order % size.epoch_rows), dropout=GivenMasks(plan.masks(0, size.steps)))


def per_sample(timed: Callable[[], float], samples: int) -> Callable[[int], float]:
    """A job of a timer that gives the seconds of a step."""
    return lambda number: timed() / samples


def port_way(session: GraphSession[Any], plan: EpochPlan, own: ModuleType) -> float:
    """Seconds of an eager step as the Ascend port times it, over all but the first of the plan."""
    batches = session.batches(plan, 0, len(plan.bounds))  # the first brings order and masks to the device
    session.differentiate(next(batches))
    own.wait(session)
    start = time.perf_counter()
    for batch in batches:
        session.read(session.differentiate(batch)[0])
    own.wait(session)
    return (time.perf_counter() - start) / (len(plan.bounds) - 1)


def full_step(session: GraphSession[Any], plan: EpochPlan, own: ModuleType) -> float:
    """Seconds of an eager full step, its gather included, over all but the first of the plan."""
    own.take(session, "eager")
    if session.scaler:
        session.scaler.begin(len(plan.bounds))
    steps = session.train_steps(plan, 0, len(plan.bounds))
    next(steps)
    own.wait(session)
    start = time.perf_counter()
    for _ in steps:
        pass
    own.wait(session)
    return (time.perf_counter() - start) / (len(plan.bounds) - 1)


def epoch(session: GraphSession[Any], own: ModuleType, way: str, rows: int, number: int) -> float:
    """Seconds per row of a whole epoch, as training has it."""
    own.take(session, way)
    own.wait(session)
    start = time.perf_counter()
    session.train_epoch(make_plan(session.graph, session.config, number + 1, rows))
    own.wait(session)
    return (time.perf_counter() - start) / rows
