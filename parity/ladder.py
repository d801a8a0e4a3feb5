"""The rungs, climbed by one backend beside a reference backend on the user's own configuration and data.

Each rung compares named tensors and says which first differs. parity_tests/ holds the same rungs as tests,
on small shapes and against the oracle too.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from core import oracle
from core.config import Config
from core.data import Dataset
from core.models import ADAM_BETAS, ADAM_EPS, BATCHNORM_EPS, ModelSpec
from core.plan import Batch, EpochPlan, make_plan
from core.randomness import Array
from core.state import State
from parity.bounds import DRIFT, FORWARD, GRADIENT, STATISTICS
from parity.compare import Gap, gap

Tensors = Mapping[str, Array]


@dataclass(frozen=True)
class Rung:
    """The result of one rung: a gap per tensor, in order, and what was allowed."""

    name: str
    backend: str
    tolerance: float
    gaps: dict[str, Gap]

    @property
    def first_difference(self) -> str | None:
        """The first tensor beyond the tolerance, in words; None when all agree."""
        for name, found in self.gaps.items():
            if found.exceeds(self.tolerance):
                return f"{name}: {found.sentence(self.tolerance)}"
        return None


@dataclass(frozen=True)
class Subject:
    """What all rungs work on: one open session, and the same state and data for everyone."""

    backend: str
    session: Any
    spec: ModelSpec
    config: Config
    state: State
    arrays: Tensors

    @property
    def rows(self) -> int:
        return len(self.arrays["label"])

    def plan(self, epoch: int = 0, batch_size: int | None = None) -> EpochPlan:
        return make_plan(self.spec, self.config.seed, epoch, self.rows, batch_size or self.config.batch_size,
                         self.config.precision)

    def batch(self) -> Batch:
        """The first rows of the training split, with the masks of epoch 0."""
        rows = slice(0, min(self.rows, self.config.batch_size))
        masks = {name: mask[rows] for name, mask in self.plan().masks.items()}
        return Batch({m: self.arrays[m][rows] for m in self.spec.modalities}, self.arrays["label"][rows], masks)


def subject(backend: str, session: Any, spec: ModelSpec, config: Config, state: State, dataset: Dataset) -> Subject:
    """Put the training split into `session` and make it ready."""
    arrays = dataset.splits["train"].arrays
    session.load_data("train", arrays)
    session.load_state(state)
    return Subject(backend, session, spec, config, state, arrays)


def _gaps(got: Tensors, want: Tensors, *, sizes: Mapping[str, float | None] | None = None) -> dict[str, Gap]:
    """A gap per tensor; a name that only one side has is a difference."""
    gaps = {name: gap(got[name], value, (sizes or {}).get(name)) if name in got else Gap(problem="is missing")
            for name, value in want.items()}
    return {**gaps, **{name: Gap(problem="is unexpected") for name in got if name not in want}}


def gradient_sizes(tensors: Tensors) -> dict[str, float | None]:
    """By what the gap of a gradient is measured: its own largest element (None), or the largest of all tensors.

    A gradient that is zero but for rounding, because its terms cancel, has no size of its own: TFN's second bias on a
    batch with as many positive as negative errors, when every unit is on for all rows or for none.
    """
    largest = {name: float(np.abs(value).max()) for name, value in tensors.items()}
    whole = max(largest.values())
    rounding = {name: 100 * whole * (2.0**-23 if value.dtype == np.float32 else 2.0**-52)
                for name, value in tensors.items()}
    return {name: whole if largest[name] <= rounding[name] else None for name in tensors}


def sets(one: Subject, reference: Subject) -> dict[str, Gap]:
    """Every parameter once, in the same optimizer group."""
    place = {name: group for group, names in reference.session.optimizer_groups().items() for name in names}
    groups = one.session.optimizer_groups()
    count = {name: sum(names.count(name) for names in groups.values()) for name in place}
    found = {name: Gap() if count[name] == 1 and name in groups[group] else
             Gap(problem=f"is {count[name]} times in a group, expected once in {group}")
             for name, group in place.items()}
    extra = {name for names in groups.values() for name in names} - place.keys()
    return {**found, **{name: Gap(problem="is trained, and is no parameter") for name in sorted(extra)}}


def init(one: Subject, reference: Subject) -> dict[str, Gap]:
    """The same weights, bit for bit, after a way in and out."""
    return _gaps(one.session.state().weights, reference.session.state().weights)


def forward(one: Subject, reference: Subject) -> dict[str, Gap]:
    """Evaluation layer by layer, against the float64 oracle."""
    return _gaps(one.session.forward(one.batch(), False), oracle.forward(one.spec, one.state.weights, one.batch()))


def loss(one: Subject, reference: Subject) -> dict[str, Gap]:
    """The summed training loss of a batch."""
    return _gaps(*({"loss": np.array([s.session.gradients(s.batch())[0]])} for s in (one, reference)))


def gradients(one: Subject, reference: Subject) -> dict[str, Gap]:
    """The gradient of every parameter."""
    got, want = (s.session.gradients(s.batch())[1] for s in (one, reference))
    return _gaps(got, want, sizes=gradient_sizes(want))


def train_mode(one: Subject, reference: Subject) -> dict[str, Gap]:
    """Train mode with dropout masks, layer by layer, against the float64 oracle."""
    want = oracle.forward(one.spec, one.state.weights, one.batch(), train=True)
    return _gaps(one.session.forward(one.batch(), True), want)


def adam(one: Subject, reference: Subject) -> dict[str, Gap]:
    """Weights and moments after one Adam step on one batch.

    The first step is the rate times the gradient's sign. Where the gradient is rounding beside the tensor's largest,
    or within reach of Adam's eps, the sign is too: there only the moments are compared.
    """
    after = [_after_one_step(s) for s in (one, reference)]
    got, want = ({f"{kind} {p.name}" if kind != "weights" else p.name: getattr(state, kind)[p.name]
                  for kind in ("weights", "exp_avg", "exp_avg_sq") for p in one.spec.trainable} for state in after)
    sizes: dict[str, float | None] = {}
    for kind in ("exp_avg", "exp_avg_sq"):
        sizes.update(gradient_sizes({f"{kind} {p.name}": want[f"{kind} {p.name}"] for p in one.spec.trainable}))
    for p in one.spec.trainable:
        gradient = np.abs(want[f"exp_avg {p.name}"]) / (1 - ADAM_BETAS[0])
        rounding = 100 * np.finfo(gradient.dtype).eps * gradient.max()
        sure = (gradient > max(rounding, 100 * ADAM_EPS)) & (sizes[f"exp_avg {p.name}"] is None)
        got[p.name] = np.where(sure, got[p.name], want[p.name])
    return _gaps(got, want, sizes=sizes)


def statistics(one: Subject, reference: Subject) -> dict[str, Gap]:
    """BatchNorm's running statistics after an epoch with the last, smaller batch."""
    names = [p.name for p in one.spec.parameters if not p.trainable]
    return _gaps(*({name: weights[name] for name in names} for weights in map(_after_an_epoch, (one, reference))))


def drift(one: Subject, reference: Subject) -> dict[str, Gap]:
    """Every step's loss in the first epoch."""
    found = []
    for s in (one, reference):
        s.session.load_state(s.state)
        found.append({f"step {i + 1}": value for i, value in enumerate(s.session.train_epoch(s.plan()).losses)})
        s.session.load_state(s.state)
    return _gaps(*found)


def _after_one_step(s: Subject) -> State:
    order = np.arange(len(s.batch().label), dtype=np.int64)
    s.session.load_state(s.state)
    s.session.train_epoch(EpochPlan(0, order, len(order), s.batch().masks))
    state: State = s.session.state()
    s.session.load_state(s.state)
    return state


def _after_an_epoch(s: Subject) -> Tensors:
    s.session.load_state(s.state)
    s.session.train_epoch(s.plan())
    weights: Tensors = s.session.state().weights
    s.session.load_state(s.state)
    return weights


EXACT = {"float64": 0.0, "float32": 0.0}
RUNGS: dict[str, tuple[Callable[[Subject, Subject], dict[str, Gap]], dict[str, float]]] = {
    "sets": (sets, EXACT), "init": (init, EXACT), "forward": (forward, FORWARD), "loss": (loss, GRADIENT),
    "gradients": (gradients, GRADIENT), "train mode": (train_mode, FORWARD), "adam": (adam, DRIFT),
    "statistics": (statistics, STATISTICS), "drift": (drift, DRIFT),
}


def climb(name: str, one: Subject, reference: Subject) -> Rung:
    """One rung of `one` beside `reference`."""
    function, tolerances = RUNGS[name]
    tolerance = tolerances[one.config.precision] * (amplification(one) if name == "train mode" else 1)
    return Rung(name, one.backend, tolerance, function(one, reference))


def amplification(one: Subject) -> float:
    """How much BatchNorm enlarges the rounding of a batch's mean, over its largest output; at least 1.

    The mean is off by roundoffs of its own size, and is divided by sqrt(var + eps): 316 in a dead channel.
    """
    factors = [1.0]
    for modality in one.spec.modalities:
        if modality != "text":
            x = np.asarray(one.batch().inputs[modality], np.float64)
            mean, deviation = x.mean(0), np.sqrt(x.var(0) + BATCHNORM_EPS)
            factors.append(float(np.abs(mean / deviation).max() / max(np.abs((x - mean) / deviation).max(), 1e-300)))
    return max(factors)
