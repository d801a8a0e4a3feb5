"""Rung 5: the gradient of every parameter, against the oracle's own slope and against torch."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core import oracle
from core.losses import summed_loss
from parity.bounds import GRADIENT
from parity.compare import assert_same
from parity_tests.conftest import EPS, ROWS, Lab


def test_slope_agrees_with_the_oracle(open_lab: Any, backend: str, case: str) -> None:
    """Per tensor, the derivative along the gradient by central differences of the oracle, in float64.

    The step is 1e-5 along a unit vector: truncation is about 1e-10 relative; the loss is a sum that carries
    a few roundoffs, and their difference is divided by 2e-5.
    """
    lab: Lab = open_lab(backend, "float64", case)
    batch = lab.batch(slice(0, ROWS))
    _, gradients = lab.session.gradients(batch)
    assert set(gradients) == {p.name for p in lab.spec.trainable}
    for name, gradient in gradients.items():
        size = float(np.linalg.norm(gradient))
        assert size > 0, f"{name}: the gradient is zero"
        losses = []
        for sign in (1, -1):
            weights = {**lab.state.weights, name: lab.state.weights[name] + sign * 1e-5 * gradient / size}
            losses.append(summed_loss(oracle.forward(lab.spec, weights, batch, train=True)["output"], batch.label))
        roundoff = 8 * EPS["float64"] * losses[0] / 2e-5
        np.testing.assert_allclose((losses[0] - losses[1]) / 2e-5, size, rtol=1e-6, atol=roundoff, err_msg=name)


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_every_gradient_agrees_with_torch(lab: Lab, open_lab: Any, precision: str, case: str, rows: int) -> None:
    """torch in float64 is the reference for both precisions."""
    reference = open_lab("torch", "float64", case, "reference")
    batch = lab.batch(slice(0, rows))
    want_loss, want = reference.session.gradients(batch)
    loss, got = lab.session.gradients(batch)
    assert_same(got, want, GRADIENT[precision])
    np.testing.assert_allclose(loss, want_loss, rtol=GRADIENT[precision])


def test_looking_changes_nothing(lab: Lab) -> None:
    lab.session.forward(lab.batch(slice(0, 8)), True)
    lab.session.gradients(lab.batch(slice(0, 8)))
    assert_same(lab.session.state().weights, lab.state.weights, 0)
