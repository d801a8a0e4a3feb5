"""Every block and every loss in every backend, in graphs that no model is: held to the blocks in float64.

core.models.reference is what they are held to; that it is right is shown by the full-tensor oracle
(tests/test_reference.py), and its gradients by differences of its own loss, here.
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from core import models
from core.common.arrays import Array
from core.common.rounding import Sized, leaf, slopes
from core.config import build_graph, make_config
from core.data.specs import InputSpec, LossKind, Reduction, Task
from core.models.graph import Graph
from core.models.reference import measured
from core.runtime.worker import Worker
from core.training.losses import Loss
from core.training.plan import Batch, EpochPlan, GivenMasks
from core.training.randomness import Masks
from core.training.state import State, initial_state
from parity.bounds import FORWARD, GRADIENT
from parity.compare import gap
from parity.rules import sized_loss
from parity_tests import graphs
from parity_tests import test_rungs as rungs
from parity_tests.conftest import CASES, ROWS
from parity_tests.divergences import installed

GRAPHS: dict[str, tuple[graphs.Wiring, tuple[str, ...]]] = {
    "rows": (graphs.rows, ()), "rows, frozen": (graphs.rows, ("first.weight", "norm.bias", "bent.bias")),
    "sequence": (graphs.sequence, ()),
    "sequence, frozen": (graphs.sequence, ("deep.weight_ih_l0", "other.bias_hh_l0", "scaled.weight")),
    "alone": (graphs.alone, ()),
    "normed": (graphs.normed, ()), "normed, frozen": (graphs.normed, ("plain.weight", "norm.bias")),
    "states": (graphs.states, ()),
    "states, frozen": (graphs.states, ("first.bias", "deep.weight_hh_l0", "plain.bias_ih_l0", "norm.weight")),
    "attending": (graphs.attending, ()),
    "attending, frozen": (graphs.attending, ("both.q_proj.weight", "asks.out_proj.bias", "tells.k_proj.weight",
                                             "seen.v_proj.weight", "query.weight", "query.bias")),
}
LOSS = Loss("mse")
VALUES = {"dataset": "pom", "loss": LOSS.kind}
STEP = 4  # rows of a batch: of 10 rows, the last has two


@pytest.fixture(autouse=True)
def scale_is_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.ALL_KINDS, "scale", graphs.SCALE)


@pytest.fixture
def worker(open_lab: Any, workers: dict[str, Worker], backend: str) -> Worker:
    """Where a session has been."""
    open_lab(backend, "float32", "three")
    return workers[backend]


def ground(graph: Graph, precision: str, rows: int) -> tuple[State, Batch]:
    """No tensor is as drawn: what starts at 0 or 1 would hide a mistake.

    Every third row varies little, as LayerNorm's eps sees it; sequences are padded, some from end to end.
    """
    draw, before = np.random.default_rng(0), initial_state(graph, 3, precision)
    weights = {name: (value + draw.uniform(0.1, 0.4, value.shape)).astype(precision)
               for name, value in before.weights.items()}
    inputs = {one.name: draw.normal(size=(rows, *one.shape)).astype(precision) for one in graph.inputs}
    for place, one in enumerate(graph.inputs):
        inputs[one.name][2::3] /= 1000
        for row in range(rows if one.layout == "sequence" else 0):
            inputs[one.name][row, :(place + row + 1) % (one.shape[0] + 1)] = 0
    label = draw.normal(size=(rows, graph.task.outputs)).astype(precision)
    masks = Masks(graph.dropout_sites, 3, 0, precision).rows(0, rows)
    return State(weights, before.exp_avg, before.exp_avg_sq), Batch(inputs, label, masks)


def shuffled(graph: Graph, batch: Batch) -> EpochPlan:
    """An epoch of its rows in another order, at rates of 0: every step is from the same weights."""
    rows = len(batch.label)
    steps = -(-rows // STEP)
    return EpochPlan(0, np.random.default_rng(1).permutation(rows), STEP, np.zeros((steps, len(graph.groups))),
                     GivenMasks(batch.masks))


def part(batch: Batch, plan: EpochPlan, start: int, stop: int) -> Batch:
    """The batch of a step."""
    rows = plan.order[start:stop]
    return Batch({name: x[rows] for name, x in batch.inputs.items()}, batch.label[rows], plan.dropout.rows(start, stop))


def hold(what: str, got: Mapping[str, Array], want: Mapping[str, Sized], bound: float) -> None:
    assert got.keys() == want.keys(), what
    for name, value in want.items():
        found = gap(got[name], value.value, value.size)
        assert not found.exceeds(bound), f"{what} {name}: {found.sentence(bound)}"


def gradients_of(graph: Graph, loss: Loss, state: State, batch: Batch, doubt: float) -> tuple[Sized, dict[str, Sized]]:
    """The loss, and its gradients."""
    leaves = {p.name: leaf(state.weights[p.name]) for p in graph.trainable}
    output = measured(graph, {**state.weights, **leaves}, batch, True, doubt)["output"]
    whole = sized_loss(loss, output, batch.label, doubt)
    return whole, slopes(whole, leaves)


@pytest.mark.parametrize("rows", [1, 10])
@pytest.mark.parametrize("name", GRAPHS)
def test_what_they_are_held_to_is_the_slope(name: str, rows: int) -> None:
    """Up to five elements of each tensor by central differences: with a step of 1e-6 good to about 1e-8 of the loss."""
    wiring, frozen = GRAPHS[name]
    graph, draw = graphs.made(wiring, *frozen), np.random.default_rng(2)
    state, batch = ground(graph, "float64", rows)
    loss, found = gradients_of(graph, LOSS, state, batch, 0.0)
    for key, gradient in found.items():
        assert gradient.value.any(), f"{key}: a gradient of 0 shows nothing"
        for place in draw.permutation(list(np.ndindex(gradient.shape)))[:5]:
            ends = []
            for step in (1e-6, -1e-6):
                moved = state.weights[key].copy()
                moved[tuple(place)] += step
                output = measured(graph, {**state.weights, key: moved}, batch, True)["output"]
                ends.append(LOSS.value(output.value, batch.label))
            slope = (ends[0] - ends[1]) / 2e-6
            assert gradient.value[tuple(place)] == pytest.approx(slope, rel=1e-7, abs=1e-8 * float(loss.value)), key


def check(worker: Worker, graph: Graph, precision: str, rows: int) -> None:
    """Layers in evaluation and in train mode, the loss, its gradients, and the losses of an epoch."""
    state, batch = ground(graph, precision, rows)
    plan, doubt = shuffled(graph, batch), FORWARD[precision]
    with installed(worker, "scale", "parity_tests.graphs"):
        seen = graphs.Seen(*worker.run("parity_tests.graphs:look", worker.backend, graph,
                                       {**VALUES, "precision": precision}, state, batch, plan))
    assert list(seen.training) == [name for name, _ in graph.activations]
    hold("evaluation", seen.evaluation, measured(graph, state.weights, batch), FORWARD[precision])
    hold("train mode", seen.training, measured(graph, state.weights, batch, True), FORWARD[precision])
    loss, gradients = gradients_of(graph, LOSS, state, batch, doubt)
    hold("", {"loss": np.asarray(seen.loss)}, {"loss": loss}, FORWARD[precision])
    hold("gradient of", seen.gradients, gradients, GRADIENT[precision])
    for step, (start, stop) in enumerate(plan.bounds):
        want = gradients_of(graph, LOSS, state, part(batch, plan, start, stop), doubt)[0]
        hold(f"step {step}", {"loss": seen.epoch[step]}, {"loss": want}, FORWARD[precision])


@pytest.mark.parametrize("rows", [1, 10])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_block(worker: Worker, precision: str, name: str, rows: int) -> None:
    wiring, frozen = GRAPHS[name]
    check(worker, graphs.made(wiring, *frozen), precision, rows)


@pytest.mark.parametrize("backend", ["mindspore"])
@pytest.mark.parametrize("name", GRAPHS)
def test_mindspore_differentiates_a_block_that_asks(worker: Worker, precision: str, name: str) -> None:
    """What a block does forward, differentiated by MindSpore, is its written way back."""
    wiring, frozen = GRAPHS[name]
    with installed(worker, "differentiated"):
        check(worker, graphs.made(wiring, *frozen), precision, 10)


@pytest.mark.parametrize("case", ["three", "tfn"])
def test_mindspore_differentiates_the_blocks_of_a_model(uncorrected: Any, precision: str, case: str) -> None:
    with uncorrected("mindspore", "differentiated", precision, case) as lab:
        for rows in (1, ROWS):
            rungs.test_train_mode(lab, rows)
            rungs.test_gradients(lab, rows)


@pytest.mark.parametrize("case", ["three", "frozen", "tfn"])
def test_the_tools_of_a_framework_see_neutral_names(open_lab: Any, worker: Worker, precision: str, case: str) -> None:
    """Its own state dict has every tensor once, and a printed network every block."""
    lab = open_lab(worker.backend, precision, case)
    values = {**CASES[case], "precision": precision}
    names, text = worker.run(f"parity_tests.graphs.{worker.backend}:tools", lab.graph, values)
    assert sorted(names) == sorted(p.name for p in lab.graph.parameters)
    for node in lab.graph.nodes:
        assert f"({node.name.rpartition('.')[2]}): " in text, f"{node.name} is not in\n{text}"


MSA: dict[str, dict[str, Any]] = {
    "lstm": {}, "concatenated": {"fusion": "concat_lstm", "layer_norm": False},
    "transformer": {"encoder": "transformer", "encoder_layers": 2},
    "self-attention": {"encoder": "transformer", "norm_order": "pre", "fusion": "self_attention"},
    "cross-attention": {"fusion": "cross_attention"},
}


def msa(**keys: Any) -> Graph:
    """The course's model, narrow, on sequences of three modalities."""
    config = make_config({"dataset": "mosi", "model": "msa", "hidden_dim": 8, "feed_forward_dim": 12, **keys})
    inputs = tuple(InputSpec(one.name, (5, width), "sequence") for one, width in zip(config.described.inputs, (4, 3, 6),
                                                                                     strict=True))
    return build_graph(config, inputs)


@pytest.mark.parametrize("name", ["normed", "states", "attending", *MSA])
def test_an_exported_graph_gives_the_same(worker: Worker, tmp_path: Path, name: str) -> None:
    """Loaded back, for any number of rows: the same operators, or others that round otherwise."""
    graph = msa(**MSA[name]) if name in MSA else graphs.made(GRAPHS[name][0])
    state, _ = ground(graph, "float32", 1)
    batches = [ground(graph, "float32", rows)[1] for rows in (1, 7, 64)]
    with installed(worker, "scale", "parity_tests.graphs"):
        wanted, found = worker.run("parity_tests.graphs:exported", worker.backend, graph, VALUES, state, batches,
                                   str(tmp_path))
    for batch, want, got in zip(batches, wanted, found, strict=True):
        assert got.shape == want.shape
        size = measured(graph, state.weights, batch)["output"].size
        agreed = gap(got, want, size)
        assert not agreed.exceeds(2 * FORWARD["float32"]), agreed.sentence(2 * FORWARD["float32"])


DELTA = 0.5
OFF = np.array([[0.0, DELTA, -DELTA], [0.25, -0.25, 0.001], [0.75, -0.75, 3.0], [-40.0, 1e-5, 0.499]])  # errors (B, O)


@pytest.mark.parametrize("reduction", get_args(Reduction))
@pytest.mark.parametrize("kind", get_args(LossKind))
def test_every_loss(worker: Worker, precision: str, kind: LossKind, reduction: Reduction) -> None:
    """Rows of a unit matrix: the layer's weight is the output (B, O), its gradient that of the loss in each output.

    Errors on both sides of huber's delta, at it, and one of 0, where the slope is 0.
    """
    rows, outputs = OFF.shape
    draw, loss = np.random.default_rng(3), Loss(kind, reduction, DELTA)
    scores = kind != "cross_entropy"
    task = Task("regression" if scores else "classification", ("a", "b", "c"))
    graph = graphs.made(graphs.alone, inputs=(InputSpec("audio", (rows,)),), task=task)
    label = np.round(draw.normal(size=(rows, outputs)) * 8) / 8  # eighths: label and error add up to the bit
    output = (label + OFF if scores else OFF).astype(precision)
    before = initial_state(graph, 3, precision)
    state = State({"last.weight": output.T, "last.bias": np.zeros(outputs, precision)}, before.exp_avg,
                  before.exp_avg_sq)
    batch = Batch({"audio": np.eye(rows, dtype=precision)}, label.astype(precision) if scores
                  else np.array([0, 2, 1, 0]), {})
    values = {"dataset": "pom" if scores else "iemocap", "loss": kind, "loss_reduction": reduction,
              "huber_delta": DELTA, "precision": precision}
    seen = graphs.Seen(*worker.run("parity_tests.graphs:look", worker.backend, graph, values, state, batch,
                                   shuffled(graph, batch)))
    at = leaf(output)
    want = sized_loss(loss, at, batch.label, FORWARD[precision])
    hold("", {"loss": np.asarray(seen.loss)}, {"loss": want}, FORWARD[precision])
    np.testing.assert_allclose(want.value, loss.value(output, batch.label), rtol=1e-14)
    np.testing.assert_allclose(seen.epoch, seen.loss, rtol=2 * FORWARD[precision])
    slope = seen.gradients["last.weight"].T  # (B, O)
    hold("slope in", {"output": slope}, {"output": slopes(want, {"output": at})["output"]}, GRADIENT[precision])
    if scores:
        assert slope[0, 0] == 0
