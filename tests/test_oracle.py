"""The reference itself: the full fusion tensor equals the low-rank form, and not the paper's equations 6 and 7."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.rounding import sized
from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.models.graph import Graph
from core.training.losses import softmax
from core.training.plan import Batch
from core.training.randomness import Masks
from core.training.state import initial_state
from parity import oracle

SIZES = {"audio": 5, "video": 4, "text": 6, "steps": 3}
SMALL: dict[str, Any] = {"audio_hidden": 4, "video_hidden": 3, "text_hidden": 5}
F64 = oracle.F64


def case(rank: int, modalities: str, dataset: str = "pom", rows: int = 9, **more: Any
         ) -> tuple[Graph, dict[str, Array], Batch]:
    config = make_config({"dataset": dataset, "rank": rank, "modalities": modalities, **SMALL, **more})
    graph = build_graph(config, feature_inputs(**SIZES))
    draw = np.random.default_rng(0)
    inputs = {one.name: draw.normal(size=(rows, *one.shape)) for one in graph.inputs}
    label = np.zeros((rows, graph.task.outputs))
    weights = dict(initial_state(graph, 3, "float64").weights)
    weights["fusion_bias"] = draw.normal(size=weights["fusion_bias"].shape)  # starts at zero: would hide
    return graph, weights, Batch(inputs, label, Masks(graph.dropout_sites, 3, 0, "float64").rows(0, rows))


def hidden_of(graph: Graph, layers: dict[str, F64]) -> list[F64]:
    return [layers[f"{m}_subnet.linear_1" if m == "text" else f"{m}_subnet.linear_3"] for m in graph.input_names]


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("modalities", ["audio", "text", "audio,video", "audio,text", "audio,video,text"])
@pytest.mark.parametrize("dataset", ["mosi", "pom", "iemocap"])
def test_full_tensor_equals_low_rank_form(rank: int, modalities: str, dataset: str) -> None:
    graph, weights, batch = case(rank, modalities, dataset)
    layers = oracle.forward(graph, weights, batch)
    hidden, w = hidden_of(graph, layers), {name: np.asarray(value, np.float64) for name, value in weights.items()}
    low_rank = oracle._rank_sum(w, oracle._rank_terms(graph, w, [sized(h) for h in hidden])).value
    np.testing.assert_allclose(oracle._full_tensor(graph, w, hidden), low_rank, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(layers["output"], oracle._full_tensor(graph, w, hidden))


def test_full_tensor_by_hand() -> None:
    """Rank 2, loops only: W[x, y, o] = sum_r w_r a[r, x, o] v[r, y, o]; out = sum_xy z_a[x] z_v[y] W[x, y, o] + b."""
    graph, weights, batch = case(2, "audio,video", "iemocap", rows=2)
    layers = oracle.forward(graph, weights, batch)
    audio, video = hidden_of(graph, layers)
    a, v = (np.asarray(weights[f"{m}_factor"], np.float64) for m in ("audio", "video"))
    mix, bias = np.asarray(weights["fusion_weights"], np.float64)[0], np.asarray(weights["fusion_bias"], np.float64)[0]
    for row in range(2):
        za, zv = [1.0, *audio[row]], [1.0, *video[row]]
        for o in range(2):
            total = float(bias[o])
            for x, value in enumerate(za):
                for y, other in enumerate(zv):
                    total += value * other * sum(mix[r] * a[r, x, o] * v[r, y, o] for r in range(2))
            assert layers["output"][row, o] == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(("rank", "equal"), [(1, True), (4, False)])
def test_a_product_of_sums_is_another_model(rank: int, equal: bool) -> None:
    """Equations 6 and 7 of the paper: (sum_r z_a a_r) * (sum_r z_v v_r) * (sum_r z_t t_r). Weights set to 1."""
    graph, weights, batch = case(rank, "audio,video,text")
    weights["fusion_weights"] = np.ones((1, rank))
    layers = oracle.forward(graph, weights, batch)
    product: Any = 1.0
    for m, h in zip(graph.input_names, hidden_of(graph, layers), strict=True):
        product = product * np.einsum("bd,rdo->bo", oracle._with_one(h), weights[f"{m}_factor"])
    product = product + weights["fusion_bias"]
    assert np.allclose(layers["output"], product, rtol=1e-10) is equal


def test_post_fusion_masks_of_ones_change_nothing() -> None:
    graph, weights, batch = case(3, "audio,video,text", apply_post_fusion_dropout=True)
    ones = Batch(batch.inputs, batch.label, {name: np.ones_like(mask) for name, mask in batch.masks.items()})
    none = Batch(batch.inputs, batch.label, {})
    got, want = (oracle.forward(graph, weights, one, train=True)["output"] for one in (ones, none))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert not np.allclose(oracle.forward(graph, weights, batch, train=True)["output"], want)


@pytest.mark.parametrize("train", [False, True])
def test_a_batch_of_one_row(train: bool) -> None:
    """Its shape stays, and BatchNorm falls back on running statistics: one row has no variance."""
    graph, weights, batch = case(2, "audio,video,text", rows=1)
    layers = oracle.forward(graph, weights, Batch(batch.inputs, batch.label, {}), train)
    assert layers["output"].shape == (1, 16) and np.isfinite(layers["output"]).all()
    want = oracle.forward(graph, weights, batch, train=False)
    np.testing.assert_array_equal(layers["output"], want["output"])


def test_evaluation_ignores_masks_and_neighbours() -> None:
    graph, weights, batch = case(2, "audio,video,text", rows=5)
    whole = oracle.forward(graph, weights, batch)["output"]
    for row in range(5):
        part = Batch({m: x[row:row + 1] for m, x in batch.inputs.items()}, batch.label[row:row + 1], {})
        np.testing.assert_allclose(oracle.forward(graph, weights, part)["output"], whole[row:row + 1], rtol=1e-12)


def test_lstm_forgets_nothing_at_saturated_gates() -> None:
    """Gate order i, f, g, o: with f = i = o = 1 and g = tanh(x) the cell sums up its inputs."""
    graph, weights, _ = case(1, "text", rows=2)
    hidden = SMALL["text_hidden"]
    name = "text_subnet.rnn"
    for key in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        weights[f"{name}.{key}"] = np.zeros_like(weights[f"{name}.{key}"])
    for gate in (0, 1, 3):
        weights[f"{name}.bias_ih_l0"][gate * hidden:(gate + 1) * hidden] = 100
    weights[f"{name}.weight_ih_l0"][2 * hidden:3 * hidden, 0] = 1
    x = np.zeros((2, 3, 6))
    x[0, :, 0], x[1, :, 0] = [0.1, 0.2, 0.3], [1, -1, 0.5]
    got = oracle.forward(graph, weights, Batch({"text": x}, np.zeros((2, 16)), {}))["text_subnet.rnn"]
    np.testing.assert_allclose(got, np.tanh(np.tanh(x[:, :, 0]).sum(1))[:, None] * np.ones(hidden), rtol=1e-12)


def test_probabilities_sum_to_one() -> None:
    graph, weights, batch = case(2, "audio,video,text", "iemocap")
    np.testing.assert_allclose(softmax(oracle.forward(graph, weights, batch)["output"]).sum(axis=1), 1, rtol=1e-12)
