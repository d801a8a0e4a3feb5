"""Rung 6: BatchNorm's running statistics after steps in train mode, the ragged last batch included."""
from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core import oracle
from core.data.scale import scale_notes
from core.errors import UserError
from core.rules import running_statistics
from parity.bounds import FORWARD, STATISTICS
from parity.compare import assert_same
from parity_tests.conftest import ROWS, Lab


@pytest.mark.parametrize("batch_size", [8, 4, 1, ROWS])
def test_statistics_after_an_epoch(lab: Lab, batch_size: int) -> None:
    """Batches of 8 end in one of 5 rows, batches of 4 in one of a single row."""
    lab.session.load_state(lab.state)
    lab.session.train_epoch(lab.plan(0, batch_size))
    weights = lab.session.state().weights
    expected = running_statistics(lab.spec, lab.state.weights, lab.arrays, lab.plan(0, batch_size))
    want = {name: value.value for name, value in expected.items()}
    assert_same({name: weights[name] for name in want}, want, STATISTICS[lab.config.precision])


@pytest.mark.parametrize("scale", [1e-2, 1e17, 1e20, 1e30])
def test_what_is_refused_for_its_scale_is_lost(open_lab: Any, backend: str, precision: str, scale: float) -> None:
    """Where the sum of squares overflows, every backend normalises all rows to the same; just there core refuses."""
    lab = open_lab(backend, precision, "audio video")
    audio = lab.arrays["audio"] * np.asarray(scale, precision)
    batch = lab.batch(slice(0, ROWS))
    normal = lab.session.forward(replace(batch, inputs={**batch.inputs, "audio": audio}), True)["audio_subnet.norm"]
    lost = bool((normal == normal[0]).all())
    assert lost is (precision == "float32" and scale > 1e18)
    with pytest.raises(UserError) if lost else nullcontext():
        scale_notes({**lab.arrays, "audio": audio}, lab.config, "here")


def test_channels_of_little_variance(lab: Lab) -> None:
    """Running variances of 0 to .08, as published IEMOCAP checkpoints have them: there eps shows, and its dtype.

    In training a single row uses them too; elsewhere they are 0 and 1, and its normalised values nearly its own.
    """
    weights = dict(lab.state.weights)
    for p in lab.spec.group("statistics"):
        values = np.linspace(0, 0.08, p.shape[0]) if p.name.endswith("var") else np.full(p.shape, 0.1)
        weights[p.name] = values.astype(lab.config.precision)
    lab.session.load_state(replace(lab.state, weights=weights))
    for rows, train in ((ROWS, False), (1, True)):
        batch = lab.batch(slice(0, rows))
        assert_same(lab.session.forward(batch, train), oracle.forward(lab.spec, weights, batch, train),
                    FORWARD[lab.config.precision])
