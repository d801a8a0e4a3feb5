"""The blocks in float64 against the full-tensor oracle, which knows nothing of the graph's wiring."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.rounding import Sized, leaf, slopes
from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.models import reference
from core.models.graph import Graph
from core.training.losses import loss_of
from core.training.plan import Batch
from core.training.randomness import Masks
from core.training.state import initial_state
from parity import oracle, rules
from parity.bounds import FORWARD, GRADIENT
from parity.compare import gap

WIDTHS: dict[str, Any] = {"audio_hidden": 5, "video_hidden": 3, "text_hidden": 6}
CHOICES = ("audio", "video", "text", "audio,video", "audio,text", "audio,video,text")
FUSIONS: dict[str, dict[str, Any]] = {
    "rank 1": {"rank": 1}, "rank 3": {"rank": 3}, "post fusion": {"rank": 3, "apply_post_fusion_dropout": True},
    "no dropout": {"audio_dropout": 0, "video_dropout": 0, "text_dropout": 0},
    "frozen": {"rank": 2, "frozen": "fusion_weights,fusion_bias"},
    "tfn": {"model": "tfn", "post_fusion_dim": 4}, "tfn linear": {"model": "tfn", "post_fusion_dim": 0},
    "tfn post fusion": {"model": "tfn", "post_fusion_dim": 4, "apply_post_fusion_dropout": True},
}
Case = tuple[Graph, Any, dict[str, Array], Batch]


def case(fusion: str, modalities: str, dataset: str, rows: int) -> Case:
    """No tensor is as drawn: what starts at 0 or 1 would hide a mistake."""
    config = make_config({"dataset": dataset, "modalities": modalities, **WIDTHS, **FUSIONS[fusion]})
    graph = build_graph(config, feature_inputs(audio=7, video=4, text=6, steps=5))
    draw = np.random.default_rng(0)
    weights = {name: value + draw.uniform(0.1, 0.4, value.shape)
               for name, value in initial_state(graph, 3, "float64").weights.items()}
    inputs = {one.name: draw.normal(size=(rows, *one.shape)) for one in graph.inputs}
    label = draw.integers(0, 2, rows) if dataset == "iemocap" else draw.normal(size=(rows, graph.task.outputs))
    return graph, config, weights, Batch(inputs, label, Masks(graph.dropout_sites, 3, 0, "float64").rows(0, rows))


def assert_same(got: dict[str, Sized], want: dict[str, Sized], bound: float) -> None:
    assert list(got) == list(want)
    for name, value in want.items():
        apart = gap(got[name].value, value.value, value.size)
        assert not apart.exceeds(bound), f"{name}: {apart.sentence(bound)}"


@pytest.mark.parametrize("modalities", CHOICES)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_forward_and_gradients(fusion: str, modalities: str) -> None:
    """In evaluation, in train mode with masks, and back: within the bounds that backends are held to."""
    for dataset, rows in (("pom", 9), ("iemocap", 1)):
        graph, config, weights, batch = case(fusion, modalities, dataset, rows)
        for train in (False, True):
            got = reference.measured(graph, weights, batch, train)
            assert list(got) == [name for name, _ in graph.activations]
            assert all(got[name].shape == (rows, *ref.shape) for name, ref in graph.activations)
            assert_same(got, oracle.measured(graph, weights, batch, train), FORWARD["float64"])
        loss, leaves = loss_of(config), {p.name: leaf(weights[p.name]) for p in graph.trainable}
        output = reference.measured(graph, {**weights, **leaves}, batch, train=True)["output"]
        want = rules.sized_gradients(loss, graph, weights, batch)
        assert_same(slopes(rules.sized_loss(loss, output, batch.label), leaves), want, GRADIENT["float64"])
        moved = [name for name, one in want.items() if one.value.any()]
        assert len(moved) == len(want) or rows == 1, "a gradient that is 0 shows nothing"


def test_doubt_reaches_every_slope_that_jumps() -> None:
    """At a doubt of 1 rounding may turn each ReLU: the sizes of gradients grow as the oracle's do."""
    graph, config, weights, batch = case("tfn", "audio,text", "pom", 9)
    leaves = {p.name: leaf(weights[p.name]) for p in graph.trainable}
    for doubt in (0.0, 1.0):
        output = reference.measured(graph, {**weights, **leaves}, batch, train=True, doubt=doubt)["output"]
        got = slopes(rules.sized_loss(loss_of(config), output, batch.label, doubt), leaves)
        want = rules.sized_gradients(loss_of(config), graph, weights, batch, doubt)
        for name, value in want.items():
            np.testing.assert_allclose(got[name].size, value.size, rtol=1e-9, atol=1e-300, err_msg=name)
