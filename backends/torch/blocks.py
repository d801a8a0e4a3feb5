"""The general blocks in PyTorch: what core/models/blocks.py has in NumPy.

A block is a module; its parameters are registered in it by the network, under their neutral names. `forward(xs, train)`
works on tensors that were looked up once, because at batch 16 attribute access costs as much as the arithmetic.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends.torch import kernels
from core.models.graph import DROPOUT, Node

Tensors = Mapping[str, Tensor]


class Block(nn.Module):
    """What every block has: its node, for print(network)."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.node = node

    def extra_repr(self) -> str:
        return f"{', '.join(f'{key}={value}' for key, value in self.node.options.items())} -> {self.node.output.shape}"


class Linear(Block):
    """(B, I) -> (B, O), or (T, B, I) -> (T, B, O), with ReLU where the node says so."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)
        self.pair = tensors["weight"], tensors["bias"]
        self.relu = node.options.get("activation") == "relu"

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        y = F.linear(xs[0], *self.pair)
        return torch.relu_(y) if self.relu else y

    def folded(self, affine: tuple[Tensor, Tensor], xs: Sequence[Tensor], train: bool) -> Tensor:
        """The same behind a LayerNorm of `affine` that left its scale and shift to this block."""
        (weight, bias), (scale, shift) = self.pair, affine  # (O, I), (O,), (I,), (I,)
        y = F.linear(xs[0], weight * scale, torch.addmv(bias, weight, shift))
        return torch.relu_(y) if self.relu else y


class LSTM(Block):
    """(T, B, D) -> the last hidden state (B, H), also for B = 1; with `sequence` those of all steps (T, B, H)."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)
        self.sequence = node.options.get("sequence", False)
        self.weights = tuple(tensors[f"{key}_l0"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        states, last = kernels.lstm(xs[0], self.weights, train)
        return states if self.sequence else last[0]  # (1, B, H) -> (B, H)


class Dropout(Block):
    """A value and its mask."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return xs[0] * xs[1]


class Concat(Block):
    """(B, A), (B, C), ... -> (B, A + C + ...), or (T, B, A), (T, B, C), ... -> (T, B, A + C + ...)."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return torch.cat(tuple(xs), -1)


class Add(Block):
    """Values of one shape -> their sum."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        y = xs[0]
        for x in xs[1:]:
            y = y + x
        return y


class ScaledSigmoid(Block):
    """(B, O) -> (B, O) between the node's `low` and `high`."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)
        self.low, self.range = node["low"], node["high"] - node["low"]

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return torch.sigmoid(xs[0]) * self.range + self.low


BLOCKS = {"linear": Linear, "lstm": LSTM, "concat": Concat, "add": Add, "scaled_sigmoid": ScaledSigmoid,
          DROPOUT: Dropout}
