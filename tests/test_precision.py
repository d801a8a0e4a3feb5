"""Mixed precision in every backend: the rounding, the loss scale, and what is skipped, kept, exported and said.

The casts at each block's border and whole runs are rungs of parity: parity_tests/test_borders.py and test_14_mixed.py.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.common.arrays import F64, Array
from core.common.half import FORMATS, HALF_TYPES, HalfType, half_rounded
from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.data.specs import InputSpec
from core.models.precision import Level, half_parameters
from core.runtime.backend import BACKENDS
from core.runtime.worker import Worker
from core.training.plan import Batch, EpochPlan, GivenMasks, make_plan
from core.training.scaler import initial_scale
from core.training.state import State, initial_state
from tests.running import Refuse, needs

POOLED = feature_inputs(audio=7, video=4, text=6, steps=5)
SEQUENCES = tuple(InputSpec(name, (6, width), "sequence") for name, width in (("text", 9), ("audio", 5), ("video", 4)))
ROWS, SIZE, STEPS = 37, 8, 5  # the last step has 5 rows
LMF = {"dataset": "mosi", "loss": "mse", "batch_size": SIZE}
MSA = {**LMF, "model": "msa", "encoder": "transformer", "fusion": "cross_attention", "apply_dropout": True}
DYNAMIC = {"loss_scale": "dynamic", "loss_scale_init": 256.0, "loss_scale_interval": 3}
# A row with this label overflows the gradient of its score, at any scale from 1 on.
BROKEN = {"float16": 1e6, "bfloat16": 3e38}
BROKEN_ROW = 31
LARGEST = np.finfo(np.float32).max


@pytest.fixture(scope="module", params=list(BACKENDS))
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    needs(request.param)
    with contextlib.closing(Worker(request.param)) as made:
        yield made


class Trial:
    """A session on fixed random rows, at its first state, or with weights of zero."""

    def __init__(self, worker: Worker, values: dict[str, Any], broken: bool = False, zero: bool = False) -> None:
        self.values, self.inputs = values, SEQUENCES if values.get("model") == "msa" else POOLED
        self.config = make_config(values)
        self.graph = build_graph(self.config, self.inputs)
        draw = np.random.default_rng(0)
        self.rows = {one.name: draw.normal(size=(ROWS, *one.shape)).astype("float32") for one in self.inputs}
        self.rows["text"][::2, 3:] = 0  # padding
        self.label = (draw.normal(size=(ROWS, 1)) * (not zero)).astype("float32")
        if broken:
            self.label[BROKEN_ROW] = BROKEN[self.config.amp_dtype]
        self.first = initial_state(self.graph, 0, "float32", initial_scale(self.config))
        if zero:
            self.first.weights.update({p.name: np.zeros(p.shape, "float32") for p in self.graph.trainable})
        self.session = worker.open("precision", values, self.inputs)
        self.session.load_data("train", self.train)
        self.session.load_data("test", self.rows)
        self.session.load_state(self.first)

    @property
    def train(self) -> dict[str, Array]:
        return {**self.rows, "label": self.label}

    def plan(self, epoch: int = 0, first: int = 0, last: int = STEPS) -> EpochPlan:
        """The steps `first` to `last`, exclusive, of an epoch."""
        whole = make_plan(self.graph, self.config, epoch, ROWS)
        start, stop = first * SIZE, min(last * SIZE, ROWS)
        return EpochPlan(epoch, whole.order[start:stop], SIZE, whole.rates[first:last],
                         GivenMasks(whole.dropout.rows(start, stop)))

    def broken_step(self, epoch: int = 0) -> int:
        """The step that the broken row is in."""
        return int(np.flatnonzero(self.plan(epoch).order == BROKEN_ROW)[0]) // SIZE

    def batch(self, plan: EpochPlan) -> Batch:
        """The first rows of a plan."""
        rows = plan.order[:SIZE]
        return Batch({name: array[rows] for name, array in self.rows.items()}, self.label[rows], plan.masks(0, 1))


def tensors(state: State, names: Sequence[str]) -> dict[str, bytes]:
    """Weights and moments, bit for bit."""
    parts = {"weight": state.weights, "exp_avg": state.exp_avg, "exp_avg_sq": state.exp_avg_sq}
    return {f"{part} of {name}": found[name].tobytes() for part, found in parts.items() for name in names}


def counters(state: State) -> tuple[int, float, int]:
    return state.step, state.loss_scale, state.good_steps


def exactly(array: Array, kind: HalfType) -> bool:
    """Whether all numbers are of the format."""
    return np.array_equal(half_rounded(array, kind), array)


def numbers_of(kind: HalfType) -> F64:
    """All that are not negative, ascending, the infinity last."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = bits.view(np.float16) if kind == "float16" else (bits.astype(np.uint32) << 16).view(np.float32)
    values = values[~np.isnan(values) & ~np.signbit(values)].astype(np.float64)
    return np.sort(values)


@pytest.mark.parametrize("half", [True, False], ids=["into half", "out of half"])
@pytest.mark.parametrize("kind", HALF_TYPES)
def test_a_border_rounds_both_ways_as_numpy_does(worker: Worker, kind: HalfType, half: bool) -> None:
    """Every number of the format, every middle between two of them and its neighbours in float32 on both sides, numbers
    of all sizes: subnormal ones, the largest that stays finite, the first that doesn't, infinities; gradients alike.
    """
    known = numbers_of(kind)
    step = 2 * (FORMATS[kind].largest - known[-3])  # above the largest, as if the format went on
    middles = np.append((known[:-2] + known[1:-1]) / 2, FORMATS[kind].largest + step / 4).astype(np.float32)
    draw = np.random.default_rng(1).integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)
    positive = np.concatenate([known.astype(np.float32), middles, np.nextafter(middles, np.float32(0)),
                               np.nextafter(middles, np.float32(np.inf)), draw[~np.isnan(draw)]])
    values = np.concatenate([positive, -positive])
    y, dx = worker.run("tests.precision_looks:crossing", worker.backend, kind, half, values, values[::-1].copy())
    np.testing.assert_array_equal(y, half_rounded(values, kind))
    np.testing.assert_array_equal(dx, half_rounded(values[::-1], kind))
    np.testing.assert_array_equal(y[:len(known)], known)
    below, above, at = (y[len(known) + place * len(middles):][:len(middles)] for place in (1, 2, 0))
    np.testing.assert_array_equal(below, known[:-1])
    np.testing.assert_array_equal(above, known[1:])
    np.testing.assert_array_equal(at, np.where(np.arange(len(middles)) % 2, known[1:], known[:-1]))  # the even one


@pytest.mark.parametrize("values", [LMF, {**LMF, "model": "tfn"}, MSA], ids=["lmf", "tfn", "sequences"])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_blocks_in_half_see_rounded_parameters(worker: Worker, level: Level, values: dict[str, Any]) -> None:
    """With weights that are rounded already, the same to the bit, forward and back."""
    trial = Trial(worker, {**values, "amp_level": level, "amp_dtype": "bfloat16"})
    batch, names = trial.batch(trial.plan()), half_parameters(trial.graph, level)
    before = trial.session.forward(batch, True), trial.session.gradients(batch)[1]
    rounded = {name: half_rounded(trial.first.weights[name], "bfloat16").astype("float32") for name in names}
    assert any((rounded[name] != trial.first.weights[name]).any() for name in names)
    trial.session.load_state(replace(trial.first, weights={**trial.first.weights, **rounded}))
    after = trial.session.forward(batch, True), trial.session.gradients(batch)[1]
    for found, want in zip(after, before, strict=True):
        for name, array in want.items():
            np.testing.assert_array_equal(found[name], array, name)


@pytest.mark.parametrize(("values", "level", "kind"), [
    (LMF, "O1", "float16"), ({**LMF, "loss_scale": 128}, "O2", "float16"), ({**LMF, **DYNAMIC}, "O2", "bfloat16"),
    ({**MSA, **DYNAMIC, "weight_decay": 0.01}, "O2", "float16"), ({**LMF, **DYNAMIC, "model": "tfn"}, "O1", "float16"),
], ids=["none", "static", "dynamic", "sequences", "tfn"])
def test_an_overflow_skips_its_step_and_nothing_else(worker: Worker, values: dict[str, Any], level: Level,
                                                     kind: HalfType) -> None:
    """Weights and moments go through the step to the bit: the epoch is that of the steps before it and of those after
    it, with half the scale if it is dynamic.
    """
    trial = Trial(worker, {**values, "amp_level": level, "amp_dtype": kind}, broken=True)
    at, names = trial.broken_step(), [p.name for p in trial.graph.trainable]
    assert 0 < at < STEPS - 1
    result, whole = trial.session.train_epoch(trial.plan()), trial.session.state()
    trial.session.load_state(trial.first)
    assert trial.session.train_epoch(trial.plan(last=at)).skipped == 0
    before = trial.session.state()
    assert trial.session.train_epoch(trial.plan(first=at, last=at + 1)).skipped == 1
    skipped = trial.session.state()
    assert tensors(before, names) == tensors(skipped, names) != tensors(trial.first, names)
    dynamic = values.get("loss_scale") == "dynamic"
    assert counters(skipped) == (at, before.loss_scale * (0.5 if dynamic else 1), 0)
    trial.session.train_epoch(trial.plan(first=at + 1))
    apart = trial.session.state()
    assert (result.skipped, counters(whole)) == (1, counters(apart)) and whole.step == STEPS - 1
    assert tensors(whole, names) == tensors(apart, names)
    assert all(np.isfinite(array).all() for array in (*whole.weights.values(), *whole.exp_avg_sq.values()))


SCALES: dict[str, dict[str, Any]] = {
    "halved and doubled": {},
    "no powers of two": {"loss_scale_growth": 1.7, "loss_scale_backoff": 0.3, "loss_scale_interval": 2},
    "never below 1": {"loss_scale_init": 2.5, "loss_scale_backoff": 0.3, "loss_scale_interval": 4},
    "never beyond float32": {"loss_scale_init": 2.0**126, "loss_scale_growth": 1.5, "loss_scale_interval": 1,
                             "loss": "l1"},  # the factor 2 of mse alone is beyond float32 there
    "never grown": {"loss_scale_interval": 2000},
    "static": {"loss_scale": 100.0, "loss_scale_interval": 1},
    "none": {"loss_scale": "none"},
}


def expected(values: dict[str, Any], skipped: Sequence[bool]) -> tuple[int, float, int]:
    """What the counters are after these steps: the rule in NumPy's float32, as a person would write it."""
    config = make_config(values)
    scale, good = np.float32(initial_scale(config)), 0
    for overflow in skipped if config.loss_scale == "dynamic" else ():
        if overflow:
            scale, good = max(scale * np.float32(config.loss_scale_backoff), np.float32(1)), 0
            continue
        good += 1
        if good == config.loss_scale_interval:
            grown = float(scale) * float(np.float32(config.loss_scale_growth))
            scale, good = scale if grown > LARGEST else np.float32(grown), 0
    return skipped.count(False), float(scale), good


@pytest.mark.parametrize("case", SCALES)
def test_the_counters_are_the_rule_s_to_the_bit(worker: Worker, case: str) -> None:
    """After each of four epochs; so they are the same in all backends. The broken row is in another step each time.

    With weights and labels of zero all gradients are 0 but that row's: what overflows is known at any scale.
    """
    values = {**LMF, **DYNAMIC, **SCALES[case], "amp_level": "O2"}
    trial, taken = Trial(worker, values, broken=True, zero=True), []
    scales = {trial.first.loss_scale}
    for epoch in range(4):
        result, at = trial.session.train_epoch(trial.plan(epoch)), trial.broken_step(epoch)
        taken += [step == at for step in range(STEPS)]
        state = trial.session.state()
        assert (result.skipped, counters(state)) == (1, expected(values, taken)), epoch
        scales.add(state.loss_scale)
    assert len(scales) > 1 or case in ("static", "none"), "nothing happened"
    if case.startswith("never b"):
        assert (1.0 if "below" in case else max(scales)) in scales and max(scales) < 2.0**128


def test_a_scale_that_grows_too_large_is_found_by_itself(worker: Worker) -> None:
    """With weights as they are drawn, 2^40 is too much for float16: every step is skipped until the scale fits."""
    values = {**LMF, "amp_level": "O1", "loss_scale": "dynamic", "loss_scale_init": 2.0**40,
              "loss_scale_backoff": 2.0**-16, "loss_scale_interval": 3}
    trial = Trial(worker, values)
    assert trial.session.train_epoch(trial.plan()).skipped == 2
    assert counters(trial.session.state()) == (3, 2.0**9, 0)


@pytest.mark.parametrize(("level", "kind"), [("O1", "bfloat16"), ("O2", "float16")])
def test_adam_takes_the_corrections_of_the_steps_taken(worker: Worker, level: Level, kind: HalfType) -> None:
    """One step of an epoch is skipped: the step after the epoch is the fifth, not the sixth.

    Adam's rule in float64, from the state before and the gradients asked for. Bound: at its end the step is added to a
    weight, and rounds to 2^-24 of it; what it is made of takes less than 32 roundings of its own, 2^-19 of it.
    """
    trial = Trial(worker, {**LMF, "amp_level": level, "amp_dtype": kind}, broken=True)
    trial.session.train_epoch(trial.plan())
    before, plan = trial.session.state(), trial.plan(1)
    assert before.step == 4 and BROKEN_ROW not in plan.order[:SIZE]
    slopes = trial.session.gradients(trial.batch(plan))[1]
    trial.session.train_epoch(trial.plan(1, last=1))
    after = trial.session.state()
    rates = {group.name: rate for group, rate in zip(trial.graph.groups, plan.rates[0], strict=True)}
    for p in trial.graph.trainable:
        slope = slopes[p.name].astype(np.float64)
        m = 0.9 * before.exp_avg[p.name] + 0.1 * slope
        v = 0.999 * before.exp_avg_sq[p.name] + 0.001 * slope**2
        share = rates[p.group] / (1 - 0.9**5) / (np.sqrt(v / (1 - 0.999**5)) + 1e-8)
        size = share * (0.9 * np.abs(before.exp_avg[p.name]) + 0.1 * np.abs(slope))  # the two may cancel
        error = np.abs(after.weights[p.name] - (before.weights[p.name] - share * m))
        assert (error <= 2.0**-24 * np.abs(after.weights[p.name]) + 2.0**-19 * size).all(), p.name
        assert np.abs(share * m).max() > 0, p.name


@pytest.mark.parametrize("values", [LMF, {**LMF, **DYNAMIC, "amp_level": "O2"}, {**MSA, **DYNAMIC, "amp_level": "O1"}],
                         ids=["O0", "O2", "sequences"])
def test_no_step_waits_for_the_host(worker: Worker, values: dict[str, Any]) -> None:
    """From the first step of an epoch to the last no tensor is asked for its numbers, also when one is skipped."""
    mixed = "amp_level" in values
    trial = Trial(worker, values, broken=mixed)
    during, after, skipped = worker.run("tests.precision_looks:steps_that_wait", worker.backend, values, trial.inputs,
                                        trial.train, trial.first, trial.plan())
    assert during == [] and skipped == mixed
    assert after, "the losses are asked for after the last step, and that is seen"


@pytest.mark.parametrize("kind", HALF_TYPES)
@pytest.mark.parametrize("level", ["O0", "O1", "O2"])
def test_it_says_what_it_computes_in(worker: Worker, level: str, kind: str) -> None:
    observed = Trial(worker, {**LMF, "amp_level": level, "amp_dtype": kind}).session.observed()
    assert str(observed) == ("cpu, float32" if level == "O0" else f"{level}, {kind}, emulated on cpu")
    assert (observed.device, observed.dtype) == ("cpu", "float32")


ENDINGS = {"torch": ".pt2", "mindspore": ".mindir", "paddle": ".json"}


def test_what_is_exported_is_float32(worker: Worker, tmp_path: Any) -> None:
    """It predicts what a float32 session does with these weights, and not what O2 does: within the roundings of
    float32, some dozens of 2^-24 on scores around 1.
    """
    mixed = Trial(worker, {**LMF, "amp_level": "O2"})
    mixed.session.train_epoch(mixed.plan())
    state, rounded = mixed.session.state(), mixed.session.predict("test")
    path = tmp_path / f"net{ENDINGS[worker.backend]}"
    mixed.session.export(path, ENDINGS[worker.backend][1:])
    given = worker.run("tests.precision_looks:exported_output", worker.backend, str(path),
                       [mixed.rows[one.name] for one in POOLED])
    plain = Trial(worker, LMF)
    plain.session.load_state(state)
    np.testing.assert_allclose(given, plain.session.predict("test"), rtol=1e-5, atol=1e-6)
    assert given.dtype == np.float32 and exactly(rounded, "float16") and not exactly(given, "float16")


@pytest.mark.parametrize(("flags", "words"), [
    (("--amp_level", "O2", "--precision", "float64"), ("amp_level = 'O2'", "starts from float32")),
    (("--loss_scale", "dynamic"), ("loss_scale = dynamic", "needs amp_level O1 or O2")),
    (("--amp_level", "O2", "--loss_scale", "-8"), ("loss_scale = -8.0", "none, dynamic or a number")),
    (("--amp_level", "O3"), ("amp_level = 'O3'", "O0")), (("--amp_dtype", "half"), ("amp_dtype = 'half'", "float16")),
    (("--loss_scale_init", "0.5"), ("loss_scale_init = '0.5'",)), (("--loss_scale_growth", "1"), ("growth = '1'",)),
    (("--loss_scale_backoff", "1"), ("backoff = '1'",)), (("--loss_scale_interval", "0"), ("interval = '0'",)),
], ids=lambda value: " ".join(value) if value[0].startswith("--") else "")
def test_what_has_no_meaning_is_refused(refuse: Refuse, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    refuse("train", "--dataset", "mosi", *flags, words=words)
