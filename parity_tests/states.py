"""States that rungs are climbed from: the initial one, and those in which a mistake shows that it hides."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np

from core.models.graph import Graph
from core.training.state import State, initial_state

SEED = 3


def initial(graph: Graph, precision: str) -> State:
    """Before the first step."""
    return initial_state(graph, SEED, precision)


def anything(graph: Graph, precision: str) -> State:
    """No two numbers alike, every counter set."""
    draw = np.random.default_rng(1)
    weights = {p.name: draw.uniform(0.5, 2, p.shape).astype(precision) for p in graph.parameters}
    moments = [{p.name: draw.uniform(0, 1, p.shape).astype(precision) for p in graph.trainable} for _ in range(2)]
    return State(weights, moments[0], moments[1], step=7, loss_scale=1.0, good_steps=3)


def little_variance(graph: Graph, precision: str) -> State:
    """Running variances of 0 to .08, as published IEMOCAP checkpoints have them: there eps shows, and its dtype.

    In training a single row uses them too; initially they are 0 and 1, and its normalised values nearly its own.
    """
    before = initial(graph, precision)
    weights = dict(before.weights)
    for p in graph.group("statistics"):
        values = np.linspace(0, 0.08, p.shape[0]) if p.name.endswith("var") else np.full(p.shape, 0.1)
        weights[p.name] = values.astype(precision)
    return State(weights, before.exp_avg, before.exp_avg_sq)


def after_nine_steps(graph: Graph, precision: str, scale: float = 1.0) -> State:
    """Moments of size `scale`, and other corrections than those of the first step."""
    draw = np.random.default_rng(2)
    exp_avg = {p.name: (scale * draw.normal(size=p.shape)).astype(precision) for p in graph.trainable}
    exp_avg_sq = {p.name: (scale * scale * draw.uniform(0.5, 1, p.shape)).astype(precision) for p in graph.trainable}
    return State(initial(graph, precision).weights, exp_avg, exp_avg_sq, step=9)


def small_moments(graph: Graph, precision: str) -> State:
    """The same with moments of 1e-6."""
    return after_nine_steps(graph, precision, 1e-6)


def tiny_weights(graph: Graph, precision: str) -> State:
    """Weights of 1e-6 have gradients of about 1e-8, mostly from the decay: eps decides the step, and its place."""
    draw, before = np.random.default_rng(2), initial(graph, precision)
    tiny = {p.name: (1e-6 * draw.normal(size=p.shape)).astype(precision) for p in graph.trainable}
    return State({**before.weights, **tiny}, before.exp_avg, before.exp_avg_sq)


STATES: dict[str, Callable[[Graph, str], State]] = {
    "initial": initial, "anything": anything, "little variance": little_variance,
    "after nine steps": after_nine_steps, "small moments": small_moments, "tiny weights": tiny_weights,
}
