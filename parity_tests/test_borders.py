"""The way back over the border of every block in half, element by element, in graphs of one such block each.

Linear layers before it show, by the gradients of their biases, those of its inputs; what comes after it passes the
gradient of its output on exactly, so that this is known to the bit. What stands between is the NumPy block's own slope,
rounded: the half numbers next to it, as far as float32 arithmetic leaves open which of them.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from core import models
from core.common.arrays import F64, Array
from core.common.half import HALF_TYPES, HalfType, half_rounded
from core.common.rounding import leaf, slopes
from core.data.specs import InputSpec, Task
from core.models.graph import DROPOUT, Builder, Graph, Node, Ref
from core.models.precision import Level, in_half
from core.runtime.worker import Worker
from core.training.plan import Batch, EpochPlan, GivenMasks
from core.training.randomness import Masks
from core.training.state import State, initial_state
from parity.borders import between
from parity.bounds import FORWARD
from parity_tests import graphs
from parity_tests.test_blocks import worker  # noqa: F401  # a fixture

ROWS, SCALE = 5, 64.0
BOUND = FORWARD["float32"]  # nothing here is off in all rows alike
OUTPUTS = graphs.SCORES.outputs  # 3


def on_rows(kind: str, *widths: int, **options: Any) -> graphs.Wiring:
    """(B, A), ... -> (B, 3)."""
    def wiring(b: Builder) -> Ref:
        before = [b.add("linear", b.input("audio"), name=f"before_{place}", out=width)
                  for place, width in enumerate(widths)]
        return b.add(kind, *before, name="block", **options)

    return wiring


def on_steps(kind: str, *widths: int, last: bool = False, **options: Any) -> graphs.Wiring:
    """(B, T, A), ... -> (B, 3), or sequences of one step that the mean passes on as they are; `last`: takes real steps.
    """
    def wiring(b: Builder) -> Ref:
        before = [b.add("linear", b.input(name), name=f"before_{place}", out=width)
                  for place, (name, width) in enumerate(zip(("text", "audio"), widths, strict=False))]
        real = {name: b.add("real_steps", b.input(name), name=f"real_{name}") for name in ("text", "audio")}
        y = b.add(kind, *before, *([real["audio" if len(widths) > 1 else "text"]] if last else []), name="block",
                  **options)
        if len(y.shape) == 1:
            return y
        both = b.add("concat", real["text"], real["audio"], name="both") if y.shape[0] > 1 else real["text"]
        return b.add("mean_steps", y, both, name="mean")

    return wiring


def fused(b: Builder) -> Ref:
    """The weights of the sum over the ranks are powers of two."""
    x = b.input("audio")
    before = [b.add("linear", x, name=f"before_{place}", out=width) for place, width in enumerate((2, 4))]
    terms = b.add("low_rank_fusion", *before, name="block", rank=2, out=OUTPUTS, group="others", factors=("f", "g"))
    return b.add("rank_sum", terms, name="sum", weights="weights", bias="bias")


def summed(b: Builder) -> Ref:
    """What comes before it is a fusion of one modality: the row of its factor that meets the 1 is a bias."""
    terms = b.add("low_rank_fusion", b.input("audio"), name="before_0", rank=2, out=OUTPUTS, group="others",
                  factors=("f",))
    return b.add("rank_sum", terms, name="block", weights="weights", bias="bias")


def dropped(b: Builder) -> Ref:
    """A mask, and a block that passes everything on."""
    x = b.dropout(b.add("linear", b.input("audio"), name="before_0", out=OUTPUTS), 0.3, "block")
    return b.add("concat", x, name="all")


ROW = InputSpec("audio", (4,))
STEPS, STEP = InputSpec("text", (4, 3), "sequence"), InputSpec("text", (1, 3), "sequence")
OTHERS, OTHER = InputSpec("audio", (3, 2), "sequence"), InputSpec("audio", (1, 2), "sequence")
BLOCKS: dict[str, tuple[graphs.Wiring, tuple[InputSpec, ...]]] = {
    "linear": (on_rows("linear", 6, out=OUTPUTS), (ROW,)),
    "linear, relu": (on_rows("linear", 6, out=OUTPUTS, activation="relu"), (ROW,)),
    "linear, steps": (on_steps("linear", 4, out=OUTPUTS), (STEP, OTHER)),
    "lstm": (on_steps("lstm", 4, hidden=OUTPUTS), (STEPS, OTHERS)),
    "lstm, all steps": (on_steps("lstm", 4, hidden=OUTPUTS, sequence=True), (STEP, OTHER)),
    "attention": (on_steps("attention", OUTPUTS, 5, last=True, heads=1), (STEP, OTHERS)),
    "low_rank_fusion": (fused, (ROW,)),
    "rank_sum": (summed, (ROW,)),
    "outer_product": (on_rows("outer_product", 2), (ROW,)),
    "concat": (on_rows("concat", 2, 1), (ROW,)),
    "add": (on_rows("add", 3, 3), (ROW,)),
    "scaled_sigmoid": (on_rows("scaled_sigmoid", 3, low=-3, high=2), (ROW,)),
    "positions": (on_steps("positions", OUTPUTS), (STEP, OTHER)),
    "mean_steps": (on_steps("mean_steps", OUTPUTS, last=True), (STEPS, OTHERS)),
    "concat_steps": (on_steps("concat_steps", OUTPUTS, OUTPUTS), (STEP, OTHER)),
    "dropout": (dropped, (ROW,)),
}


def state_and_batch(graph: Graph, rows: int = ROWS) -> tuple[State, Batch]:
    """Weights and rows of no particular numbers, float32; labels in eighths."""
    draw, before = np.random.default_rng(6), initial_state(graph, 3, "float32", SCALE)
    weights = {name: (value + draw.uniform(0.1, 0.4, value.shape)).astype("float32")
               for name, value in before.weights.items()}
    if any(node.name == "sum" for node in graph.nodes):
        weights["weights"] = np.array([[1, 0.5]], "float32")
    inputs = {one.name: draw.normal(size=(rows, *one.shape)).astype("float32") for one in graph.inputs}
    label = (np.round(draw.normal(size=(rows, graph.task.outputs)) * 8) / 8).astype("float32")
    masks = Masks(graph.dropout_sites, 3, 0, "float32").rows(0, rows)
    return State(weights, before.exp_avg, before.exp_avg_sq, 0, SCALE), Batch(inputs, label, masks)


def slope_of(block: Node, graph: Graph, seen: Mapping[str, Array], batch: Batch, weights: Mapping[str, Array],
             kind: HalfType) -> F64:
    """The gradient of the block's output, times the loss scale, as it comes over the border."""
    slope = np.float32(2 * SCALE) * (seen["output"].astype(np.float32) - batch.label)  # (B, O)
    after = {node.name for node in graph.nodes[graph.nodes.index(block) + 1:]}
    if "mean" in after:  # of one step, or of two
        steps = block.output.shape[0]
        slope = np.repeat(slope[:, None] / steps, steps, 1)  # (B, T, O)
    elif "sum" in after:
        slope = slope[:, None] * weights["weights"].reshape(-1, 1)  # (B, R, O)
    return half_rounded(slope, kind)


def expected(block: Node, graph: Graph, seen: Mapping[str, Array], batch: Batch, weights: Mapping[str, Array],
             kind: HalfType) -> dict[str, tuple[F64, F64]]:
    """Between which half numbers the gradients of the block's parameters lie, and those of the biases before it."""
    names = {ref.index: name for name, ref in graph.activations}
    xs = [leaf(half_rounded(seen[names[place]], kind)) for place in block.inputs]
    own = {block.local(p.name): leaf(half_rounded(weights[p.name], kind)) for p in block.parameters}
    if block.kind == DROPOUT:
        y = xs[0] * batch.masks["block"]
    else:
        y = models.ALL_KINDS[block.kind].forward64(block, xs, own, True, BOUND)
    whole = (y * slope_of(block, graph, seen, batch, weights, kind)).sum()
    leaves = {**{p.name: own[block.local(p.name)] for p in block.parameters},
              **{names[place]: x for place, x in zip(block.inputs, xs, strict=True) if "before" in names[place]}}
    found = {name: between(one.value, BOUND * one.size, kind) for name, one in slopes(whole, leaves).items()}
    for name in found:
        if name.startswith("before"):  # the sum over rows, and over steps: each term is rounded, and the sum
            low, high = found[name]
            axes = (0,) if block.kind == "rank_sum" else tuple(range(low.ndim - 1))
            found[name] = (half_rounded(low.sum(axes) - BOUND * np.abs(low).sum(axes), kind),
                           half_rounded(high.sum(axes) + BOUND * np.abs(high).sum(axes), kind))
    return found


def levels(name: str) -> list[Level]:
    """Those at which the block computes in half."""
    spec = models.ALL_KINDS.get(name.split(",")[0])  # dropout is no kind
    return ["O1", "O2"] if spec and spec.half == "O1" else ["O2"]


@pytest.mark.parametrize("half", HALF_TYPES)
@pytest.mark.parametrize(("name", "level"), [(name, level) for name in BLOCKS for level in levels(name)])
def test_gradients_cross_the_border_in_half(worker: Worker, name: str, level: Level,  # noqa: F811
                                            half: HalfType) -> None:
    wiring, inputs = BLOCKS[name]
    graph = graphs.made(wiring, inputs=inputs)
    block = next(node for node in graph.nodes if node.name.removesuffix(".drop") == "block")
    assert in_half(block, level)
    state, batch = state_and_batch(graph)
    plan = EpochPlan(0, np.arange(ROWS), ROWS, np.zeros((1, 1)), GivenMasks(batch.masks))
    values = {"dataset": "pom", "loss": "mse", "amp_level": level, "amp_dtype": half, "loss_scale": SCALE}
    seen = graphs.Seen(*worker.run("parity_tests.graphs:look", worker.backend, graph, values, state, batch, plan))
    found = expected(block, graph, seen.training, batch, state.weights, half)
    for key, (low, high) in found.items():
        if key.startswith("before"):  # of a factor (R, 1 + A, O) the row of the 1
            got = seen.gradients["f"][:, 0] if name == "rank_sum" else seen.gradients[f"{key}.bias"]
        else:
            got = seen.gradients[key]
        got = got.astype(np.float64) * SCALE
        assert got.shape == low.shape and np.isfinite(got).all(), key
        off = (got < low) | (got > high)
        assert not off.any(), f"{key}: {got[off][:3]}, expected {low[off][:3]} to {high[off][:3]}"
    known = [(low == high).ravel() for low, high in found.values()]
    assert np.concatenate(known).mean() > 0.25, "float32 leaves open what is expected"


@pytest.mark.parametrize("half", HALF_TYPES)
def test_each_reader_in_float32_gives_its_gradient_back_in_half(worker: Worker, half: HalfType) -> None:  # noqa: F811
    """A value in half that two blocks in float32 take: both casts round on the way back, and so does their sum."""
    def wiring(b: Builder) -> Ref:
        x = b.add("linear", b.input("audio"), name="before_0", out=outputs)
        ends = [b.add("scaled_sigmoid", x, name=f"to_{high}", low=0, high=high) for high in (1, 3)]
        return b.add("add", *ends, name="sum of both")

    outputs = 40
    graph = graphs.made(wiring, inputs=(ROW,), task=Task("regression", tuple(f"score {n}" for n in range(outputs))))
    state, batch = state_and_batch(graph, 1)  # a row, or the sum over the rows would hide it
    plan = EpochPlan(0, np.arange(1), 1, np.zeros((1, 1)), GivenMasks({}))
    values = {"dataset": "pom", "loss": "mse", "amp_level": "O1", "amp_dtype": half, "loss_scale": SCALE}
    seen = graphs.Seen(*worker.run("parity_tests.graphs:look", worker.backend, graph, values, state, batch, plan))
    share = 1 / (1 + np.exp(-seen.training["before_0"].astype(np.float64)))
    slope = 2 * SCALE * (seen.training["output"].astype(np.float64) - batch.label) * share * (1 - share)  # (B, O)
    parts = [between(slope * high, 10 * BOUND * np.abs(slope * high), half) for high in (1, 3)]
    low, high = (half_rounded(sum(part[end] for part in parts), half).sum(0) for end in (0, 1))
    got = seen.gradients["before_0.bias"].astype(np.float64) * SCALE
    assert ((half_rounded(low, half) <= got) & (got <= half_rounded(high, half))).all()


def test_every_kind_in_half_has_a_block_here() -> None:
    kinds = {node.kind for wiring, inputs in BLOCKS.values() for node in graphs.made(wiring, inputs=inputs).nodes}
    assert {kind for kind, spec in models.ALL_KINDS.items() if spec.half != "never"} | {DROPOUT} <= kinds
