"""Rung 6: BatchNorm's running statistics after steps in train mode, the ragged last batch included."""
from __future__ import annotations

import numpy as np
import pytest

from core.models import BATCHNORM_MOMENTUM
from core.randomness import Array
from parity.bounds import STATISTICS
from parity.compare import assert_same
from parity_tests.conftest import ROWS, Lab


def expected(lab: Lab, batch_size: int, rows: int = ROWS) -> dict[str, Array]:
    """torch's rule by hand: momentum .1, unbiased variance; a batch of one row changes nothing."""
    plan = lab.plan(0, batch_size, rows)
    statistics = {}
    for modality in lab.spec.modalities:
        if modality == "text":
            continue
        x = lab.arrays[modality].astype(np.float64)
        mean, var = np.zeros(x.shape[1]), np.ones(x.shape[1])
        for start, stop in plan.bounds:
            if stop - start > 1:
                part = x[plan.order[start:stop]]
                mean += BATCHNORM_MOMENTUM * (part.mean(0) - mean)
                var += BATCHNORM_MOMENTUM * (part.var(0, ddof=1) - var)
        statistics[f"{modality}_subnet.norm.running_mean"] = mean
        statistics[f"{modality}_subnet.norm.running_var"] = var
    return statistics


@pytest.mark.parametrize("batch_size", [8, 4, 1, ROWS])
def test_statistics_after_an_epoch(lab: Lab, batch_size: int) -> None:
    """Batches of 8 end in one of 5 rows, batches of 4 in one of a single row."""
    lab.session.load_state(lab.state)
    lab.session.train_epoch(lab.plan(0, batch_size))
    weights = lab.session.state().weights
    want = expected(lab, batch_size)
    assert_same({name: weights[name] for name in want}, want, STATISTICS[lab.config.precision])
