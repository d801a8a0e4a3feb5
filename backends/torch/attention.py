"""Attention over sequences in PyTorch: what core/models/attention.py has in NumPy."""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.torch.blocks import Block, Tensors
from core.common.constants import HIDDEN
from core.models.attention import PROJECTIONS, sinusoids
from core.models.graph import Node


class Positions(Block):
    """(T, B, E) -> (T, B, E), with the sinusoids of its places added."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)
        steps, width = node.output.shape
        self.register_buffer("table", torch.from_numpy(sinusoids(steps, width)).unsqueeze(1), persistent=False)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return xs[0] + self.table  # (T, B, E) + (T, 1, E); in half, a sum in float32 that leaves rounded


class RealSteps(Block):
    """(T, B, D) -> (B, T): 1 for a step that holds anything but zeros; all of a row that holds nothing else."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        real = (xs[0] != 0).any(2).t()  # (B, T)
        return (real | ~real.any(1, keepdim=True)).to(xs[0].dtype)


class Attention(Block):
    """Query (T, B, E), what it attends to (S, B, D), its real steps (B, S) -> (T, B, E)."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)
        self.heads = node["heads"]
        self.query, self.key, self.value, self.out = (
            (tensors[f"{key}.weight"], tensors[f"{key}.bias"]) for key in PROJECTIONS)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        query, memory, real = xs
        hidden = ((1 - real) * HIDDEN)[:, None, None]  # (B, 1, 1, S)
        q, k, v = (self.split(F.linear(x, *pair)) for x, pair in
                   ((query, self.query), (memory, self.key), (memory, self.value)))
        y = F.scaled_dot_product_attention(q, k, v, hidden)  # (B, heads, T, E / heads)
        return F.linear(y.permute(2, 0, 1, 3).reshape(query.shape), *self.out)

    def split(self, x: Tensor) -> Tensor:
        """(T, B, E) -> (B, heads, T, E / heads)."""
        return x.unflatten(2, (self.heads, -1)).permute(1, 2, 0, 3)


class ConcatSteps(Block):
    """(T, B, E), (S, B, E), ... -> (T + S + ..., B, E)."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return torch.cat(tuple(xs), 0)


class MeanSteps(Block):
    """(T, B, E), its real steps (B, T) -> their mean (B, E)."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        x, real = xs
        return (x * real.t().unsqueeze(2)).sum(0) / real.sum(1, keepdim=True)  # (T, B, E) * (T, B, 1) -> (B, E)


BLOCKS = {"positions": Positions, "real_steps": RealSteps, "attention": Attention, "concat_steps": ConcatSteps,
          "mean_steps": MeanSteps}
