"""What backends are held to, on every case: the oracle's gradients are its slope, and its masks do something."""
from __future__ import annotations

from dataclasses import replace

import numpy as np

from core.training.losses import loss_of
from parity import rules
from parity.bounds import GRADIENT
from parity_tests.conftest import ground


def test_gradients_are_the_slope_of_the_loss(case: str) -> None:
    """Per tensor, the derivative along the gradient by central differences, in float64.

    The step is 1e-5 along a unit vector: truncation is about 1e-10 relative; the loss is a sum that carries
    a few roundoffs, and their difference is divided by 2e-5.
    """
    common = ground("float64", case)
    graph, weights, batch = common.graph, common.state.weights, common.batch
    loss = loss_of(common.config)
    assert list(common.gradients) == [p.name for p in graph.trainable]
    for name, gradient in common.gradients.items():
        if name.endswith(".k_proj.bias"):  # adds the same to all scores of a query, which softmax takes away
            assert (np.abs(gradient.value) <= GRADIENT["float64"] * gradient.size).all(), name
            continue
        size = float(np.linalg.norm(gradient.value))
        assert size > 0, f"{name}: the gradient is zero"
        losses = []
        for sign in (1, -1):
            moved = {**weights, name: weights[name] + sign * 1e-5 * gradient.value / size}
            losses.append(loss.value(rules.measured(graph, moved, batch, train=True)["output"].value, batch.label))
        roundoff = 8 * 2.0**-52 * losses[0] / 2e-5
        np.testing.assert_allclose((losses[0] - losses[1]) / 2e-5, size, rtol=1e-6, atol=roundoff, err_msg=name)


def test_masks_matter(case: str) -> None:
    """Train mode without masks has another output where there are any: the rung of train mode sees them."""
    common = ground("float64", case)
    bare = replace(common.batch, masks={})
    without = rules.measured(common.graph, common.state.weights, bare, train=True)["output"].value
    moved = np.abs(common.training["output"].value - without).max() > 0.01 * np.abs(without).max()
    assert moved == bool(common.graph.dropout_sites)
