"""The general kinds of blocks: what each owns, what it gives, and its mathematics in float64 NumPy.

The mathematics is what a backend's block of the same kind is held to. Names of parameters and first values are those of
the torch.nn modules that the originals are made of.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from core.common.constants import BATCHNORM_EPS, LAYERNORM_EPS
from core.common.rounding import Sized, concatenated, relu, sigmoid, sized, sqrt, square, tanh
from core.models.graph import OTHERS, STATISTICS, BlockSpec, Node, ParameterSpec, Ref

Options = Mapping[str, Any]
Weights = Mapping[str, Sized]


def _linear(name: str, refs: Sequence[Ref], options: Options) -> list[ParameterSpec]:
    """torch.nn.Linear: weight (out, in), both uniform in +-1/sqrt(in)."""
    fan_in, bound = refs[0].shape[-1], 1 / math.sqrt(refs[0].shape[-1])
    group = options.get("group", OTHERS)
    return [ParameterSpec(f"{name}.weight", (options["out"], fan_in), "uniform", bound, group, "matrix"),
            ParameterSpec(f"{name}.bias", (options["out"],), "uniform", bound)]


def _linear64(node: Node, xs: Sequence[Sized], weights: Weights, train: bool, doubt: float) -> Sized:
    y = xs[0] @ weights["weight"].T + weights["bias"]  # (..., I) -> (..., O)
    return relu(y, doubt) if node.options.get("activation") == "relu" else y


def _batch_norm(name: str, refs: Sequence[Ref], options: Options) -> list[ParameterSpec]:
    """torch.nn.BatchNorm1d."""
    shape = refs[0].shape
    return [ParameterSpec(f"{name}.weight", shape, "ones", 1.0), ParameterSpec(f"{name}.bias", shape, "zeros", 0.0),
            ParameterSpec(f"{name}.running_mean", shape, "zeros", 0.0, STATISTICS),
            ParameterSpec(f"{name}.running_var", shape, "ones", 1.0, STATISTICS)]


def _batch_norm64(node: Node, xs: Sequence[Sized], weights: Weights, train: bool, doubt: float) -> Sized:
    x, mean, var = xs[0], weights["running_mean"], weights["running_var"]
    if train and len(x) > 1:  # one row has no variance: it is normalised as in evaluation
        mean = x.sum(0) / len(x)
        var = square(x - mean).sum(0) / len(x)
    return (x - mean) / sqrt(var + BATCHNORM_EPS) * weights["weight"] + weights["bias"]  # (B, A)


def _layer_norm(name: str, refs: Sequence[Ref], options: Options) -> list[ParameterSpec]:
    """torch.nn.LayerNorm over the last axis."""
    shape = refs[0].shape[-1:]
    return [ParameterSpec(f"{name}.weight", shape, "ones", 1.0), ParameterSpec(f"{name}.bias", shape, "zeros", 0.0)]


def _layer_norm64(node: Node, xs: Sequence[Sized], weights: Weights, train: bool, doubt: float) -> Sized:
    x, width = xs[0], xs[0].shape[-1]
    ends = (*x.shape[:-1], 1)
    centred = x - x.sum(-1).reshape(*ends) / width  # (..., A)
    var = square(centred).sum(-1).reshape(*ends) / width  # (..., 1); of a row of zeros 0: it becomes the bias
    return centred / sqrt(var + LAYERNORM_EPS) * weights["weight"] + weights["bias"]


def _lstm(name: str, refs: Sequence[Ref], options: Options) -> list[ParameterSpec]:
    """torch.nn.LSTM of one layer: gates i, f, g, o; two biases; all uniform in +-1/sqrt(hidden)."""
    hidden, width = options["hidden"], refs[0].shape[-1]
    shapes = {"weight_ih_l0": (4 * hidden, width), "weight_hh_l0": (4 * hidden, hidden),
              "bias_ih_l0": (4 * hidden,), "bias_hh_l0": (4 * hidden,)}
    return [ParameterSpec(f"{name}.{key}", shape, "uniform", 1 / math.sqrt(hidden)) for key, shape in shapes.items()]


def _lstm64(node: Node, xs: Sequence[Sized], weights: Weights, train: bool, doubt: float) -> Sized:
    x, bias = xs[0], weights["bias_ih_l0"] + weights["bias_hh_l0"]
    width = node["hidden"]
    h = c = sized(np.zeros((len(x), width)))  # (B, H)
    states = []
    for step in range(x.shape[1]):
        gates = x[:, step] @ weights["weight_ih_l0"].T + h @ weights["weight_hh_l0"].T + bias  # (B, 4H)
        i, f, g, o = (gates[:, start:start + width] for start in range(0, 4 * width, width))
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
        states.append(h.reshape(len(x), 1, width))
    return concatenated(states, 1) if node.options.get("sequence") else h


def _lstm_shape(refs: Sequence[Ref], options: Options) -> tuple[int, ...]:
    return (refs[0].shape[0], options["hidden"]) if options.get("sequence") else (options["hidden"],)


def _scaled_sigmoid64(node: Node, xs: Sequence[Sized], weights: Weights, train: bool, doubt: float) -> Sized:
    low, high = float(node["low"]), float(node["high"])
    return sigmoid(xs[0]) * (high - low) + low


def nothing(name: str, refs: Sequence[Ref], options: Options) -> list[ParameterSpec]:
    """Of a kind without parameters."""
    return []


def _concat64(node: Node, xs: Sequence[Sized], weights: Weights, train: bool, doubt: float) -> Sized:
    return concatenated(xs)


KINDS = {
    # (B, I) -> (B, O), of a sequence at every step; activation: `relu` or none
    "linear": BlockSpec(_linear, lambda refs, options: (*refs[0].shape[:-1], options["out"]), _linear64,
                        half="O1"),
    # (B, A) -> (B, A)
    "batch_norm": BlockSpec(_batch_norm, lambda refs, options: refs[0].shape, _batch_norm64, half="never"),
    # (B, A) -> (B, A), of a sequence at every step
    "layer_norm": BlockSpec(_layer_norm, lambda refs, options: refs[0].shape, _layer_norm64, half="never"),
    # (B, T, D) -> the last hidden state (B, H), or with `sequence` those of all steps (B, T, H)
    "lstm": BlockSpec(_lstm, _lstm_shape, _lstm64, half="O1"),
    # (B, A), (B, C), ... -> (B, A + C + ...), of sequences at every step
    "concat": BlockSpec(nothing, lambda refs, options: (*refs[0].shape[:-1], sum(ref.shape[-1] for ref in refs)),
                        _concat64),
    # values of one shape -> their sum
    "add": BlockSpec(nothing, lambda refs, options: refs[0].shape,
                     lambda node, xs, weights, train, doubt: reduce(add, xs)),
    # (B, O) -> (B, O) between `low` and `high`
    "scaled_sigmoid": BlockSpec(nothing, lambda refs, options: refs[0].shape, _scaled_sigmoid64),
}
