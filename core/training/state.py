"""The state of a run in neutral names and layouts: a run begun in one framework resumes in another."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from core.common.arrays import Array
from core.common.constants import BATCHNORM_EPS
from core.common.errors import UserError
from core.models.graph import Graph
from core.training.randomness import initial_weights


@dataclass(frozen=True)
class State:
    """Weights with BatchNorm statistics, Adam's moments and step count, and the loss scaler's counters."""

    weights: Mapping[str, Array]
    exp_avg: Mapping[str, Array] = field(default_factory=dict)
    exp_avg_sq: Mapping[str, Array] = field(default_factory=dict)
    step: int = 0
    loss_scale: float = 1.0
    good_steps: int = 0


def initial_state(graph: Graph, seed: int, dtype: str, loss_scale: float = 1.0) -> State:
    """The state before the first step: drawn weights, moments of zero."""
    weights = initial_weights(graph, seed, dtype)
    zeros = {p.name: np.zeros(p.shape, dtype) for p in graph.trainable}
    return State(weights, zeros, {name: value.copy() for name, value in zeros.items()}, 0, loss_scale)


def check_weights(graph: Graph, weights: Mapping[str, Array], origin: str) -> None:
    """Refuse weights that aren't exactly those of `graph`. Raises UserError naming the tensors."""
    problems = _misfits({p.name: p.shape for p in graph.parameters}, weights)
    if problems:
        raise UserError(f"{origin}: does not fit the configured model: {'; '.join(problems)}; "
                        "use the configuration that the checkpoint was made with")


def check_state(graph: Graph, state: State, dtype: str, origin: str) -> None:
    """Refuse a state that no run of `graph` in `dtype` can have: other tensors, dtypes, NaN, negative variances.

    Moments may be absent, but then all of them. Raises UserError naming `origin` and the tensors.
    """
    check_weights(graph, state.weights, origin)
    problems = []
    for kind, moments in (("exp_avg", state.exp_avg), ("exp_avg_sq", state.exp_avg_sq)):
        if state.exp_avg or state.exp_avg_sq:
            problems += [f"{kind}/{said}" for said in _misfits({p.name: p.shape for p in graph.trainable}, moments)]
    problems += [f"{kind}/{name} is {value.dtype}, expected {dtype}" for kind, tensors in _kinds(state).items()
                 for name, value in tensors.items() if value.dtype != dtype]
    problems = problems or bad_numbers(state)
    if problems:
        raise UserError(f"{origin}: {_some(problems)}; it is damaged or of another program, use another checkpoint")


def bad_numbers(state: State) -> list[str]:
    """What is wrong with the values of a state, a line per tensor: with these every output would be NaN or wrong."""
    found = []
    for kind, tensors in _kinds(state).items():
        for name, value in tensors.items():
            said = name if kind == "weights" else f"{kind}/{name}"
            if count := int((~np.isfinite(value)).sum()):
                found.append(f"{said} has {count} values that are NaN or inf")
            elif name.endswith("running_var") and (count := int((value.astype(np.float64) <= -BATCHNORM_EPS).sum())):
                found.append(f"{said} has {count} negative variances")
            elif kind == "exp_avg_sq" and (count := int(np.less(value, 0).sum())):
                found.append(f"{said} has {count} negative values")
    return found


def _kinds(state: State) -> dict[str, Mapping[str, Array]]:
    return {"weights": state.weights, "exp_avg": state.exp_avg, "exp_avg_sq": state.exp_avg_sq}


def _misfits(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Array]) -> list[str]:
    """What sets tensors apart from those of the expected names and shapes."""
    wrong = [f"{name} is {found[name].shape}, expected {shape}" for name, shape in expected.items()
             if name in found and found[name].shape != shape]
    return [*wrong, *(f"{name} is missing" for name in sorted(expected.keys() - found.keys())),
            *(f"{name} is not part of this model" for name in sorted(found.keys() - expected.keys()))]


def _some(problems: list[str]) -> str:
    return "; ".join(problems[:6]) + (f" and {len(problems) - 6} more" if len(problems) > 6 else "")
