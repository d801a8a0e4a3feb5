"""Small graphs that no model is, with what LMF and TFN never use: inputs of BatchNorm and LSTM that need a gradient,
values that several blocks take, dropout on a sequence, a linear layer and an LSTM right on an input.

Each framework's file adds the kind `scale`, which none of them has: something trained before an LSTM; and tells what
its own tools see of a network.
"""
from __future__ import annotations

from collections.abc import Callable
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
INPUTS = (InputSpec("audio", (5,)), InputSpec("text", (4, 3), "sequence"))
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


def made(wiring: Wiring, *frozen: str, inputs: tuple[InputSpec, ...] = INPUTS, task: Task = SCORES) -> Graph:
    """The graph of a wiring."""
    used = tuple(one for one in inputs if (one.name == "text") == (wiring is sequence))
    builder = Builder({**models.ALL_KINDS, "scale": SCALE}, DataSpec("small", used, task), [Group(OTHERS, 0.001, 0.0)])
    return builder.graph("small", wiring(builder), frozen)


def look(backend: str, graph: Graph, values: dict[str, Any], state: State, batch: Batch, plan: EpochPlan) -> Seen:
    """Within a worker: a session of `graph`, its layers, loss and gradients, and an epoch on the batch's rows."""
    session = open_session(backend, graph, make_config(values))
    session.load_state(state)
    session.load_data("train", {**batch.inputs, "label": batch.label})
    return Seen(session.forward(batch, False), session.forward(batch, True), *session.gradients(batch),
                session.train_epoch(plan).losses)
