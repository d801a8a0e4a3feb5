"""The state of a run in neutral names and layouts: a run begun in one framework resumes in another."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from core.errors import UserError
from core.models import ModelSpec
from core.randomness import Array, initial_weights


@dataclass(frozen=True)
class State:
    """Weights with BatchNorm statistics, Adam's moments and step count, and the loss scaler's counters."""

    weights: Mapping[str, Array]
    exp_avg: Mapping[str, Array] = field(default_factory=dict)
    exp_avg_sq: Mapping[str, Array] = field(default_factory=dict)
    step: int = 0
    loss_scale: float = 1.0
    good_steps: int = 0


def initial_state(spec: ModelSpec, seed: int, dtype: str, loss_scale: float = 1.0) -> State:
    """The state before the first step: drawn weights, moments of zero."""
    weights = initial_weights(spec, seed, dtype)
    zeros = {p.name: np.zeros(p.shape, dtype) for p in spec.trainable}
    return State(weights, zeros, {name: value.copy() for name, value in zeros.items()}, 0, loss_scale)


def check_weights(spec: ModelSpec, weights: Mapping[str, Array], origin: str) -> None:
    """Refuse weights that aren't exactly those of `spec`. Raises UserError naming the tensors."""
    expected = {p.name: p.shape for p in spec.parameters}
    missing = sorted(expected.keys() - weights.keys())
    extra = sorted(weights.keys() - expected.keys())
    wrong = [f"{name} is {weights[name].shape}, expected {shape}" for name, shape in expected.items()
             if name in weights and weights[name].shape != shape]
    problems = [*wrong, *(f"{name} is missing" for name in missing),
                *(f"{name} is not part of this model" for name in extra)]
    if problems:
        raise UserError(f"{origin}: does not fit the configured model: {'; '.join(problems)}; "
                        "use the configuration that the checkpoint was made with")


def check_moments(spec: ModelSpec, state: State, origin: str) -> None:
    """Refuse a state whose moments of Adam aren't those of `spec`. Raises UserError naming a tensor."""
    for kind, moments in (("exp_avg", state.exp_avg), ("exp_avg_sq", state.exp_avg_sq)):
        for p in spec.trainable:
            if p.name not in moments or moments[p.name].shape != p.shape:
                found = moments[p.name].shape if p.name in moments else "missing"
                raise UserError(f"{origin}: {kind} of {p.name} is {found}, expected {p.shape}; a run goes on from its "
                                "own last.safetensors, put it back or start a new run")
