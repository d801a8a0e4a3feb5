"""Rung 8: train mode with injected masks, and short runs against torch."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core import oracle
from parity.bounds import FORWARD
from parity.compare import assert_same
from parity_tests.conftest import ROWS, Lab

# Ten steps of Adam amplify rounding: its first steps divide gradients by their own size. Measured after ten
# steps on these cases against torch in float64: at most 3e-14 (float64) and 2e-6 (float32) in the losses.
LOSSES = {"float64": 1e-11, "float32": 2e-5}


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_layers_with_masks_agree_with_the_oracle(lab: Lab, rows: int) -> None:
    batch = lab.batch(slice(0, rows))
    want = oracle.forward(lab.spec, lab.state.weights, batch, train=True)
    assert_same(lab.session.forward(batch, True), want, FORWARD[lab.config.precision])


def test_masks_matter(lab: Lab) -> None:
    """The check above can fail: without masks the output differs."""
    batch = lab.batch(slice(0, ROWS))
    without = oracle.forward(lab.spec, lab.state.weights, batch)["output"]
    assert np.abs(lab.session.forward(batch, True)["output"] - without).max() > 0.01 * np.abs(without).max()


@pytest.mark.parametrize("batch_size", [8, 4, ROWS])
def test_losses_of_a_short_run_agree_with_torch(
        lab: Lab, open_lab: Any, precision: str, case: str, batch_size: int) -> None:
    """Epochs with a ragged last batch of 5 rows, and of a single row."""
    reference = open_lab("torch", "float64", case, "reference")
    epochs = 1 if batch_size == 4 else 3
    for epoch in range(epochs):
        got = lab.session.train_epoch(lab.plan(epoch, batch_size))
        want = reference.session.train_epoch(reference.plan(epoch, batch_size))
        assert got.skipped == 0
        np.testing.assert_allclose(got.losses, want.losses, rtol=LOSSES[precision], err_msg=f"epoch {epoch}")
    outputs = lab.session.predict("valid"), reference.session.predict("valid")
    assert np.abs(outputs[0] - outputs[1]).max() <= 50 * LOSSES[precision] * np.abs(outputs[1]).max()


def test_two_runs_are_one_bit_for_bit(lab: Lab) -> None:
    states = []
    for _ in range(2):
        lab.session.load_state(lab.state)
        lab.session.train_epoch(lab.plan(0, 8))
        states.append(lab.session.state())
    assert_same(states[0].weights, states[1].weights, 0)
    assert_same(states[0].exp_avg_sq, states[1].exp_avg_sq, 0)
