"""The course's model and its ablations in every backend, held to plain PyTorch that knows nothing of the graph.

In float64: outputs, loss and the gradient of every parameter, on rows padded in front, at the end, nowhere, and on one
that is nothing but zeros. Both sides are off by roundings, so they may differ by twice what one of them may be off.
"""
from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.errors import RunFailed
from core.config import Config, build_graph, make_config, to_values
from core.models.graph import Graph
from core.runtime.worker import Worker
from core.training.randomness import batch_order
from core.training.state import State, initial_state
from parity.bounds import FORWARD, GRADIENT
from parity.ground import Ground
from parity_tests.conftest import ALIGNED, inputs_of_case, padded_rows
from parity_tests.test_witness import hold, imports
from tests.running import ROOT

ROWS = 7
EPOCHS, RATE = 6, 0.01
WITNESS = "parity_tests.witnesses.course"
TRANSFORMER: dict[str, Any] = {"encoder": "transformer", "attention_heads": 2, "feed_forward_dim": 7}
SELF = {"fusion": "self_attention", "attention_heads": 2}
CROSS = {"fusion": "cross_attention", "attention_heads": 4}
SUBSETS = [",".join(names) for count in (1, 2, 3) for names in combinations(ALIGNED, count)]
VARIANTS: dict[str, dict[str, Any]] = {
    **{names: {"modalities": names} for names in SUBSETS},
    "without LayerNorm": {"layer_norm": False}, "concat_lstm": {"fusion": "concat_lstm"},
    "transformer, post": TRANSFORMER, "transformer, pre": {**TRANSFORMER, "norm_order": "pre"},
    "transformer, 2 layers": {**TRANSFORMER, "encoder_layers": 2, "norm_order": "pre", "layer_norm": False},
    "transformer, 2 layers, concat": {**TRANSFORMER, "encoder_layers": 2, "fusion": "concat_lstm"},
    "transformer of odd width": {**TRANSFORMER, "attention_heads": 1, "hidden_dim": 5, "modalities": "text"},
    "self attention": SELF, "self attention, pre": {**SELF, "norm_order": "pre"},
    "self attention, one modality": {**SELF, "modalities": "audio", **TRANSFORMER},
    "dropout": {"apply_dropout": True, "dropout": 0.3},
    "cross attention": CROSS, "cross attention, pre": {**CROSS, "norm_order": "pre"},
    "cross attention, two modalities": {**CROSS, "modalities": "vision,text", **TRANSFORMER},
}


class Seen(NamedTuple):
    """Outputs (B, O) in evaluation and in train mode, and of that pass the loss and its gradients."""

    evaluation: Array
    training: Array
    loss: float
    gradients: dict[str, Array]


class History(NamedTuple):
    """Loss of every step (S,); of every epoch (E,) the loss and Corr of the validation rows; the best epoch, from 1;
    outputs (N, O) for test rows with the weights of that epoch.
    """

    steps: Array
    losses: Array
    corrs: Array
    best: int
    test: Array


def described(variant: str) -> tuple[Graph, Config]:
    config = make_config({"dataset": "mosi_aligned", "model": "msa", "precision": "float64", "hidden_dim": 4,
                          "batch_size": ROWS, **VARIANTS[variant]})
    return build_graph(config, inputs_of_case(config)), config


def settings_of(config: Any, widths: Mapping[str, int] = MappingProxyType(ALIGNED)) -> dict[str, Any]:
    """The same in the witness's words."""
    return {"widths": {name: width for name, width in widths.items() if name in config.modalities},
            "hidden": config.hidden_dim, "encoder": config.encoder, "layer_norm": config.layer_norm,
            "fusion": config.fusion, "heads": config.attention_heads, "feed_forward": config.feed_forward_dim,
            "layers": config.encoder_layers, "pre": config.norm_order == "pre"}


def moved(graph: Graph) -> State:
    """No tensor is as drawn: what starts at 0 or 1 would hide a mistake."""
    draw, before = np.random.default_rng(0), initial_state(graph, 3, "float64")
    weights = {name: value + draw.uniform(-0.3, 0.3, value.shape) for name, value in before.weights.items()}
    return State(weights, before.exp_avg, before.exp_avg_sq)


def common(variant: str, rows: int) -> Ground:
    graph, config = described(variant)
    arrays = padded_rows({one.name: one.width for one in graph.inputs}, rows)
    return Ground(graph, config, moved(graph), arrays, arrays)


@pytest.fixture
def torch_worker(open_lab: Any, workers: dict[str, Worker]) -> Worker:
    """Where the witness runs: it chooses no device and no threads of its own."""
    open_lab("torch", "float32", "three", "before the witness")
    return workers["torch"]


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_session_computes_what_the_witness_computes(
        open_lab: Any, workers: dict[str, Worker], torch_worker: Worker, backend: str, variant: str, rows: int) -> None:
    ground = common(variant, rows)
    graph, config, batch = ground.graph, ground.config, ground.batch
    want = Seen(*torch_worker.run(f"{WITNESS}:seen", settings_of(config), ground.state.weights, batch.inputs,
                                  batch.label, batch.masks))
    open_lab(backend, "float32", "three", "before the witness")  # starts the worker
    session = workers[backend].open("held to the witness", to_values(config), graph.inputs)
    session.load_state(ground.state)
    loss, gradients = session.gradients(batch)
    for train, layers, output in ((False, ground.evaluation, want.evaluation), (True, ground.training, want.training)):
        hold("train mode" if train else "evaluation", {"output": session.forward(batch, train)["output"]},
             {"output": output}, {"output": layers["output"]}, FORWARD["float64"])
    hold("", {"loss": np.asarray(loss)}, {"loss": np.asarray(want.loss)}, {"loss": ground.loss}, FORWARD["float64"])
    hold("gradient of", gradients, want.gradients, ground.gradients, GRADIENT["float64"])
    if rows == ROWS:  # what a key's bias adds to all scores of a query alike, softmax takes away
        still = [name for name, gradient in want.gradients.items() if np.abs(gradient).max() < 1e-12]
        assert still == [name for name in want.gradients if name.endswith("k_proj.bias")]


@pytest.mark.parametrize("variant", ["vision,text,audio", "transformer, pre", "self attention", "cross attention"])
def test_training_as_the_course_has_it(open_lab: Any, workers: dict[str, Worker], torch_worker: Worker, tmp_path: Path,
                                       backend: str, variant: str) -> None:
    """MSELoss, Adam, CosineAnnealingLR stepped by the batch, the epoch of the highest Corr, the test rows once."""
    config = described(variant)[1].model_copy(update={"batch_size": 16, "epochs": EPOCHS, "learning_rate": RATE})
    widths = {name: ALIGNED[name] for name in config.modalities}
    pool = padded_rows(widths, 120)
    places = {"train": slice(0, 70), "valid": slice(70, 90), "test": slice(90, 120)}
    splits = {split: {name: value[place] for name, value in pool.items()} for split, place in places.items()}
    open_lab(backend, "float32", "three", "before the witness")  # starts the worker
    steps, progress, test = workers[backend].run("parity_tests.stopping:on_rows", backend, to_values(config), splits,
                                                 tmp_path)
    weights = initial_state(described(variant)[0], config.seed, "float64").weights
    orders = [batch_order(config.seed, epoch, 70) for epoch in range(EPOCHS)]
    want = History(*torch_worker.run(f"{WITNESS}:trained", settings_of(config), weights, splits, orders, 16, RATE))
    assert len(steps) == 5 * EPOCHS, "the last batch of an epoch has six rows"
    assert want.best not in (EPOCHS, 1 + want.losses.argmin()), "neither the last epoch nor the lowest loss: Corr shows"
    np.testing.assert_allclose(steps, want.steps, rtol=1e-9)
    np.testing.assert_allclose([row["valid_loss"] for row in progress.history], want.losses, rtol=1e-9)
    np.testing.assert_allclose([row["valid_Corr"] for row in progress.history], want.corrs, rtol=0, atol=1e-9)
    assert progress.best_epoch == want.best
    np.testing.assert_allclose(test, want.test, rtol=0, atol=1e-9)


def test_the_model_of_the_course_has_582067_parameters(torch_worker: Worker) -> None:
    """At widths 35, 300 and 74, by this project's count and as the witness takes them."""
    config = make_config({"dataset": "mosi_aligned", "model": "msa"})
    graph = build_graph(config)
    assert {one.name: one.shape for one in graph.inputs} == {"vision": (50, 35), "text": (50, 300), "audio": (50, 74)}
    assert graph.parameter_count == 582067
    weights = initial_state(graph, 3, "float64").weights
    widths = {one.name: one.width for one in graph.inputs}
    rows = padded_rows(widths, 2, 50)
    got = torch_worker.run(f"{WITNESS}:outputs", settings_of(config, widths), weights, rows)
    assert got.shape == (2, 1)


def test_what_does_not_fit_is_refused(torch_worker: Worker) -> None:
    ground = common("cross attention", 1)
    settings, weights = settings_of(ground.config), ground.state.weights
    for name in ("text_norm.bias", "vision_attention.cross_attn.out_proj.weight"):
        with pytest.raises(RunFailed, match=name):
            torch_worker.run(f"{WITNESS}:outputs", settings, {k: v for k, v in weights.items() if k != name}, {})
        with pytest.raises(RunFailed, match="size mismatch"):
            torch_worker.run(f"{WITNESS}:outputs", settings, {**weights, name: weights[name][..., :-1]}, {})
    with pytest.raises(RunFailed, match="haptic_fc"):
        torch_worker.run(f"{WITNESS}:outputs", settings, {**weights, "haptic_fc.bias": np.zeros(4)}, {})


def test_the_witness_stands_alone() -> None:
    found = imports(ROOT / "parity_tests" / "witnesses" / "course.py")
    assert {name.split(".")[0] for name in found} <= {"torch", "numpy", *sys.stdlib_module_names}, found
