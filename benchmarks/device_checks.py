"""Is it right on the device? Every network beside the float64 oracle and runs on the CPU, before anything is timed.

float32: activations, loss, gradients, an Adam step and BatchNorm's statistics at parity's bounds. Then an epoch as
training takes it, by graph and eagerly, beside one in float64 on the CPU: the loss of every step and the weights at its
end within FACTOR times what float32 on the CPU itself is off until there, from the same weights and from nudged ones;
and losses may in any case be off as parity lets them.

Half: each kernel on the device rounds on its own within a block, where the emulated run on the CPU rounds at borders.
That is as if every operand had moved by a rounding: so whole runs have to stay within FACTOR times a floor of runs in
which every weight that is drawn was moved by a unit in the last place of half, in every step, every epoch and at the
end. PyTorch's half kernels for a CPU are off by 0.1 to 1.3 times that floor (LMF, TFN and msa, 64 rows, 2 epochs).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.device_cells import LEVELS, SCALES, Size, Values, in_half
from core.common.arrays import F64, Array
from core.common.errors import RunFailed
from core.common.half import half_unit
from core.config import build_graph, changed, make_config, to_values
from core.data import load_dataset
from core.models.graph import ParameterSpec
from core.runtime.backend import open_session
from core.runtime.worker import RemoteSession, Worker
from core.training.losses import loss_of
from core.training.plan import make_plan
from core.training.scaler import initial_scale
from core.training.session import Session
from core.training.state import State, initial_state
from parity.bounds import DRIFT
from parity.compare import gap
from parity.ground import Ground, Tensors
from parity.ladder import climb, subject
from parity.runs import FACTOR, Record, judge, nudge, relative, rounding

STILL = ("sets", "init", "forward", "predict", "loss", "gradients", "train mode")  # rungs that take no step
STEPPING = ("adam", "statistics")
VALID = 128  # rows that are predicted
LEAST = 4 * 2.0**-23  # what a sum of float32 in another order may be off in any case
SAY = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One that was passed. `share`: how much of what is allowed was used, at most."""

    network: str
    precision: str
    way: str
    name: str
    share: float


def check(backend: str, own: ModuleType, networks: dict[str, Values], size: Size, say: SAY) -> list[Check]:
    """All checks, each said when passed. Raises RunFailed with the first difference."""
    found: list[Check] = []

    def keep(one: Check) -> None:
        found.append(one)
        way = f", {one.way}" if one.way else ""
        say(f"right: {one.network}, {one.precision}{way}: {one.name}, {one.share:.1%} of what is allowed")

    worker = Worker(backend)
    try:
        for name, values in networks.items():
            train, valid = rows_of(values["dataset"], values.get("emotion"), values.get("model"), size.rows)
            ground = ground_of(values, train, valid)
            session = open_session(backend, ground.graph, ground.config)
            check_float32(name, ground, session, worker, own, keep)
            fewer = {key: array[:size.half_rows] for key, array in train.items()}
            for level in LEVELS:
                for kind in SCALES:
                    halved = ground_of(in_half(values, level, kind), fewer, valid)
                    check_half(name, halved, backend, worker, own, size, keep)
    finally:
        worker.close()
    return found


@cache
def rows_of(dataset: str, emotion: str | None, model: str | None, rows: int) -> tuple[Tensors, Tensors]:
    """The first synthetic rows of the published shapes: so many to train on, and VALID to predict."""
    given = {"dataset": dataset, "emotion": emotion, "model": model, "data": "synthetic"}
    found = load_dataset(make_config({key: value for key, value in given.items() if value})).splits
    train, valid = ({name: array[:most].copy() for name, array in found[split].arrays.items()}
                    for split, most in (("train", rows), ("valid", min(rows, VALID))))
    return train, valid


def ground_of(values: Values, train: Tensors, valid: Tensors) -> Ground:
    """A network and its initial state on these rows."""
    config = make_config(values)
    graph = build_graph(config)
    state = initial_state(graph, config.seed, config.precision, initial_scale(config))
    return Ground(graph, config, state, train, valid)


def check_float32(name: str, ground: Ground, session: Session, worker: Worker, own: ModuleType,
                  keep: Callable[[Check], None]) -> None:
    """Rung by rung, then an epoch, by every way."""
    one = subject(f"{ground.config.device}, {name}", session, session, ground)
    for rung in STILL:
        _climbed(name, "", rung, climb(rung, [one])[0], keep)
    want, allowed, floor = float64_epoch(name, ground, worker)
    for way in own.WAYS:
        own.take(session, way)
        again = replace(one)  # its epoch is still to be trained
        for rung in STEPPING:
            _climbed(name, way, rung, climb(rung, [again])[0], keep)
        losses, weights = again.epoch
        off = relative(np.asarray(losses, np.float64), want[0])
        place = int((off / allowed).argmax())  # a NaN is the largest
        if not off[place] <= allowed[place]:
            raise RunFailed(f"{name}, {ground.label}, {way}: the loss of step {place + 1} is {off[place]:.1e} from "
                            f"float64's, allowed {allowed[place]:.1e}")
        keep(Check(name, ground.label, way, "losses of an epoch's steps", float(off[place] / allowed[place])))
        shares = {key: _off(weights[key], value) / (FACTOR * floor[key]) for key, value in want[1].items()}
        worst = max(shares, key=shares.__getitem__)
        if not shares[worst] <= 1:
            raise RunFailed(f"{name}, {ground.label}, {way}: {worst} after an epoch is {shares[worst] * FACTOR:.1f} "
                            f"times as far from float64 as float32 on the CPU is ({floor[worst]:.1e}), allowed "
                            f"{FACTOR} times")
        keep(Check(name, ground.label, way, f"weights after an epoch ({worst})", shares[worst]))


def _climbed(name: str, way: str, rung: str, found: Any, keep: Callable[[Check], None]) -> None:
    if found.problem:
        raise RunFailed(f"{found.problem}{f', {way}' if way else ''}")
    shares = [one.relative / found.tolerance for one in found.gaps.values() if found.tolerance]
    keep(Check(name, found.precision, way, rung, max(shares, default=0.0)))


def _off(got: Array, want: Array) -> float:
    """The largest difference, relative to the largest number; infinite for what can't be compared."""
    found = gap(got, want)
    return np.inf if found.problem else found.relative


def float64_epoch(name: str, ground: Ground, worker: Worker) -> tuple[tuple[F64, Tensors], F64, dict[str, float]]:
    """Losses (S,) and weights of the epoch in float64 on the CPU; how far off each loss may be (S,); how far off each
    weight is in float32 on the CPU.
    """
    want = _epoch(name, ground, worker, "float64", ground.state)
    weights = [p.name for p in drawn(ground)]
    moved = (weights[0], weights[len(weights) // 2], weights[-1])
    states = [ground.state, *(nudge(ground.state, weight) for weight in moved)]
    runs = [_epoch(name, ground, worker, "float32", state) for state in states]
    off = np.maximum.accumulate(np.max([relative(losses, want[0]) for losses, _ in runs], axis=0))
    floor = {key: max(LEAST, *(_off(found[key], value) for _, found in runs)) for key, value in want[1].items()}
    return want, np.asarray(np.maximum(FACTOR * off, DRIFT["float32"])), floor


def _epoch(name: str, ground: Ground, worker: Worker, precision: str, state: State) -> tuple[F64, Tensors]:
    values = {**to_values(ground.config), "device": "cpu", "precision": precision}
    config = make_config(values)
    graph = build_graph(config, ground.graph.inputs)
    session = worker.open(name, values, ground.graph.inputs)
    session.load_data("train", ground.train)
    weights, *moments = ({key: value.astype(precision) for key, value in kind.items()}
                         for kind in (state.weights, state.exp_avg, state.exp_avg_sq))
    session.load_state(State(weights, moments[0], moments[1]))
    losses = session.train_epoch(make_plan(graph, config, 0, len(ground.train["label"]))).losses
    return losses, session.state().weights


def check_half(name: str, ground: Ground, backend: str, worker: Worker, own: ModuleType, size: Size,
               keep: Callable[[Check], None]) -> None:
    """Runs on the device beside the emulated run on the CPU."""
    on_cpu = replace(ground, config=changed(ground.config, {"device": "cpu"}))
    emulated = worker.open(name, to_values(on_cpu.config), ground.graph.inputs)
    session = open_session(backend, ground.graph, ground.config)
    _load(emulated, ground)
    _load(session, ground)
    states = [shaken(ground, draw) for draw in range(size.nudges)]
    base = run(emulated, "the CPU", on_cpu, ground.state, size.half_epochs)
    floor = [run(emulated, "the CPU", on_cpu, state, size.half_epochs) for state in states]
    device = str(session.observed())
    own.take(session, own.WAYS[0])
    floor += [run(session, device, ground, state, size.half_epochs) for state in states]
    for way in own.WAYS:
        own.take(session, way)
        verdict = judge(base, run(session, device, ground, ground.state, size.half_epochs), floor, "half")
        if verdict.problems:
            raise RunFailed(f"{name}, {device}, {way}, beside the emulated run on the CPU: {verdict.problems[0]}")
        keep(Check(name, device, way, "a run beside the floor of half", verdict.worst_ratio / FACTOR))


def _load(session: Session | RemoteSession, ground: Ground) -> None:
    session.load_data("train", ground.train)
    session.load_data("valid", ground.valid)


def drawn(ground: Ground) -> list[ParameterSpec]:
    """The trained weights that don't begin as zeros or ones."""
    return [p for p in ground.graph.trainable if p.init in ("normal", "uniform")]


def shaken(ground: Ground, draw: int) -> State:
    """The state with every drawn weight moved by one unit in the last place of half, up or down."""
    signs, kind = np.random.default_rng(draw), ground.config.amp_dtype
    weights = dict(ground.state.weights)
    for p in drawn(ground):
        steps = signs.choice([-1, 1], p.shape) * half_unit(weights[p.name], kind)
        weights[p.name] = np.asarray(weights[p.name], np.float64) + steps
    return replace(ground.state, weights={name: np.asarray(value, np.float32) for name, value in weights.items()})


def run(session: Session | RemoteSession, where: str, ground: Ground, state: State, epochs: int) -> Record:
    """A run of some epochs, as parity judges it."""
    loss, label = loss_of(ground.config), ground.valid["label"]
    steps: list[F64] = []
    train: list[float] = []
    valid: list[float] = []
    session.load_state(state)
    for epoch in range(epochs):
        plan = make_plan(ground.graph, ground.config, epoch, len(ground.train["label"]))
        losses = np.asarray(session.train_epoch(plan).losses, np.float64)
        steps.append(losses / plan.sizes if loss.reduction == "sum" else losses)
        train.append(loss.of_epoch(losses, plan.sizes))
        valid.append(loss.shown(session.predict("valid"), label))
    return Record(where, None, np.concatenate(steps), np.array(train), np.array(valid), epochs, epochs,
                  session.predict("valid"), {}, "", {}, rounding(ground.graph, "float32"))
