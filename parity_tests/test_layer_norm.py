"""LayerNorm where the variance is small beside its eps, and folded into the linear layer behind it in training."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.models.graph import Builder, Ref
from core.models.reference import measured
from core.models.walk import folds
from core.runtime.worker import Worker
from parity.bounds import FORWARD, GRADIENT
from parity_tests import graphs
from parity_tests.test_blocks import LOSS, VALUES, gradients_of, ground, hold, shuffled, worker

__all__ = ["worker"]

SMALL = 1e-3  # of the features: their variance is a tenth of eps


def normed(b: Builder) -> Ref:
    """A sequence as a sequence model takes it in."""
    x = b.add("layer_norm", b.input("text"), name="norm")
    x = b.add("linear", x, name="after", out=4, activation="relu")
    return b.add("linear", b.add("lstm", x, name="rnn", hidden=3), name="last", out=3)


@pytest.mark.parametrize("frozen", [(), ("norm.weight", "after.bias")])
def test_features_of_little_variance(worker: Worker, precision: str, frozen: tuple[str, ...]) -> None:
    graph = graphs.made(normed, *frozen, inputs=(graphs.TEXT,))
    assert len(folds(graph)) == 1
    state, batch = ground(graph, precision, 10)
    batch = replace(batch, inputs={name: (x * SMALL).astype(precision) for name, x in batch.inputs.items()})
    values = {**VALUES, "precision": precision}
    seen = graphs.Seen(*worker.run("parity_tests.graphs:look", worker.backend, graph, values, state, batch,
                                   shuffled(graph, batch)))
    hold("evaluation", seen.evaluation, measured(graph, state.weights, batch), FORWARD[precision])
    loss, gradients = gradients_of(graph, LOSS, state, batch, FORWARD[precision])
    hold("", {"loss": np.asarray(seen.loss)}, {"loss": loss}, FORWARD[precision])
    hold("gradient of", seen.gradients, gradients, GRADIENT[precision])
