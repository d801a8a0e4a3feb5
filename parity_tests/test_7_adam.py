"""Rung 7: one Adam step from given moments, with L2 and two rates, against the rule in NumPy float64."""
from __future__ import annotations

import numpy as np
import pytest

from core import rules
from core.plan import EpochPlan
from core.randomness import Array
from core.state import State
from parity.bounds import GRADIENT
from parity.compare import assert_same
from parity_tests.conftest import ROWS, Lab

NAMES = ("weights", "exp_avg", "exp_avg_sq")


def adam_rule(lab: Lab, before: State, gradients: dict[str, Array]) -> tuple[dict[str, Array], ...]:
    """Weights and both moments after one step, by core.rules."""
    results: tuple[dict[str, Array], ...] = ({}, {}, {})
    for p in lab.spec.trainable:
        w, m, v = (np.asarray(part[p.name], np.float64) for part in (before.weights, before.exp_avg, before.exp_avg_sq))
        g = rules.decayed(np.asarray(gradients[p.name], np.float64), w, lab.config)
        m, v = rules.first_moment(m, g).value, rules.second_moment(v, g).value
        for result, value in zip(results, (rules.stepped(p, lab.config, w, m, v, before.step + 1).value, m, v),
                                 strict=True):
            result[p.name] = value
    return results


def check_step(lab: Lab, before: State) -> None:
    """float32: the update is a quotient of two rounded moments, off by a few roundoffs of the rate."""
    dtype, batch = lab.config.precision, lab.batch(slice(0, ROWS))
    lab.session.load_state(before)
    _, gradients = lab.session.gradients(batch)
    order = np.arange(ROWS, dtype=np.int64)
    lab.session.train_epoch(EpochPlan(0, order, ROWS, batch.masks))
    after = lab.session.state()
    assert after.step == before.step + 1
    for p in lab.spec.group("frozen"):
        assert after.weights[p.name].tobytes() == before.weights[p.name].tobytes(), f"{p.name} is frozen, and moved"
    wants = adam_rule(lab, before, gradients)
    for name, want in zip(NAMES, wants, strict=True):
        got = {p.name: getattr(after, name)[p.name] for p in lab.spec.trainable}
        assert_same(got, want, GRADIENT[dtype])
    # The update itself, which is small beside the weight.
    got = {p.name: after.weights[p.name] - before.weights[p.name] for p in lab.spec.trainable}
    want = {p.name: wants[0][p.name] - before.weights[p.name] for p in lab.spec.trainable}
    if dtype == "float64":
        assert_same(got, want, 1e-10)  # weights of order 1, updates of 1e-3: three digits are lost in the difference


@pytest.mark.parametrize("step", [0, 9])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_one_step(lab: Lab, step: int, scale: float) -> None:
    """From moments of size `scale`."""
    draw = np.random.default_rng(2)
    dtype = lab.config.precision
    exp_avg = {p.name: (scale * draw.normal(size=p.shape) * (step > 0)).astype(dtype) for p in lab.spec.trainable}
    exp_avg_sq = {p.name: (scale * scale * draw.uniform(0.5, 1, p.shape) * (step > 0)).astype(dtype)
                  for p in lab.spec.trainable}
    check_step(lab, State(lab.state.weights, exp_avg, exp_avg_sq, step))


def test_one_step_of_tiny_gradients(lab: Lab) -> None:
    """Weights of 1e-6 have gradients of about 1e-8, mostly from the decay: eps decides the step, and its place."""
    draw = np.random.default_rng(2)
    tiny = {p.name: (1e-6 * draw.normal(size=p.shape)).astype(lab.config.precision) for p in lab.spec.trainable}
    check_step(lab, State({**lab.state.weights, **tiny}, lab.state.exp_avg, lab.state.exp_avg_sq))
