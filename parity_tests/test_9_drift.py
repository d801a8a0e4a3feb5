"""Rung 9: many steps, beside how far torch drifts from itself when one weight moves by one unit in the last place."""
from __future__ import annotations

from typing import Any

import numpy as np

from parity.runs import AGREE, CALM, FACTOR, nudge, relative
from parity_tests.conftest import EPS, Lab

EPOCHS = 20  # of three steps each


def losses(lab: Lab, nudged: str | None = None) -> Any:
    lab.session.load_state(nudge(lab.state, nudged) if nudged else lab.state)
    return np.concatenate([lab.session.train_epoch(lab.plan(epoch, 8)).losses for epoch in range(EPOCHS)])


def test_drift_stays_within_the_chaos_floor(lab: Lab, open_lab: Any, precision: str, case: str) -> None:
    """Within ten times the floor everywhere, and equal to 1e-7 (float32: 1e-3) while the floor is calm."""
    reference = open_lab("torch", precision, case, "reference")
    base = losses(reference)
    weights = [p.name for p in reference.spec.trainable if p.init in ("normal", "uniform")]
    drifts = [relative(losses(reference, weights[i * len(weights) // 5]), base) for i in range(5)]
    floor = np.maximum(np.maximum.accumulate(np.max(drifts, axis=0)), 4 * EPS[precision])
    difference = relative(losses(lab), base)
    assert (difference <= FACTOR * floor).all(), f"{(difference / floor).max():.1f} times the floor"
    calm = floor < CALM[precision]
    assert calm.sum() > 30
    assert difference[calm].max() <= AGREE[precision]
