"""Whole training runs inside a worker, recorded step by step, and the chaos floor that they are held to."""
from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.common.arrays import F64, Array
from core.common.constants import ADAM_EPS
from core.common.half import HalfType, half_unit
from core.config import make_config
from core.data.specs import Reduction
from core.models.graph import Graph
from core.runtime.backend import open_session
from core.runtime.worker import tell
from core.training.plan import EpochPlan, EpochResult
from core.training.prepare import prepare
from core.training.run_folder import RunFolder, versions
from core.training.session import Session
from core.training.state import State
from core.training.trainer import Trainer
from parity.compare import blamed, gap

Values = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """One run. steps: loss of every training step, per row or the mean (S,); epochs in order; test predictions (N, O).

    least: what rounding alone can do to a loss, the least that its chaos floor is taken for.
    """

    backend: str
    nudged: str | None
    steps: F64
    train: F64
    valid: F64
    best_epoch: int
    stop_epoch: int
    predictions: Array
    metrics: dict[str, Any]
    title: str
    versions: dict[str, str]
    least: float


class Recorder:
    """A session that keeps the loss of every step, per row or the mean; everything else goes through."""

    def __init__(self, session: Session, reduction: Reduction) -> None:
        self.session, self.reduction = session, reduction
        self.steps: list[float] = []

    def train_epoch(self, plan: EpochPlan) -> EpochResult:
        result = self.session.train_epoch(plan)
        self.steps += (result.losses / plan.sizes if self.reduction == "sum" else result.losses).tolist()
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


def nudge(state: State, name: str, half: HalfType | None = None) -> State:
    """The state with the first non-zero element of one weight moved up by one unit in the last place, of half's too."""
    moved = state.weights[name].copy()
    where = np.unravel_index(int(np.flatnonzero(moved)[0]), moved.shape)
    moved[where] = (np.nextafter(moved[where], np.array(np.inf, moved.dtype)) if half is None
                    else moved[where] + half_unit(moved[where], half))
    return replace(state, weights={**state.weights, name: moved})


def whole_run(backend: str, values: Values, nudged: str | None = None) -> Record:
    """Train as the `train` command does, in a temporary run folder. Tells epoch and most epochs."""
    with tempfile.TemporaryDirectory(prefix="lmf-parity-") as scratch:
        config = make_config({**values, "output_path": scratch, "model_path": None})
        dataset, graph = prepare(config)
        session = Recorder(open_session(backend, graph, config), config.loss_reduction)
        trainer = Trainer(session, graph, config, dataset, RunFolder(Path(scratch), config), backend)
        trainer.load()
        if nudged:
            half = config.amp_dtype if config.amp_level != "O0" else None
            session.load_state(nudge(session.state(), nudged, half))
        metrics = trainer.run(lambda row: tell((row["epoch"], config.epochs)))
        history = trainer.progress.history
        train, valid = (np.array([row[key] for row in history]) for key in ("train_loss", "valid_loss"))
        return Record(backend, nudged, np.array(session.steps), train, valid, metrics["best_epoch"], metrics["epochs"],
                      session.predict("test"), metrics["test"], dataset.title, versions(backend),
                      rounding(graph, config.precision))


def rounding(graph: Graph, precision: str) -> float:
    """Relative: four units in the last place, for a sum taken in another order.

    Without weight decay, a gradient that is rounding and nothing else (BatchNorm's weight in a dead channel) is a unit
    in the last place in one framework and none in the next. Adam makes of it a step of up to rate * eps / 1e-8, which
    no nudged weight shows: measured 3e-13 on synthetic IEMOCAP in float64. Float32 drifts by more in any case.
    """
    if precision == "float32":
        return 4 * 2.0**-23
    rate = max((group.rate for group in graph.groups if group.decay == 0), default=0.0)
    return max(4.0, rate / ADAM_EPS) * 2.0**-52


def relative(one: F64, other: F64) -> F64:
    """|a - b| / |b| over the common length."""
    n = min(len(one), len(other))
    return np.asarray(np.abs(one[:n] - other[:n]) / np.abs(other[:n]))


def chaos_floor(base: Record, nudges: list[Record], key: str) -> F64:
    """Drift of a backend from itself, per epoch or step: the largest so far over all nudged runs.

    The largest so far, because a drift that was once reached can pass through zero by chance. Never below what
    rounding alone can do.
    """
    drifts = [relative(getattr(record, key), getattr(base, key)) for record in nudges]
    n = min(map(len, drifts))
    floor = np.maximum.accumulate(np.max([drift[:n] for drift in drifts], axis=0))
    return np.asarray(np.maximum(floor, base.least))


def extended(floor: F64, length: int) -> F64:
    """The floor over `length` epochs; beyond its own end it stays where it was."""
    return np.asarray(np.concatenate([floor, np.full(max(0, length - len(floor)), floor[-1])])[:length])


@dataclass(frozen=True)
class Verdict:
    """Two runs beside the chaos floor. Worst ratios are difference / floor, over all epochs.

    left_at: first epoch in which the floor reaches CALM, None if the whole run is calm; left_step: its first training
    step; calm_worst: the largest relative difference before that; same_end: same best and last epoch, predictions to
    1e-5 of the largest, metrics as printed; accused: whom a problem is laid to, several where it can't be told.
    """

    backend: str
    left_at: int | None
    left_step: int | None
    calm_worst: float
    worst_ratio: float
    same_end: bool
    problems: tuple[str, ...]
    accused: tuple[str, ...]

    def sentences(self, precision: str) -> list[str]:
        """The problems, and who is to blame."""
        return [f"{blamed(self.accused)} run, {precision}: {problem}" for problem in self.problems]


@dataclass(frozen=True)
class Runs:
    """All runs in one precision. The first record is the one that the others are held to, verdicts in their order."""

    precision: str
    records: list[Record]
    nudges: list[Record]
    verdicts: list[Verdict]


# While a run differs from itself by less, all runs must agree. In half one rounding that falls the other way is already
# what a nudge is: there the floor decides from the first step on, of every step too, and of the predictions at the end.
CALM = {"float64": 1e-8, "float32": 1e-4, "half": 0.0}
AGREE = {"float64": 1e-7, "float32": 1e-3, "half": 0.0}
FACTOR = 10  # frameworks may differ by this many times what one differs from itself


def pair_floor(base: Record, other: Record, nudges: list[Record], key: str, length: int) -> F64:
    """The larger of the two runs' own floors: each is held against nudged runs of its own backend.

    A sudden parting (a ReLU or a sign of the L1 loss that flips) can befall either run first.
    """
    floors = []
    for record in {record.backend: record for record in (other, base)}.values():
        own = [nudged for nudged in nudges if nudged.backend == record.backend]
        if own:
            floors.append(extended(chaos_floor(record, own, key), length))
    return np.asarray(np.max(floors, axis=0))


def judge(base: Record, other: Record, nudges: list[Record], precision: str) -> Verdict:
    """Hold `other` against `base`: (a) equal while calm, (b) within the floor, (c) the same end if all calm.

    precision: `half` for mixed precision.
    """
    problems = []
    worst_ratio = calm_worst = 0.0
    left_at: int | None = None
    for key in ("train", "valid", *(("steps",) if precision == "half" else ())):
        difference = relative(getattr(other, key), getattr(base, key))
        floor = pair_floor(base, other, nudges, key, len(difference))
        wild = np.flatnonzero(floor >= CALM[precision])
        calm = int(wild[0]) if len(wild) else len(difference)
        if len(wild):
            left_at = calm + 1 if left_at is None else min(left_at, calm + 1)
        calm_worst = max(calm_worst, float(difference[:calm].max(initial=0)))
        ratio = difference / floor
        worst_ratio = max(worst_ratio, float(ratio.max(initial=0)))
        for epoch in np.flatnonzero(difference[:calm] > AGREE[precision])[:1]:
            problems.append(f"{key} loss of epoch {epoch + 1} differs by {difference[epoch]:.1e}, allowed while "
                            f"the run is calm {AGREE[precision]}")
        for epoch in np.flatnonzero(ratio > FACTOR)[:1]:
            place = f"{key} loss of epoch" if key != "steps" else "loss of step"
            problems.append(f"{place} {epoch + 1} differs by {difference[epoch]:.1e}, {ratio[epoch]:.0f} "
                            f"times the chaos floor, allowed {FACTOR} times")
    if precision == "half":
        off, floor_of_end = end_gap(base, other), max(end_gap(record, nudged) for record in (base, other)
                                                      for nudged in nudges if nudged.backend == record.backend)
        if not off <= FACTOR * floor_of_end:
            problems.append(f"predictions differ by {off:.1e} of the largest, {off / floor_of_end:.0f} times the chaos "
                            f"floor, allowed {FACTOR} times")
    alike = (base.best_epoch == other.best_epoch and base.stop_epoch == other.stop_epoch
             and bool(gap(other.predictions, base.predictions).relative <= 1e-5))
    same_end = alike and printed(base.metrics) == printed(other.metrics)
    # In float32 the CPU decides which digit is printed of a value between two: there the predictions themselves count.
    if left_at is None and not (alike if precision == "float32" else same_end):
        problems.append("the run is calm to its end, and best epoch, last epoch, predictions or metrics differ")
    left_step = None if left_at is None else (left_at - 1) * (len(base.steps) // base.stop_epoch) + 1
    return Verdict(other.backend, left_at, left_step, calm_worst, worst_ratio, same_end, tuple(problems),
                   (other.backend,))


def end_gap(one: Record, other: Record) -> float:
    """The largest difference of the predictions at the end, relative to the largest of them."""
    return gap(other.predictions, one.predictions).relative


def judge_all(records: Sequence[Record], nudges: list[Record], precision: str, label: str) -> Runs:
    """Hold all runs to the one that most others agree with, the first of such. Without a majority nobody is named.

    label: what the report calls the precision.
    """
    agree = [sum(not judge(base, other, nudges, precision).problems for other in records) for base in records]
    place = agree.index(max(agree))
    base, rest = records[place], [record for record in records if record is not records[place]]
    verdicts = [judge(base, other, nudges, precision) for other in rest]
    if 2 * agree[place] <= len(records):
        everyone = tuple(record.backend for record in records)
        verdicts = [replace(verdict, accused=everyone) for verdict in verdicts]
    return Runs(label, [base, *rest], nudges, verdicts)


def printed(metrics: dict[str, Any]) -> dict[str, str]:
    """Metrics as a table shows them."""
    return {name: "undefined" if value is None else f"{value:.4f}" for name, value in metrics.items()}
