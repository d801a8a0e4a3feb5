"""The networks in MindSpore: LMF (Liu & Shen et al., ACL 2018, equation 8) and TFN, under the originals' names.

Forward and backward are written out on operators: in MindSpore's synchronous mode an operator costs about 0.05 ms,
its automatic differentiation several times that. A forward pass keeps in `saved` what the backward pass needs.
"""
from __future__ import annotations

import numpy as np
from mindspore import Tensor, ops

from backends.mindspore.precision import (
    Kernels,
    batch_matmul,
    bias_add,
    bias_grad,
    concat,
    concat_columns,
    matmul,
    matmul_t,
    mul,
    ones,
    relu,
    relu_grad,
    t_matmul,
)
from backends.mindspore.state import Flat, make_parameter
from core.models import ModelSpec

Layers = dict[str, Tensor]
Gradients = dict[str, Tensor]  # by neutral name, flat, in the layout of backends.mindspore.state


class DenseSubNet:
    """Audio or video: BatchNorm, mask, three linear layers with ReLU. (B, A) -> (B, H)."""

    def __init__(self, name: str, tensors: dict[str, Tensor], kernels: Kernels) -> None:
        self.norm = tuple(tensors[f"{name}.norm.{key}"] for key in ("weight", "bias", "running_mean", "running_var"))
        self.linears = tuple((f"{name}.{key}", tensors[f"{name}.{key}.weight"], tensors[f"{name}.{key}.bias"])
                             for key in ("linear_1", "linear_2", "linear_3"))
        self.name, self.kernels = name, kernels

    def forward(self, x: Tensor, mask: Tensor | None, layers: Layers, train: bool) -> Tensor:
        y, normalised = self.kernels.batch_norm(x, *self.norm, train)  # (B, A)
        layers[f"{self.name}.norm"] = y
        if mask is not None:
            y = mul(y, mask)
        passed = [y]
        for name, weight, bias in self.linears:
            y = layers[name] = relu(bias_add(matmul_t(y, weight), bias))  # (B, H)
            passed.append(y)
        self.saved = normalised, mask, passed
        return y

    def backward(self, dy: Tensor, gradients: Gradients) -> None:
        normalised, mask, passed = self.saved
        for place in (2, 1, 0):
            name, weight, _ = self.linears[place]
            dy = relu_grad(dy, passed[place + 1])  # (B, H)
            dy = linear_backward(dy, passed[place], name, weight, gradients)  # (B, A or H)
        if mask is not None:
            dy = mul(dy, mask)
        weight, bias = self.kernels.batch_norm_grad(dy, normalised)
        gradients[f"{self.name}.norm.weight"], gradients[f"{self.name}.norm.bias"] = weight, bias


class TextSubNet:
    """LSTM, mask on its last state, one linear layer. (T, B, D) -> (B, O)."""

    def __init__(self, name: str, tensors: dict[str, Tensor], kernels: Kernels) -> None:
        self.names = tuple(f"{name}.rnn.{key}_l0" for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        self.weights = tuple(tensors[key] for key in self.names)
        self.linear_1 = tensors[f"{name}.linear_1.weight"], tensors[f"{name}.linear_1.bias"]
        self.name, self.kernels = name, kernels

    def forward(self, x: Tensor, mask: Tensor | None, layers: Layers, train: bool) -> Tensor:
        h, states = self.kernels.lstm(x, self.weights)
        layers[f"{self.name}.rnn"] = h  # (B, H), also for B = 1
        if mask is not None:
            h = mul(h, mask)
        weight, bias = self.linear_1
        y = layers[f"{self.name}.linear_1"] = bias_add(matmul_t(h, weight), bias)  # (B, O)
        self.saved = states, mask, h
        return y

    def backward(self, dy: Tensor, gradients: Gradients) -> None:
        states, mask, h = self.saved
        dh = linear_backward(dy, h, f"{self.name}.linear_1", self.linear_1[0], gradients)  # (B, H)
        if mask is not None:
            dh = mul(dh, mask)
        gradients.update(zip(self.names, self.kernels.lstm_grad(dh, states), strict=True))


class Network:
    """The subnets of the modalities; a subclass fuses what they give into (B, output_dim)."""

    def __init__(self, spec: ModelSpec, kernels: Kernels) -> None:
        self.flats = {name: Flat(spec.group(name), kernels.dtype) for name in ("factors", "others", "frozen")
                      if spec.group(name)}
        self.statistics = {p.name: make_parameter(np.zeros(p.shape), kernels.dtype) for p in spec.group("statistics")}
        self.tensors = {**{name: view for flat in self.flats.values() for name, view in flat.views.items()},
                        **self.statistics}
        self.subnets = tuple(
            (m, (TextSubNet if m == "text" else DenseSubNet)(f"{m}_subnet", self.tensors, kernels))
            for m in spec.modalities)

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor], train: bool) -> tuple[Tensor, Layers]:
        """inputs: audio (B, A), video (B, V), text (T, B, D). Returns (B, O) and the named activations."""
        layers: Layers = {}
        hidden = [subnet.forward(inputs[modality], masks.get(f"{modality}_subnet"), layers, train)  # (B, H)
                  for modality, subnet in self.subnets]
        output = layers["output"] = self.fuse(hidden, masks.get("fusion"), layers)
        return output, layers

    def backward(self, dy: Tensor) -> Gradients:
        """Gradients of all parameters, from that of the output (B, O) of the last forward pass."""
        gradients: Gradients = {}
        for (_, subnet), dh in zip(self.subnets, self.fuse_backward(dy, gradients), strict=True):
            subnet.backward(dh, gradients)
        return gradients

    def fuse(self, hidden: list[Tensor], mask: Tensor | None, layers: Layers) -> Tensor:
        """One (B, H) per modality -> (B, O)."""
        raise NotImplementedError

    def fuse_backward(self, dy: Tensor, gradients: Gradients) -> list[Tensor]:
        """(B, O) -> one (B, H) per modality; adds the gradients of the fusion."""
        raise NotImplementedError


class LMF(Network):
    """Low-rank fusion: per rank, the product of what each modality's factor makes of it."""

    def __init__(self, spec: ModelSpec, kernels: Kernels) -> None:
        super().__init__(spec, kernels)
        self.rank, self.output_dim = spec.rank, spec.output_dim
        self.fusion_weights = self.tensors["fusion_weights"]  # (1, R)
        self.fusion_bias = self.tensors["fusion_bias"].view(-1)  # (1, O) -> (O,)
        self.factors = []
        for modality in spec.modalities:
            factor = self.tensors[f"{modality}_factor"]  # (1 + H, O, R)
            factor = factor.view(len(factor), -1)  # (1 + H, O R): its first row meets the constant 1, as a bias does
            self.factors.append((f"{modality}_factor", factor[1:], factor[0]))

    def fuse(self, hidden: list[Tensor], mask: Tensor | None, layers: Layers) -> Tensor:
        terms, products = [], []
        for h, (_, factor, bias) in zip(hidden, self.factors, strict=True):
            term = bias_add(matmul(h, factor), bias)  # (B, H) -> (B, O R)
            terms.append(term)
            products.append(mul(products[-1], term) if products else term)
        fused = layers["fusion"] = products[-1].view(-1, self.output_dim, self.rank)  # (B, O, R)
        if mask is not None:
            fused = mul(fused, mask)
        columns = fused.view(-1, self.rank)  # (B O, R)
        output = matmul_t(columns, self.fusion_weights).view(-1, self.output_dim)  # (B O, 1) -> (B, O)
        self.saved = hidden, terms, products, columns, mask
        return bias_add(output, self.fusion_bias)

    def fuse_backward(self, dy: Tensor, gradients: Gradients) -> list[Tensor]:
        hidden, terms, products, columns, mask = self.saved
        column = dy.view(-1, 1)  # (B O, 1)
        gradients["fusion_weights"], gradients["fusion_bias"] = t_matmul(column, columns).view(-1), bias_grad(dy)
        fused = matmul(column, self.fusion_weights)  # (B O, R)
        if mask is not None:
            fused = mul(fused.view(mask.shape), mask)
        rest = fused.view(-1, self.output_dim * self.rank)  # (B, O R): of the product of the first terms
        slopes = []
        for place in reversed(range(len(terms))):
            name, factor, _ = self.factors[place]
            term = mul(rest, products[place - 1]) if place else rest  # (B, O R)
            rest = mul(rest, terms[place]) if place else rest
            gradients[name] = concat((bias_grad(term), t_matmul(hidden[place], term).view(-1)))
            slopes.append(matmul_t(term, factor))  # (B, H)
        return slopes[::-1]


class TFN(Network):
    """Tensor fusion (Zadeh et al., EMNLP 2017): the outer product of all modalities, then linear layers with ReLU.

    Outer products and their gradients are batched matrix products: seven times as fast as products that broadcast.
    """

    def __init__(self, spec: ModelSpec, kernels: Kernels) -> None:
        super().__init__(spec, kernels)
        self.layers = tuple((key, self.tensors[f"{key}.weight"], self.tensors[f"{key}.bias"])
                            for key in ("post_fusion_layer_1", "post_fusion_layer_2", "post_fusion_layer_3")
                            if f"{key}.weight" in self.tensors)

    def fuse(self, hidden: list[Tensor], mask: Tensor | None, layers: Layers) -> Tensor:
        rows, outer = len(hidden[0]), with_one(hidden[0])  # (B, 1 + H)
        pairs = []
        for h in hidden[1:]:
            pairs.append((outer, with_one(h)))
            left, right = pairs[-1]
            outer = batch_matmul(left.view(rows, -1, 1), right.view(rows, 1, -1)).view(rows, -1)  # (B, P (1 + H))
        y = layers["fusion"] = outer
        if mask is not None:
            y = mul(y, mask)
        passed = [y]
        *inner, (_, weight, bias) = self.layers
        for name, inner_weight, inner_bias in inner:
            y = layers[name] = relu(bias_add(matmul_t(y, inner_weight), inner_bias))  # (B, K)
            passed.append(y)
        self.saved = pairs, mask, passed
        return bias_add(matmul_t(y, weight), bias)  # (B, O)

    def fuse_backward(self, dy: Tensor, gradients: Gradients) -> list[Tensor]:
        pairs, mask, passed = self.saved
        *inner, (name, weight, _) = self.layers
        dy = linear_backward(dy, passed[-1], name, weight, gradients)  # (B, K)
        for place in reversed(range(len(inner))):
            name, weight, _ = inner[place]
            dy = linear_backward(relu_grad(dy, passed[place + 1]), passed[place], name, weight, gradients)
        if mask is not None:
            dy = mul(dy, mask)  # (B, P)
        rows, slopes = len(dy), []
        for left, right in reversed(pairs):
            outer = dy.view(rows, -1, right.shape[1])  # (B, P, 1 + H)
            slopes.append(without_one(batch_matmul(left.view(rows, 1, -1), outer).view(rows, -1)))  # (B, H)
            dy = batch_matmul(outer, right.view(rows, -1, 1)).view(rows, -1)  # (B, P)
        return [without_one(dy), *reversed(slopes)]


def with_one(h: Tensor) -> Tensor:
    """(B, H) -> (B, 1 + H), with a one in front."""
    return concat_columns((ones((len(h), 1), h.dtype), h))


def without_one(dy: Tensor) -> Tensor:
    """The gradient of `with_one`: (B, 1 + H) -> (B, H)."""
    return ops.narrow(dy, 1, 1, dy.shape[1] - 1)


def linear_backward(dy: Tensor, x: Tensor, name: str, weight: Tensor, gradients: Gradients) -> Tensor:
    """(B, O) -> (B, I), the gradient of `x`; adds those of the layer's weight (O, I) and bias."""
    gradients[f"{name}.weight"] = t_matmul(dy, x).view(-1)
    gradients[f"{name}.bias"] = bias_grad(dy)
    return matmul(dy, weight)


NETWORKS = {"lmf": LMF, "tfn": TFN}


def make_network(spec: ModelSpec, kernels: Kernels) -> Network:
    """The network of `spec.model`."""
    return NETWORKS[spec.model](spec, kernels)
