"""Rung 4: the summed loss, in evaluation of the host and in training of the backend."""
from __future__ import annotations

import numpy as np
import pytest

from core import oracle
from core.losses import summed_loss
from parity.bounds import FORWARD
from parity_tests.conftest import ROWS, Lab


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_training_loss_is_the_sum_over_rows(lab: Lab, rows: int) -> None:
    """Frameworks default to the mean; the original sums, and one port weighted short batches up."""
    batch = lab.batch(slice(0, rows))
    output = oracle.forward(lab.spec, lab.state.weights, batch, train=True)["output"]
    loss, _ = lab.session.gradients(batch)
    np.testing.assert_allclose(loss, summed_loss(output, batch.label), rtol=FORWARD[lab.config.precision])
