"""Rung 2: the same initial weights, bit for bit, and a state that survives the way in and out."""
from __future__ import annotations

import numpy as np

from core.state import State
from parity.compare import assert_same
from parity_tests.conftest import Lab


def test_initial_weights_bit_for_bit(lab: Lab) -> None:
    assert_same(lab.session.state().weights, lab.state.weights, 0)


def test_any_state_comes_back_bit_for_bit(lab: Lab) -> None:
    draw = np.random.default_rng(1)
    dtype = lab.config.precision
    weights = {p.name: draw.uniform(0.5, 2, p.shape).astype(dtype) for p in lab.spec.parameters}
    moments = [{p.name: draw.uniform(0, 1, p.shape).astype(dtype) for p in lab.spec.trainable} for _ in range(2)]
    lab.session.load_state(State(weights, moments[0], moments[1], step=7, loss_scale=1.0, good_steps=3))
    back = lab.session.state()
    assert_same(back.weights, weights, 0)
    assert_same(back.exp_avg, moments[0], 0)
    assert_same(back.exp_avg_sq, moments[1], 0)
    assert (back.step, back.loss_scale, back.good_steps) == (7, 1.0, 3)
