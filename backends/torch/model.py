"""The network in PyTorch: LMF (Liu & Shen et al., ACL 2018, equation 8), parameters under the original's names.

Modules own the parameters; the forward pass is functional and looks each tensor up once, at construction,
because at batch 16 attribute access and module calls cost as much as the arithmetic.
"""
from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models import BATCHNORM_EPS, BATCHNORM_MOMENTUM, ModelSpec

Layers = dict[str, Tensor]
Place = dict[str, Any]  # device and dtype of new tensors


class DenseSubNet(nn.Module):
    """Audio or video: BatchNorm, mask, three linear layers with ReLU. (B, A) -> (B, H)."""

    def __init__(self, name: str, width: int, hidden: int, place: Place) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, **place)
        self.linear_1 = nn.Linear(width, hidden, **place)
        self.linear_2 = nn.Linear(hidden, hidden, **place)
        self.linear_3 = nn.Linear(hidden, hidden, **place)
        self.statistics = (self.norm.running_mean, self.norm.running_var)
        self.affine = (self.norm.weight, self.norm.bias)
        self.linears = tuple((f"{name}.{key}", linear.weight, linear.bias) for key, linear in
                             (("linear_1", self.linear_1), ("linear_2", self.linear_2), ("linear_3", self.linear_3)))
        self.name = name

    def forward(self, x: Tensor, mask: Tensor | None, layers: Layers, train: bool) -> Tensor:
        # One row has no variance: BatchNorm then works as in evaluation and its statistics stay.
        y = torch.batch_norm(x, *self.affine, *self.statistics, train and len(x) > 1,
                             BATCHNORM_MOMENTUM, BATCHNORM_EPS, False)  # (B, A)
        layers[f"{self.name}.norm"] = y
        if mask is not None:
            y = y * mask
        for name, weight, bias in self.linears:
            y = layers[name] = torch.relu(F.linear(y, weight, bias))  # (B, H)
        return y


class TextSubNet(nn.Module):
    """LSTM, mask on its last state, one linear layer. (T, B, D) -> (B, O)."""

    def __init__(self, name: str, width: int, hidden: int, out: int, place: Place) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, hidden, **place)
        self.linear_1 = nn.Linear(hidden, out, **place)
        self.weights = tuple(self.rnn.parameters())
        self.name = name

    def forward(self, x: Tensor, mask: Tensor | None, layers: Layers, train: bool) -> Tensor:
        zeros = x.new_zeros(1, x.shape[1], self.rnn.hidden_size)  # (1, B, H)
        # nn.LSTM's own kernel without its argument checks; arguments: biases, layers, dropout,
        # train, bidirectional, batch first
        _, last, _ = torch.lstm(x, (zeros, zeros), self.weights, True, 1, 0.0, train, False, False)
        h = layers[f"{self.name}.rnn"] = last[0]  # (1, B, H) -> (B, H), also for B = 1
        if mask is not None:
            h = h * mask
        y = layers[f"{self.name}.linear_1"] = F.linear(h, self.linear_1.weight, self.linear_1.bias)  # (B, O)
        return y


class LMF(nn.Module):
    """Low-rank fusion of one to three modalities into (B, output_dim)."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.rank, self.output_dim = spec.rank, spec.output_dim
        place: Place = {"device": device, "dtype": dtype}
        shapes = {p.name: p.shape for p in spec.parameters}
        for modality in spec.modalities:
            rank, width, out = shapes[f"{modality}_factor"]
            factor = torch.empty(width, rank * out, **place)  # (1 + H, R O): one matrix product fuses all ranks
            self.register_parameter(f"{modality}_factor", nn.Parameter(factor))
        self.fusion_weights = nn.Parameter(torch.empty(shapes["fusion_weights"], **place))  # (1, R)
        self.fusion_bias = nn.Parameter(torch.empty(shapes["fusion_bias"], **place))  # (1, O)
        for modality in spec.modalities:
            name, width = f"{modality}_subnet", spec.dims.of(modality)
            out = shapes[f"{name}.linear_1.weight"][0]
            self.add_module(name, TextSubNet(name, width, spec.text_hidden, out, place) if modality == "text"
                            else DenseSubNet(name, width, out, place))
        self.branches = tuple((m, self.get_submodule(f"{m}_subnet"), self.get_parameter(f"{m}_factor"))
                              for m in spec.modalities)

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor], train: bool) -> tuple[Tensor, Layers]:
        """inputs: audio (B, A), video (B, V), text (T, B, D). Returns (B, O) and the named activations."""
        layers: Layers = {}
        terms: Tensor | None = None
        for modality, subnet, factor in self.branches:
            h = subnet.forward(inputs[modality], masks.get(f"{modality}_subnet"), layers, train)  # (B, H)
            term = torch.cat((h.new_ones(h.shape[0], 1), h), 1) @ factor  # (B, 1 + H) -> (B, R O)
            terms = term if terms is None else terms * term
        assert terms is not None  # the schema asks for at least one modality
        layers["fusion"] = terms.view(-1, self.rank, self.output_dim)  # (B, R, O)
        if "fusion" in masks:
            terms = terms * masks["fusion"]
        terms = terms.view(-1, self.rank, self.output_dim)  # (B, R, O)
        output = (self.fusion_weights.view(-1, 1) * terms).sum(1) + self.fusion_bias  # (B, R, O) -> (B, O)
        layers["output"] = output
        return output, layers
