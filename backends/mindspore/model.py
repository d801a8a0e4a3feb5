"""The network in MindSpore: LMF (Liu & Shen et al., ACL 2018, equation 8), parameters under the original's names.

Forward and backward are written out on operators: in MindSpore's synchronous mode an operator costs about 0.05 ms,
its automatic differentiation several times that. A forward pass keeps in `saved` what the backward pass needs.
"""
from __future__ import annotations

import numpy as np
from mindspore import Tensor

from backends.mindspore.precision import (
    Kernels,
    bias_add,
    bias_grad,
    concat,
    matmul,
    matmul_t,
    mul,
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
            gradients[f"{name}.weight"] = t_matmul(dy, passed[place]).view(-1)  # (H, A or H)
            gradients[f"{name}.bias"] = bias_grad(dy)
            dy = matmul(dy, weight)  # (B, A or H)
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
        gradients[f"{self.name}.linear_1.weight"] = t_matmul(dy, h).view(-1)  # (O, H)
        gradients[f"{self.name}.linear_1.bias"] = bias_grad(dy)
        dh = matmul(dy, self.linear_1[0])  # (B, H)
        if mask is not None:
            dh = mul(dh, mask)
        gradients.update(zip(self.names, self.kernels.lstm_grad(dh, states), strict=True))


class LMF:
    """Low-rank fusion of one to three modalities into (B, output_dim)."""

    def __init__(self, spec: ModelSpec, kernels: Kernels) -> None:
        self.rank, self.output_dim = spec.rank, spec.output_dim
        self.flats = {"factors": Flat(spec.group("factors"), kernels.dtype),
                      "others": Flat(spec.group("others"), kernels.dtype)}
        self.statistics = {p.name: make_parameter(np.zeros(p.shape), kernels.dtype) for p in spec.group("statistics")}
        self.tensors = {**self.flats["factors"].views, **self.flats["others"].views, **self.statistics}
        self.fusion_weights = self.tensors["fusion_weights"]  # (1, R)
        self.fusion_bias = self.tensors["fusion_bias"].view(-1)  # (1, O) -> (O,)
        self.branches = []
        for modality in spec.modalities:
            name, factor = f"{modality}_subnet", self.tensors[f"{modality}_factor"]  # (1 + H, O, R)
            factor = factor.view(len(factor), -1)  # (1 + H, O R): its first row meets the constant 1, as a bias does
            subnet = (TextSubNet if modality == "text" else DenseSubNet)(name, self.tensors, kernels)
            self.branches.append((modality, subnet, factor[1:], factor[0]))

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor], train: bool) -> tuple[Tensor, Layers]:
        """inputs: audio (B, A), video (B, V), text (T, B, D). Returns (B, O) and the named activations."""
        layers: Layers = {}
        hidden, terms, products = [], [], []
        for modality, subnet, factor, bias in self.branches:
            h = subnet.forward(inputs[modality], masks.get(f"{modality}_subnet"), layers, train)  # (B, H)
            term = bias_add(matmul(h, factor), bias)  # (B, H) -> (B, O R)
            hidden.append(h)
            terms.append(term)
            products.append(mul(products[-1], term) if products else term)
        fused = layers["fusion"] = products[-1].view(-1, self.output_dim, self.rank)  # (B, O, R)
        if "fusion" in masks:
            fused = mul(fused, masks["fusion"])
        columns = fused.view(-1, self.rank)  # (B O, R)
        output = matmul_t(columns, self.fusion_weights).view(-1, self.output_dim)  # (B O, 1) -> (B, O)
        output = layers["output"] = bias_add(output, self.fusion_bias)
        self.saved = hidden, terms, products, columns, masks.get("fusion")
        return output, layers

    def backward(self, dy: Tensor) -> Gradients:
        """Gradients of all parameters, from that of the output (B, O) of the last forward pass."""
        hidden, terms, products, columns, mask = self.saved
        column = dy.view(-1, 1)  # (B O, 1)
        gradients = {"fusion_weights": t_matmul(column, columns).view(-1), "fusion_bias": bias_grad(dy)}
        fused = matmul(column, self.fusion_weights)  # (B O, R)
        if mask is not None:
            fused = mul(fused.view(mask.shape), mask)
        rest = fused.view(-1, self.output_dim * self.rank)  # (B, O R): of the product of the first terms
        for place in reversed(range(len(terms))):
            modality, subnet, factor, _ = self.branches[place]
            term = mul(rest, products[place - 1]) if place else rest  # (B, O R)
            rest = mul(rest, terms[place]) if place else rest
            gradients[f"{modality}_factor"] = concat((bias_grad(term), t_matmul(hidden[place], term).view(-1)))
            subnet.backward(matmul_t(term, factor), gradients)
        return gradients
