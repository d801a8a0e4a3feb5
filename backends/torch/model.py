"""The networks in PyTorch: LMF (Liu & Shen et al., ACL 2018, equation 8) and TFN, under the originals' names.

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


class Network(nn.Module):
    """The subnets of the modalities; a subclass fuses what they give into (B, output_dim)."""

    def __init__(self, spec: ModelSpec, place: Place) -> None:
        super().__init__()
        self.shapes = {p.name: p.shape for p in spec.parameters}
        for modality in spec.modalities:
            name, width = f"{modality}_subnet", spec.dims.of(modality)
            out = self.shapes[f"{name}.linear_1.weight"][0]
            self.add_module(name, TextSubNet(name, width, spec.text_hidden, out, place) if modality == "text"
                            else DenseSubNet(name, width, out, place))
        self.subnets = tuple((m, self.get_submodule(f"{m}_subnet")) for m in spec.modalities)

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor], train: bool) -> tuple[Tensor, Layers]:
        """inputs: audio (B, A), video (B, V), text (T, B, D). Returns (B, O) and the named activations."""
        layers: Layers = {}
        hidden = [subnet.forward(inputs[modality], masks.get(f"{modality}_subnet"), layers, train)  # (B, H)
                  for modality, subnet in self.subnets]
        output = layers["output"] = self.fuse(hidden, masks.get("fusion"), layers)
        return output, layers

    def fuse(self, hidden: list[Tensor], mask: Tensor | None, layers: Layers) -> Tensor:
        """One (B, H) per modality -> (B, O)."""
        raise NotImplementedError


class LMF(Network):
    """Low-rank fusion: per rank, the product of what each modality's factor makes of it."""

    def __init__(self, spec: ModelSpec, place: Place) -> None:
        super().__init__(spec, place)
        self.rank, self.output_dim = spec.rank, spec.output_dim
        for modality in spec.modalities:
            rank, width, out = self.shapes[f"{modality}_factor"]
            factor = torch.empty(width, rank * out, **place)  # (1 + H, R O): one matrix product fuses all ranks
            self.register_parameter(f"{modality}_factor", nn.Parameter(factor))
        self.fusion_weights = nn.Parameter(torch.empty(self.shapes["fusion_weights"], **place))  # (1, R)
        self.fusion_bias = nn.Parameter(torch.empty(self.shapes["fusion_bias"], **place))  # (1, O)
        self.factors = tuple(self.get_parameter(f"{m}_factor") for m in spec.modalities)

    def fuse(self, hidden: list[Tensor], mask: Tensor | None, layers: Layers) -> Tensor:
        terms: Tensor | None = None
        for h, factor in zip(hidden, self.factors, strict=True):
            term = with_one(h) @ factor  # (B, 1 + H) -> (B, R O)
            terms = term if terms is None else terms * term
        assert terms is not None  # the schema asks for at least one modality
        layers["fusion"] = terms.view(-1, self.rank, self.output_dim)  # (B, R, O)
        if mask is not None:
            terms = terms * mask
        terms = terms.view(-1, self.rank, self.output_dim)  # (B, R, O)
        return (self.fusion_weights.view(-1, 1) * terms).sum(1) + self.fusion_bias  # (B, R, O) -> (B, O)


class TFN(Network):
    """Tensor fusion (Zadeh et al., EMNLP 2017): the outer product of all modalities, then linear layers with ReLU."""

    def __init__(self, spec: ModelSpec, place: Place) -> None:
        super().__init__(spec, place)
        for key in ("post_fusion_layer_1", "post_fusion_layer_2", "post_fusion_layer_3"):
            if f"{key}.weight" in self.shapes:
                out, width = self.shapes[f"{key}.weight"]
                self.add_module(key, nn.Linear(width, out, **place))
        self.layers = tuple((key, self.get_parameter(f"{key}.weight"), self.get_parameter(f"{key}.bias"))
                            for key, module in self.named_children() if isinstance(module, nn.Linear))

    def fuse(self, hidden: list[Tensor], mask: Tensor | None, layers: Layers) -> Tensor:
        outer = with_one(hidden[0])  # (B, 1 + H)
        for h in hidden[1:]:  # as matrix products: broadcasting takes twice as long, forward and backward
            outer = torch.bmm(outer.unsqueeze(2), with_one(h).unsqueeze(1)).flatten(1)  # (B, P) -> (B, P (1 + H))
        y = layers["fusion"] = outer
        if mask is not None:
            y = y * mask
        *inner, (_, weight, bias) = self.layers
        for name, inner_weight, inner_bias in inner:
            y = layers[name] = torch.relu(F.linear(y, inner_weight, inner_bias))  # (B, K)
        return F.linear(y, weight, bias)  # (B, O)


def with_one(h: Tensor) -> Tensor:
    """(B, H) -> (B, 1 + H), with a one in front."""
    return torch.cat((h.new_ones(h.shape[0], 1), h), 1)


NETWORKS = {"lmf": LMF, "tfn": TFN}


def make_network(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> Network:
    """The network of `spec.model`."""
    return NETWORKS[spec.model](spec, {"device": device, "dtype": dtype})
