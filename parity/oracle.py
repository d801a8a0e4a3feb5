"""The float64 reference that every backend is held to: NumPy only, and the full fusion tensor for both models.

The paper's equations 6 and 7 differ from equation 8 and the released code for rank > 1. What is
computed here is W = sum_r w_r (a_r x v_r x t_r), contracted with the full outer product
z_a x z_v x z_t (equations 1, 2 and 8): the thing that the low-rank form must equal. TFN has that W itself
as a parameter; the contraction is the same function.

Beside every number stands its size, what rounding can have done to it (core.common.rounding): that of the
low-rank form, in which backends compute.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from operator import mul

import numpy as np

from core.common.arrays import F64, Array
from core.common.constants import BATCHNORM_EPS
from core.common.rounding import Operand, Sized, relu, sigmoid, sized, sqrt, square, tanh, with_one
from core.models.graph import Graph
from core.training.plan import Batch

MODELS = ("lmf", "tfn")  # that it knows
AXES = "uvwxyz"  # one letter per input in einsum
Layers = dict[str, Sized]
Weights = Mapping[str, Sized]
Masks = Mapping[str, F64]


def forward(graph: Graph, weights: Mapping[str, Array], batch: Batch, train: bool = False) -> dict[str, F64]:
    """Named activations in float64, in the order of computation; the last one is `output` (B, O).

    With `train`, BatchNorm uses the batch's own statistics and `batch.masks` are multiplied in.
    A batch of one row has no variance: BatchNorm then uses its running statistics, as in evaluation.
    """
    return {name: layer.value for name, layer in measured(graph, weights, batch, train).items()}


def measured(graph: Graph, weights: Mapping[str, Operand], batch: Batch, train: bool = False,
             doubt: float = 0.0) -> Layers:
    """The same, each element with its size. `doubt`: the share of it that rounding may take, for ReLU's gradient."""
    w = {name: sized(value) for name, value in weights.items()}
    masks = {name: np.asarray(value, np.float64) for name, value in batch.masks.items()} if train else {}
    layers: Layers = {}
    hidden = []
    for one in graph.inputs:
        x = sized(batch.inputs[one.name])
        name = f"{one.name}_subnet"
        hidden.append(_sequence(name, x, w, masks, layers) if one.layout == "sequence" else
                      _dense(name, x, w, masks, layers, train, doubt))
    if graph.model == "tfn":
        _post_fusion(w, hidden, masks, layers, doubt)
        return layers
    terms = layers["fusion"] = _rank_terms(graph, w, hidden)
    if "fusion" in masks:
        layers["output"] = _rank_sum(w, terms * masks["fusion"].reshape(terms.shape))
    else:
        full = _full_tensor(graph, {name: value.value for name, value in w.items()}, [h.value for h in hidden])
        layers["output"] = replace(_rank_sum(w, terms), value=full)
    return layers


def _dense(name: str, x: Sized, w: Weights, masks: Masks, layers: Layers, train: bool, doubt: float) -> Sized:
    mean, var = w[f"{name}.norm.running_mean"], w[f"{name}.norm.running_var"]
    if train and len(x) > 1:
        mean, squares = moments(x)
        var = squares / len(x)
    y = (x - mean) / sqrt(var + BATCHNORM_EPS) * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]  # (B, A)
    layers[f"{name}.norm"] = y
    if name in masks:
        y = y * masks[name]
    for layer in ("linear_1", "linear_2", "linear_3"):
        y = relu(y @ w[f"{name}.{layer}.weight"].T + w[f"{name}.{layer}.bias"], doubt)  # (B, H)
        layers[f"{name}.{layer}"] = y
    return y


def moments(x: Sized) -> tuple[Sized, Sized]:
    """Mean of a batch, and the sum of squares around it: (B, A) -> (A,) each."""
    mean = x.sum(0) / len(x)
    return mean, square(x - mean).sum(0)


def _sequence(name: str, x: Sized, w: Weights, masks: Masks, layers: Layers) -> Sized:
    w_ih, w_hh = w[f"{name}.rnn.weight_ih_l0"], w[f"{name}.rnn.weight_hh_l0"]
    bias = w[f"{name}.rnn.bias_ih_l0"] + w[f"{name}.rnn.bias_hh_l0"]
    width = w_hh.shape[1]
    h = c = sized(np.zeros((len(x), width)))  # (B, H)
    for step in range(x.shape[1]):
        gates = x[:, step] @ w_ih.T + h @ w_hh.T + bias  # (B, 4H)
        i, f, g, o = (gates[:, start:start + width] for start in range(0, 4 * width, width))
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(c)
    layers[f"{name}.rnn"] = h
    if name in masks:
        h = h * masks[name]
    y = layers[f"{name}.linear_1"] = h @ w[f"{name}.linear_1.weight"].T + w[f"{name}.linear_1.bias"]
    return y


def _with_one(x: F64) -> F64:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)  # (B, H) -> (B, 1 + H)


def _rank_terms(graph: Graph, w: Weights, hidden: list[Sized]) -> Sized:
    """Product over modalities of z_m . factor_m: (B, R, O)."""
    terms = []
    for modality, h in zip(graph.input_names, hidden, strict=True):
        rank, width, out = w[f"{modality}_factor"].shape
        flat = w[f"{modality}_factor"].transpose(1, 0, 2).reshape(width, -1)  # (1 + H, R O)
        terms.append((with_one(h) @ flat).reshape(-1, rank, out))
    return reduce(mul, terms)


def _rank_sum(w: Weights, terms: Sized) -> Sized:
    return (terms * w["fusion_weights"].T).sum(1) + w["fusion_bias"]  # (B, R, O) * (R, 1) -> (B, O)


def _full_tensor(graph: Graph, w: dict[str, F64], hidden: list[F64]) -> F64:
    """Build W from LMF's factors and contract it with the outer product: (B, O)."""
    axes = AXES[:len(hidden)]
    factors = [w[f"{m}_factor"] for m in graph.input_names]
    tensor = np.einsum(f"r,{','.join('r' + a + 'o' for a in axes)}->{axes}o", w["fusion_weights"][0], *factors)
    return np.asarray(_contract(_outer(hidden), tensor) + w["fusion_bias"])


def _post_fusion(w: Weights, hidden: list[Sized], masks: Masks, layers: Layers, doubt: float) -> None:
    """TFN: W is the weight of the first layer; what follows are linear layers with ReLU between."""
    outer, rows = with_one(hidden[0]), len(hidden[0])
    for h in hidden[1:]:
        outer = (outer.reshape(rows, -1, 1) * with_one(h).reshape(rows, 1, -1)).reshape(rows, -1)
    layers["fusion"] = outer  # (B, P), the outer product row by row
    if "fusion" in masks:
        outer = outer * masks["fusion"]
    names = [f"post_fusion_layer_{place}" for place in (1, 2, 3) if f"post_fusion_layer_{place}.weight" in w]
    weight, widths = w[f"{names[0]}.weight"], [1 + h.shape[1] for h in hidden]  # (K, P)
    contracted = _contract(outer.value.reshape(-1, *widths), weight.value.T.reshape(*widths, -1))  # (B, K)
    y = replace(outer @ weight.T, value=contracted) + w[f"{names[0]}.bias"]
    for name, after in pairwise(names):
        y = layers[name] = relu(y, doubt)
        y = y @ w[f"{after}.weight"].T + w[f"{after}.bias"]
    layers["output"] = y


def _outer(hidden: list[F64]) -> F64:
    """z_a x z_v x z_t, each (B, 1 + H) with a one in front: (B, 1 + A, 1 + V, 1 + T)."""
    axes = AXES[:len(hidden)]
    return np.asarray(np.einsum(f"{','.join('b' + a for a in axes)}->b{axes}", *map(_with_one, hidden)))


def _contract(outer: F64, tensor: F64) -> F64:
    """W . Z over every modality's axis: (B, ...) with (..., O) -> (B, O)."""
    axes = AXES[:outer.ndim - 1]
    return np.asarray(np.einsum(f"b{axes},{axes}o->bo", outer, tensor))
