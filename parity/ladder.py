"""The rungs, climbed by every backend on the user's own configuration and data, each held to the same judge.

That is the float64 oracle and its rules, so that whoever differs is the one that is wrong, torch too. Whole epochs have
no oracle: there the middle of three or more judges. parity_tests/test_rungs.py climbs the same rungs on small shapes.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.common.arrays import Array
from core.common.rounding import Sized, rounded
from core.training.session import Session
from core.training.state import State
from parity import rules
from parity.borders import blocks_in_half, gradients_in_half
from parity.bounds import DRIFT, FORWARD, GRADIENT, STATISTICS, STEP
from parity.compare import Gap, blamed, consensus, gap
from parity.ground import Ground, Tensors
from parity.oracle import Layers

Gaps = dict[str, Gap]


@dataclass(frozen=True)
class Rung:
    """The result of one rung: a gap per tensor, in order, and what was allowed.

    accused: whom a difference is laid to; several where it can't be told which of them is wrong.
    """

    name: str
    backend: str
    precision: str
    tolerance: float
    gaps: Gaps
    accused: tuple[str, ...]

    @property
    def first_difference(self) -> str | None:
        """The first tensor beyond the tolerance, in words; None when all agree."""
        for name, found in self.gaps.items():
            if found.exceeds(self.tolerance):
                return f"{name}: {found.sentence(self.tolerance)}"
        return None

    @property
    def problem(self) -> str | None:
        """The difference and who is to blame, in one line."""
        found = self.first_difference
        return found and f"{blamed(self.accused)} {self.name}, {self.precision}: {found}"


@dataclass(frozen=True)
class Subject:
    """One backend on common ground. `decaying` is its session for `ground.decaying`, which has a decay of its own."""

    backend: str
    session: Session
    decaying: Session
    ground: Ground

    @cached_property
    def epoch(self) -> tuple[Array, Tensors]:
        """The first epoch, trained once: the loss of every step (S,), and the weights at its end."""
        self.session.load_state(self.ground.state)
        losses: Array = self.session.train_epoch(self.ground.plan).losses
        weights: Tensors = self.session.state().weights
        return losses, weights


def subject(backend: str, session: Session, decaying: Session, ground: Ground) -> Subject:
    """Put the rows into both sessions and make them ready. Where DECAY is configured anyway, one session is both."""
    session.load_data("train", ground.train)
    session.load_data("valid", ground.valid)
    if decaying is not session:
        decaying.load_data("train", ground.decaying.train)
    return Subject(backend, session, decaying, ground)


def _held(got: Tensors, want: Layers) -> Gaps:
    """A gap per tensor, beside the size of its elements; a name that only one side has is a difference."""
    return _gaps(got, {name: layer.value for name, layer in want.items()},
                 {name: layer.size for name, layer in want.items()})


def _gaps(got: Tensors, want: Tensors, sizes: Mapping[str, Array | float | None]) -> Gaps:
    gaps = {name: gap(got[name], value, sizes.get(name)) if name in got else Gap(problem="is missing")
            for name, value in want.items()}
    return {**gaps, **{name: Gap(problem="is unexpected") for name in got if name not in want}}


def _exact(got: Tensors, want: Tensors) -> Gaps:
    """A gap per tensor, to which nothing is allowed; another dtype is a difference."""
    wrong = {name: f"dtype {got[name].dtype}, expected {value.dtype}" for name, value in want.items()
             if name in got and got[name].dtype != value.dtype}
    return {**_gaps(got, want, {}), **{name: Gap(problem=words) for name, words in wrong.items()}}


def _tensors(state: State) -> Tensors:
    """All of a state: weights under their names, moments, counters."""
    kinds = {"exp_avg": state.exp_avg, "exp_avg_sq": state.exp_avg_sq}
    moments = {f"{kind} {name}": value for kind, values in kinds.items() for name, value in values.items()}
    counters = {"step": state.step, "loss scale": state.loss_scale, "good steps": state.good_steps}
    return {**state.weights, **moments, **{name: np.asarray(value, np.float64) for name, value in counters.items()}}


def looking(measure: Callable[[Subject], Gaps]) -> Callable[[Subject], Gaps]:
    """A measure that leaves the state as it was; whatever it changes is a difference."""
    def measured(one: Subject) -> Gaps:
        gaps = measure(one)
        after = _exact(_tensors(one.session.state()), _tensors(one.ground.state))
        changed = [name for name, found in after.items() if found.exceeds(0)]
        return {**gaps, **{name: Gap(problem="is changed by looking") for name in changed}}

    return measured


def sets(one: Subject) -> Gaps:
    """Every parameter once, in the optimizer group of the specification, and no group beside those."""
    place = {p.name: p.group for p in one.ground.graph.trainable}
    groups = one.session.optimizer_groups()
    count = {name: sum(names.count(name) for names in groups.values()) for name in place}
    found = {name: Gap() if count[name] == 1 and name in groups.get(group, ()) else
             Gap(problem=f"is {count[name]} times in a group, expected once in {group}")
             for name, group in place.items()}
    extra = {name for names in groups.values() for name in names} - place.keys()
    unknown = groups.keys() - set(place.values())
    return {**found, **{name: Gap(problem="is trained, and is no trained parameter") for name in sorted(extra)},
            **{name: Gap(problem="is no group of the specification") for name in sorted(unknown)}}


def init(one: Subject) -> Gaps:
    """The same weights, moments and counters, bit for bit, after a way in and out."""
    return _exact(_tensors(one.session.state()), _tensors(one.ground.state))


@looking
def forward(one: Subject) -> Gaps:
    """Evaluation layer by layer."""
    return _held(one.session.forward(one.ground.batch, False), one.ground.evaluation)


@looking
def predict(one: Subject) -> Gaps:
    """The outputs of the validation rows in row order, as training asks for them, in the precision of the run."""
    got, precision = one.session.predict("valid"), one.ground.config.precision
    if got.dtype != precision:
        return {"output": Gap(problem=f"dtype {got.dtype}, expected {precision}")}
    return _held({"output": got}, {"output": one.ground.predictions})


@looking
def loss(one: Subject) -> Gaps:
    """The summed training loss of a batch."""
    return _held({"loss": np.asarray(one.session.gradients(one.ground.batch)[0])}, {"loss": one.ground.loss})


@looking
def gradients(one: Subject) -> Gaps:
    """The gradient of every parameter."""
    return _held(one.session.gradients(one.ground.batch)[1], one.ground.gradients)


@looking
def train_mode(one: Subject) -> Gaps:
    """Train mode with dropout masks, layer by layer."""
    return _held(one.session.forward(one.ground.batch, True), one.ground.training)


def adam(one: Subject) -> Gaps:
    """Moments and weights after one Adam step on one batch, as configured."""
    return _step(one.session, one.ground)


def decay(one: Subject) -> Gaps:
    """The same with a weight decay, from weights so small that the decay and Adam's eps decide the step."""
    return _step(one.decaying, one.ground.decaying)


def _step(session: Session, ground: Ground) -> Gaps:
    """One step, link by link, each from what the session itself had before: what is off in one is not seen in the next.
    Frozen weights stay as they were.

    The first moment is held to the session's own gradient, as closely as gradients are to the oracle's; the second to
    the gradient that the first one took in, and the weights to both moments: that leaves a few roundings.
    """
    config, before = ground.config, ground.state
    session.load_state(before)
    own = session.gradients(ground.batch)[1]
    session.train_epoch(ground.one_step)
    after: State = session.state()
    got: dict[str, Array] = {}
    want: Layers = {}
    others = {"step": gap(np.asarray(after.step), np.asarray(before.step + 1))}
    others.update({p.name: Gap(problem="is frozen, and moved") for p in ground.graph.group("frozen")
                   if after.weights[p.name].tobytes() != before.weights[p.name].tobytes()})
    looser = GRADIENT[config.precision] / STEP[config.precision]
    for p in ground.graph.trainable:
        name, group = p.name, rules.group_of(ground.graph, p)
        exp_avg, exp_avg_sq = rounded(after.exp_avg[name]), rounded(after.exp_avg_sq[name])
        gradient = rules.decayed(group, Sized(np.asarray(own[name], np.float64), looser * ground.gradients[name].size),
                                 before.weights[name])
        taken = rules.implied_gradient(before.exp_avg[name], exp_avg)
        want[f"exp_avg {name}"] = rules.first_moment(before.exp_avg[name], gradient)
        want[f"exp_avg_sq {name}"] = rules.second_moment(before.exp_avg_sq[name], taken)
        want[name] = rules.stepped(group, before.weights[name], exp_avg, exp_avg_sq, before.step + 1)
        got.update({name: after.weights[name], f"exp_avg {name}": after.exp_avg[name],
                    f"exp_avg_sq {name}": after.exp_avg_sq[name]})
    return {**_held(got, want), **others}


@looking
def borders(one: Subject) -> Gaps:
    """Mixed precision: every block in evaluation and in train mode, and that what is in half is numbers of half."""
    ground, bound = one.ground, FORWARD[one.ground.config.precision]
    gaps: Gaps = {}
    for mode, train in (("evaluation", False), ("training", True)):
        seen = one.session.forward(ground.batch, train)
        want = blocks_in_half(ground.graph, ground.config, ground.state.weights, ground.batch, seen, train, bound)
        gaps.update({f"{mode} {name}": found for name, found in _held(seen, want).items()})
    slopes = one.session.gradients(ground.batch)[1]
    want = gradients_in_half(ground.graph, ground.config, slopes, ground.state.loss_scale)
    gaps.update({f"gradient {name}": found for name, found in
                 _held({name: slopes[name] for name in want}, want).items()})
    return gaps


def statistics(one: Subject) -> Gaps:
    """BatchNorm's running statistics after an epoch with the last, smaller batch."""
    weights = one.epoch[1]
    return _held({name: weights[name] for name in one.ground.statistics}, one.ground.statistics)


def drift(one: Subject) -> Tensors:
    """Every step's loss in the first epoch."""
    return {f"step {i + 1}": value for i, value in enumerate(one.epoch[0])}


Judged = Callable[[Sequence[Subject]], list[Gaps]]


def by_oracle(measure: Callable[[Subject], Gaps]) -> Judged:
    """Each subject by itself."""
    return lambda subjects: [measure(one) for one in subjects]


def by_majority(measure: Callable[[Subject], Tensors]) -> Judged:
    """Each subject beside the middle of all, or of two beside the first."""
    def judged(subjects: Sequence[Subject]) -> list[Gaps]:
        found = [measure(one) for one in subjects]
        want = consensus(found)
        return [_gaps(got, want, {}) for got in found]

    return judged


EXACT = {"float64": 0.0, "float32": 0.0}
RUNGS: dict[str, tuple[Judged, dict[str, float]]] = {
    "sets": (by_oracle(sets), EXACT), "init": (by_oracle(init), EXACT), "forward": (by_oracle(forward), FORWARD),
    "predict": (by_oracle(predict), FORWARD), "loss": (by_oracle(loss), FORWARD),
    "gradients": (by_oracle(gradients), GRADIENT), "train mode": (by_oracle(train_mode), FORWARD),
    "adam": (by_oracle(adam), STEP), "decay": (by_oracle(decay), STEP),
    "statistics": (by_oracle(statistics), STATISTICS), "drift": (by_majority(drift), DRIFT),
    "borders": (by_oracle(borders), FORWARD),
}
MIXED = ("sets", "init", "borders", "adam", "decay", "statistics")  # what mixed precision is held to
PLAIN = tuple(name for name in RUNGS if name != "borders")  # what all else is
VOTED = ("drift",)  # without an oracle: only a majority can name the one that is wrong


def climb(name: str, subjects: Sequence[Subject]) -> list[Rung]:
    """One rung of all subjects, each from the common state."""
    judged, tolerances = RUNGS[name]
    ground = subjects[0].ground
    for one in subjects:
        one.session.load_state(ground.state)
    precision = ground.config.precision
    found = judged(subjects)
    for one in subjects:
        one.session.load_state(ground.state)
    rungs = [Rung(name, one.backend, ground.label, tolerances[precision], gaps, (one.backend,))
             for one, gaps in zip(subjects, found, strict=True)]
    agree = [rung for rung in rungs if not rung.first_difference]
    if name in VOTED and 2 * len(agree) <= len(rungs):
        everyone = tuple(one.backend for one in subjects)
        rungs = [Rung(r.name, r.backend, r.precision, r.tolerance, r.gaps, everyone) for r in rungs]
    return rungs
