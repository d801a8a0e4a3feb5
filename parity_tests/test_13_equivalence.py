"""Rung 13: beyond the chaos floor, float32 runs are compared as distributions: paired by seed, margin fixed.

Margin, set before the test was first run: 5 % of torch's mean best validation loss. Two one-sided t-tests at 5 %:
the 90 % confidence interval of the paired difference must lie within the margin on both sides.
"""
from __future__ import annotations

import numpy as np
import pytest

from core.runtime.backend import missing_reason
from core.runtime.worker import Worker
from core.studies.tables.statistics import interval

VALUES = {"dataset": "mosi", "data": "synthetic", "batch_size": 32, "epochs": 15, "learning_rate": 0.001,
          "factor_learning_rate": 0.0005, "weight_decay": 0.001}
SEEDS = range(8)
MARGIN = 0.05


@pytest.fixture(scope="module")
def best_losses(workers: dict[str, Worker]) -> dict[str, list[float]]:
    found = {}
    for backend in ("torch", "mindspore", "paddle"):
        reason = missing_reason(backend)
        if reason:
            pytest.skip(reason)
        if backend not in workers:
            workers[backend] = Worker(backend)
        records = [workers[backend].run("parity.runs:whole_run", backend, {**VALUES, "seed": seed}) for seed in SEEDS]
        found[backend] = [float(record.valid.min()) for record in records]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mindspore", "paddle"])
def test_best_validation_losses_are_equivalent(best_losses: dict[str, list[float]], backend: str) -> None:
    low, high = interval(best_losses[backend], best_losses["torch"], np.mean(best_losses["torch"]))
    print(f"{backend} - torch: 90 % interval {low:+.2%} to {high:+.2%}, margin {MARGIN:.0%}")
    assert low > -MARGIN and high < MARGIN


def test_a_shift_of_the_margin_is_found() -> None:
    """The procedure can fail: a shift of the margin's size, and too few or too noisy pairs, aren't equivalent."""
    draw = np.random.default_rng(0)
    base = 1 + 0.05 * draw.normal(size=8)
    low, high = interval(base * (1 + 0.01 * draw.normal(size=8)), base, base.mean())
    assert low > -MARGIN and high < MARGIN
    assert not interval(base * 1.05, base, base.mean())[1] < MARGIN
    assert not interval(base * (1 + 0.2 * draw.normal(size=8)), base, base.mean())[1] < MARGIN
