"""Small graphs that no model is, with what no model uses: inputs of BatchNorm and LSTM that need a gradient, values
that several blocks take, dropout on a sequence, blocks right on an input, sequences of different length and width.

Each framework's file adds the kind `scale`, which none of them has: something trained before an LSTM; tells what its
own tools see of a network; and loads what was exported.
"""
from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core import models
from core.common.arrays import Array
from core.config import make_config
from core.data.specs import DataSpec, InputSpec, Task
from core.models.graph import OTHERS, BlockSpec, Builder, Graph, Group, ParameterSpec, Ref
from core.runtime.backend import open_session
from core.training.plan import Batch, EpochPlan
from core.training.state import State

SCALE = BlockSpec(  # (B, T, D) times a weight (D,)
    lambda name, refs, options: [ParameterSpec(f"{name}.weight", refs[0].shape[-1:], "uniform", 1.0)],
    lambda refs, options: refs[0].shape, lambda node, xs, weights, train, doubt: xs[0] * weights["weight"], "sequence")
AUDIO, TEXT = InputSpec("audio", (5,)), InputSpec("text", (4, 3), "sequence")
LONGER = InputSpec("audio", (6, 5), "sequence")
SCORES = Task("regression", ("a", "b", "c"))
Wiring = Callable[[Builder], Ref]


class Seen(NamedTuple):
    """What a session makes of a batch, and the losses of an epoch (steps,)."""

    evaluation: dict[str, Array]
    training: dict[str, Array]
    loss: float
    gradients: dict[str, Array]
    epoch: Array


def rows(b: Builder) -> Ref:
    """`first` and `norm` go into two blocks each."""
    x = b.input("audio")
    first = b.add("linear", x, name="first", out=6)  # (B, 6)
    norm = b.add("batch_norm", first, name="norm")
    bent = b.add("linear", b.dropout(norm, 0.3, "norm"), name="bent", out=4, activation="relu")  # (B, 4)
    joined = b.add("concat", bent, x, first, norm, name="joined")  # (B, 21)
    return b.add("linear", joined, name="last", out=3)


def sequence(b: Builder) -> Ref:
    """One LSTM on what is trained, one on the input itself."""
    x = b.input("text")
    scaled = b.dropout(b.add("scale", x, name="scaled"), 0.3, "scaled")  # (B, T, D)
    joined = b.add("concat", b.add("lstm", scaled, name="deep", hidden=4), b.add("lstm", x, name="plain", hidden=2),
                   b.add("lstm", scaled, name="other", hidden=3), name="joined")  # (B, 9)
    return b.add("linear", joined, name="last", out=3)


def alone(b: Builder) -> Ref:
    """A linear layer."""
    return b.add("linear", b.input("audio"), name="last", out=3)


def normed(b: Builder) -> Ref:
    """LayerNorm on an input, and on what is trained, which several blocks take; a range for the output."""
    x = b.input("audio")
    plain = b.add("layer_norm", x, name="plain")
    bent = b.add("linear", plain, name="bent", out=5, activation="relu")
    total = b.add("add", bent, x, bent, plain, name="total")  # (B, 5)
    norm = b.add("layer_norm", b.dropout(total, 0.3, "total"), name="norm")
    last = b.add("linear", b.add("add", norm, total, name="both"), name="last", out=3)
    return b.add("scaled_sigmoid", last, name="scores", low=-3, high=2)


def states(b: Builder) -> Ref:
    """The states of all steps go into an LSTM that gives its last one, and into others; one LSTM is on the input."""
    x = b.input("text")
    plain = b.add("lstm", x, name="plain", hidden=4, sequence=True)  # (B, T, 4)
    bent = b.add("linear", b.add("layer_norm", x, name="first"), name="bent", out=6, activation="relu")  # (B, T, 6)
    deep = b.add("lstm", b.dropout(bent, 0.3, "bent"), name="deep", hidden=4, sequence=True)
    total = b.dropout(b.add("add", plain, deep, deep, name="total"), 0.3, "total")
    joined = b.add("concat", deep, x, bent, b.add("layer_norm", total, name="norm"), name="joined")  # (B, T, 17)
    ends = [b.add("lstm", one, name=name, hidden=3) for name, one in (("one", deep), ("other", joined), ("raw", x))]
    return b.add("linear", b.add("concat", *ends, name="ends"), name="last", out=3)


def attending(b: Builder) -> Ref:
    """Attention to a sequence of another length and width: query, memory, both or neither need a gradient."""
    x, other = b.input("text"), b.input("audio")  # (B, T, 3), (B, S, 5)
    query, memory = b.add("linear", x, name="query", out=4), b.add("scale", other, name="memory")
    real, kept = b.add("real_steps", other, name="real"), b.add("real_steps", memory, name="kept")
    places = b.add("positions", b.dropout(query, 0.3, "query"), name="places")  # (B, T, 4)
    found = [b.add("attention", *xs, name=name, heads=heads) for name, heads, *xs in (
        ("both", 2, places, memory, kept), ("asks", 4, query, other, real), ("tells", 3, x, memory, kept),
        ("neither", 1, x, other, real))]
    wide, narrow = (b.add("concat_steps", *pair, name=name)  # (B, 2 T, .)
                    for name, pair in (("wide", found[:2]), ("narrow", found[2:])))
    steps = b.add("real_steps", x, name="heard")
    twice = b.add("concat", steps, steps, name="twice")  # (B, 2 T)
    seen = b.add("attention", wide, wide, twice, name="seen", heads=2)
    means = [b.add("mean_steps", one, which, name=f"{name}_mean") for name, one, which in (
        ("seen", seen, twice), ("narrow", narrow, twice), ("memory", memory, kept), ("input", other, real))]
    return b.add("linear", b.add("concat", *means, name="means"), name="last", out=3)


TAKEN: dict[Wiring, tuple[InputSpec, ...]] = {rows: (AUDIO,), alone: (AUDIO,), normed: (AUDIO,), sequence: (TEXT,),
                                              states: (TEXT,), attending: (LONGER, TEXT)}


def made(wiring: Wiring, *frozen: str, inputs: tuple[InputSpec, ...] = (), task: Task = SCORES) -> Graph:
    """The graph of a wiring, on inputs of its own if none are given."""
    data = DataSpec("small", inputs or TAKEN[wiring], task)
    builder = Builder({**models.ALL_KINDS, "scale": SCALE}, data, [Group(OTHERS, 0.001, 0.0)])
    return builder.graph("small", wiring(builder), frozen)


def look(backend: str, graph: Graph, values: dict[str, Any], state: State, batch: Batch, plan: EpochPlan) -> Seen:
    """Within a worker: a session of `graph`, its layers, loss and gradients, and an epoch on the batch's rows."""
    session = open_session(backend, graph, make_config(values))
    session.load_state(state)
    session.load_data("train", {**batch.inputs, "label": batch.label})
    return Seen(session.forward(batch, False), session.forward(batch, True), *session.gradients(batch),
                session.train_epoch(plan).losses)


def exported(backend: str, graph: Graph, values: dict[str, Any], state: State, batches: Sequence[Batch],
             folder: str) -> tuple[list[Array], list[Array]]:
    """Within a worker: the outputs of batches by a session of `graph`, and by its exported program, loaded again."""
    session = open_session(backend, graph, make_config(values))
    session.load_state(state)
    own = importlib.import_module(f"{__name__}.{backend}")
    session.export(Path(folder) / own.PROGRAM, own.PROGRAM.rpartition(".")[2])
    call = own.loaded(f"{folder}/{own.PROGRAM}")
    rows = [[batch.inputs[name] for name in graph.input_names] for batch in batches]
    return [session.forward(batch, False)["output"] for batch in batches], [call(*one) for one in rows]
