"""The float64 reference that every backend is held to: NumPy only, and the full fusion tensor for both models.

The paper's equations 6 and 7 differ from equation 8 and the released code for rank > 1. What is
computed here is W = sum_r w_r (a_r x v_r x t_r), contracted with the full outer product
z_a x z_v x z_t (equations 1, 2 and 8): the thing that the low-rank form must equal. TFN has that W itself
as a parameter; the contraction is the same function.
"""
from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from core.models import BATCHNORM_EPS, ModelSpec
from core.plan import Batch
from core.randomness import Array

F64 = npt.NDArray[np.float64]
AXES = "uvwxyz"  # one letter per modality in einsum


def forward(spec: ModelSpec, weights: Mapping[str, Array], batch: Batch, train: bool = False) -> dict[str, F64]:
    """Named activations in float64, in the order of computation; the last one is `output` (B, O).

    With `train`, BatchNorm uses the batch's own statistics and `batch.masks` are multiplied in.
    A batch of one row has no variance: BatchNorm then uses its running statistics, as in evaluation.
    """
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    masks = {name: np.asarray(value, np.float64) for name, value in batch.masks.items()} if train else {}
    layers: dict[str, F64] = {}
    hidden = []
    for modality in spec.modalities:
        x = np.asarray(batch.inputs[modality], np.float64)
        subnet = _text if modality == "text" else _dense
        hidden.append(subnet(f"{modality}_subnet", x, w, masks, layers, train))
    if spec.model == "tfn":
        _post_fusion(w, hidden, masks, layers)
        return layers
    layers["fusion"] = _rank_terms(spec, w, hidden)
    if "fusion" in masks:
        layers["output"] = _rank_sum(w, layers["fusion"] * masks["fusion"].reshape(layers["fusion"].shape))
    else:
        layers["output"] = _full_tensor(spec, w, hidden)
    return layers


def _dense(name: str, x: F64, w: dict[str, F64], masks: dict[str, F64], layers: dict[str, F64], train: bool) -> F64:
    mean, var = w[f"{name}.norm.running_mean"], w[f"{name}.norm.running_var"]
    if train and len(x) > 1:
        mean, var = x.mean(0), x.var(0)
    y = (x - mean) / np.sqrt(var + BATCHNORM_EPS) * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]  # (B, A)
    layers[f"{name}.norm"] = y
    y = y * masks.get(name, np.float64(1))
    for layer in ("linear_1", "linear_2", "linear_3"):
        y = np.maximum(y @ w[f"{name}.{layer}.weight"].T + w[f"{name}.{layer}.bias"], 0)  # (B, H)
        layers[f"{name}.{layer}"] = y
    return np.asarray(y)


def _text(name: str, x: F64, w: dict[str, F64], masks: dict[str, F64], layers: dict[str, F64], train: bool) -> F64:
    w_ih, w_hh = w[f"{name}.rnn.weight_ih_l0"], w[f"{name}.rnn.weight_hh_l0"]
    bias = w[f"{name}.rnn.bias_ih_l0"] + w[f"{name}.rnn.bias_hh_l0"]
    h: F64 = np.zeros((len(x), w_hh.shape[1]))  # (B, H)
    c = h
    for step in range(x.shape[1]):
        i, f, g, o = np.split(x[:, step] @ w_ih.T + h @ w_hh.T + bias, 4, axis=1)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = np.asarray(_sigmoid(o) * np.tanh(c))
    layers[f"{name}.rnn"] = h
    y = (h * masks.get(name, np.float64(1))) @ w[f"{name}.linear_1.weight"].T + w[f"{name}.linear_1.bias"]
    layers[f"{name}.linear_1"] = y
    return np.asarray(y)


def _sigmoid(x: F64) -> F64:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))  # the form that can't overflow


def _with_one(x: F64) -> F64:
    return np.concatenate([np.ones((len(x), 1)), x], axis=1)  # (B, H) -> (B, 1 + H)


def _rank_terms(spec: ModelSpec, w: dict[str, F64], hidden: list[F64]) -> F64:
    """Product over modalities of z_m . factor_m: (B, R, O)."""
    terms = [np.einsum("bd,rdo->bro", _with_one(h), w[f"{m}_factor"])
             for m, h in zip(spec.modalities, hidden, strict=True)]
    return np.asarray(np.prod(terms, axis=0))


def _rank_sum(w: dict[str, F64], terms: F64) -> F64:
    return np.asarray(np.einsum("r,bro->bo", w["fusion_weights"][0], terms) + w["fusion_bias"])


def _full_tensor(spec: ModelSpec, w: dict[str, F64], hidden: list[F64]) -> F64:
    """Build W from LMF's factors and contract it with the outer product: (B, O)."""
    axes = AXES[:len(hidden)]
    factors = [w[f"{m}_factor"] for m in spec.modalities]
    tensor = np.einsum(f"r,{','.join('r' + a + 'o' for a in axes)}->{axes}o", w["fusion_weights"][0], *factors)
    return np.asarray(_contract(_outer(hidden), tensor) + w["fusion_bias"])


def _post_fusion(w: dict[str, F64], hidden: list[F64], masks: dict[str, F64], layers: dict[str, F64]) -> None:
    """TFN: W is the weight of the first layer; what follows are linear layers with ReLU between."""
    outer = _outer(hidden)  # (B, 1 + A, 1 + V, 1 + T)
    layers["fusion"] = outer.reshape(len(outer), -1)
    if "fusion" in masks:
        outer = outer * masks["fusion"].reshape(outer.shape)
    names = [f"post_fusion_layer_{place}" for place in (1, 2, 3) if f"post_fusion_layer_{place}.weight" in w]
    weight = w[f"{names[0]}.weight"]  # (K, P)
    y = _contract(outer, weight.T.reshape(*outer.shape[1:], -1)) + w[f"{names[0]}.bias"]  # (B, K)
    for name, after in pairwise(names):
        y = layers[name] = np.maximum(y, 0)
        y = y @ w[f"{after}.weight"].T + w[f"{after}.bias"]
    layers["output"] = np.asarray(y)


def _outer(hidden: list[F64]) -> F64:
    """z_a x z_v x z_t, each (B, 1 + H) with a one in front: (B, 1 + A, 1 + V, 1 + T)."""
    axes = AXES[:len(hidden)]
    return np.asarray(np.einsum(f"{','.join('b' + a for a in axes)}->b{axes}", *map(_with_one, hidden)))


def _contract(outer: F64, tensor: F64) -> F64:
    """W . Z over every modality's axis: (B, ...) with (..., O) -> (B, O)."""
    axes = AXES[:outer.ndim - 1]
    return np.asarray(np.einsum(f"b{axes},{axes}o->bo", outer, tensor))
