"""The step as one compiled graph, which is what MindSpore takes on Ascend: on the CPU it gives what the blocks give."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest

from core.common.half import FORMATS
from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.data.specs import InputSpec
from core.models.graph import STATISTICS, Graph
from core.runtime.backend import open_session
from core.runtime.worker import Worker
from core.training.plan import Batch, make_plan
from core.training.state import State, initial_state
from tests.running import needs

POOLED = feature_inputs(audio=7, video=4, text=6, steps=5)
SEQUENCES = tuple(InputSpec(name, (6, width), "sequence") for name, width in (("text", 9), ("audio", 5), ("video", 4)))
LMF = {"dataset": "iemocap", "batch_size": 8}
TRANSFORMER = {**LMF, "model": "msa", "encoder": "transformer", "fusion": "cross_attention", "apply_dropout": True}
MODELS = {"lmf": LMF, "tfn": {**LMF, "model": "tfn"}, "lstm": {**LMF, "model": "msa"}, "transformer": TRANSFORMER}
ROWS = 8
O2 = {"amp_level": "O2", "loss_scale": 1024.0}
Steps = list[tuple[np.ndarray, State]]  # the losses of a step, and the state after it


def inputs_of(values: dict[str, Any]) -> Sequence[InputSpec]:
    return SEQUENCES if values.get("model") == "msa" else POOLED


def arrays_of(graph: Graph, rows: int) -> dict[str, np.ndarray]:
    """All of the first class: the gradient of the scores' bias is the sum over as many rows as a batch has.

    Every second row ends early, which attention has to see.
    """
    draw = np.random.default_rng(0)
    arrays = {one.name: draw.normal(size=(rows, *one.shape)).astype("float32") for one in graph.inputs}
    for one in graph.inputs:
        if one.layout == "sequence":
            arrays[one.name][::2, -2:] = 0
    return {**arrays, "label": np.zeros(rows, np.int64)}


def batch_of(graph: Graph, rows: int) -> Batch:
    """The first rows, with masks that are drawn."""
    draw, arrays = np.random.default_rng(1), arrays_of(graph, rows)
    masks = {site.name: draw.choice([0, 1 / (1 - site.rate)], (rows, *site.shape)).astype("float32")
             for site in graph.dropout_sites}
    return Batch({name: arrays[name] for name in graph.input_names}, arrays["label"], masks)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    needs("mindspore")
    with contextlib.closing(Worker("mindspore")) as made:
        yield made


def trained(values: dict[str, Any], steps: int, emulated: bool = True) -> list[Steps]:
    """Within a worker: steps block by block, and compiled, each of these from the state that the former had."""
    config = make_config(values)
    graph = build_graph(config, inputs_of(values))
    blocks: Any = open_session("mindspore", graph, config)
    with mock.patch("core.runtime.half.emulated", lambda device: emulated):
        captured = type(blocks)(graph, config, capture=True)
    state = initial_state(graph, 0, "float32", float(config.loss_scale))
    found: list[Steps] = [[], []]
    for session in (blocks, captured):
        session.load_data("train", arrays_of(graph, ROWS))
    for step in range(steps):
        plan = make_plan(graph, config, step, ROWS)
        for session, kept in zip((blocks, captured), found, strict=True):
            session.load_state(state)
            losses = session.train_epoch(plan).losses
            kept.append((losses, session.state()))
        state = found[0][-1][1]
    batch = batch_of(graph, ROWS)
    looked = captured.forward(batch, True)
    assert looked.keys() == blocks.forward(batch, True).keys() and np.isfinite(captured.predict("train")).all()
    return found


def furthest(graph: Graph, found: list[Steps]) -> float:
    """How far apart losses, running statistics and Adam's first moments are: by the largest number of their kind, of a
    moment among those of its block, for a key's bias has a slope of 0.

    The moments are linear in the gradients. The weights follow from them by the same operators in both.
    """
    worst = 0.0
    for (losses, one), (others, other) in zip(*found, strict=True):
        worst = max(worst, float(np.abs(losses - others).max() / np.abs(losses).max()))
        for node in graph.nodes:
            groups = {kind: [p.name for p in node.parameters if (p.group == STATISTICS) == (kind == "weights")]
                      for kind in ("weights", "exp_avg")}
            for kind, names in groups.items():
                left, right = getattr(one, kind), getattr(other, kind)
                largest = max((np.abs(left[name]).max() for name in names), default=0)
                for name in names:
                    worst = max(worst, float(np.abs(left[name] - right[name]).max() / largest))
    return worst


@pytest.mark.parametrize("model", MODELS)
def test_float32_is_the_blocks(worker: Worker, model: str) -> None:
    """Bound: as many roundings of 2^-24 in a row as there are terms in the sums that a number passes through, one after
    the other, on the way forward and back: the last axes of all matrices, at every step of a sequence.
    """
    values = MODELS[model]
    graph = build_graph(make_config(values), inputs_of(values))
    longest = max(one.shape[0] for one in graph.inputs if one.layout == "sequence")
    terms = 2 * longest * sum(p.shape[-1] for p in graph.parameters if len(p.shape) > 1)
    found = worker.run("tests.test_captured_mindspore:trained", values, 3)
    assert furthest(graph, found) <= terms * 2.0**-24
    assert found[0][0][0] != found[0][2][0], "the weights have moved, and the graph has seen it"


@pytest.mark.parametrize(("values", "emulated"), [
    ({**LMF, "amp_level": "O1", "amp_dtype": "bfloat16"}, True), ({**LMF, **O2}, True), ({**LMF, **O2}, False),
    ({**TRANSFORMER, **O2}, False)])
def test_half_is_near_the_blocks(worker: Worker, values: dict[str, Any], emulated: bool) -> None:
    """Emulated as in the blocks, or with MindSpore's float16 kernels, which the CPU has in a graph.

    Emulated: what float32 carries over the middle between two numbers of the half type becomes the neighbour, 2 u of it
    away; 32 u is 16 of them that all went one way. Real kernels round within a block too, and an LSTM six steps one
    after the other, forward and back: twelve times that; a ReLU that changes side moves the weights before it as far.
    """
    graph = build_graph(make_config(values), inputs_of(values))
    u = FORMATS[values.get("amp_dtype", "float16")].unit_roundoff
    assert furthest(graph, worker.run("tests.test_captured_mindspore:trained", values, 2, emulated)) <= (
        32 * u if emulated else 12 * 32 * u)


def counted(values: dict[str, Any]) -> tuple[int, int, float, int]:
    """Within a worker: skipped steps, steps taken, scale and good steps after an epoch of five compiled steps."""
    config = make_config(values)
    graph = build_graph(config, inputs_of(values))
    captured: Any = type(open_session("mindspore", graph, config))(graph, config, capture=True)
    captured.load_data("train", arrays_of(graph, 5 * ROWS))
    captured.load_state(initial_state(graph, 0, "float32", 2.0**127))
    skipped = captured.train_epoch(make_plan(graph, config, 0, 5 * ROWS)).skipped
    state = captured.state()
    return skipped, state.step, state.loss_scale, state.good_steps


def test_the_graph_takes_the_scale_that_is(worker: Worker) -> None:
    """The first step overflows; the scale falls to 2^7 and doubles after every second of the four that are left."""
    values = {**LMF, "amp_level": "O2", "loss_scale": "dynamic", "loss_scale_backoff": 2.0**-120,
              "loss_scale_interval": 2}
    assert worker.run("tests.test_captured_mindspore:counted", values) == (1, 4, 2.0**9, 0)
