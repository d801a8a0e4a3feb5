"""Normalisation in PyTorch: what core/models/blocks.py has in NumPy."""
from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from backends.torch import kernels
from backends.torch.blocks import Block, Tensors
from core.common.constants import LAYERNORM_EPS
from core.models.graph import Node


class BatchNorm(Block):
    """(B, A) -> (B, A). One row has no variance: it is normalised as in evaluation, and the statistics stay."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)
        self.own = tuple(tensors[key] for key in ("weight", "bias", "running_mean", "running_var"))

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return kernels.batch_norm(xs[0], *self.own, train and len(xs[0]) > 1)


class LayerNorm(Block):
    """(B, A) -> (B, A), or (T, B, A) -> (T, B, A): over the last axis."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)
        self.pair = tensors["weight"], tensors["bias"]  # (A,) each

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return F.layer_norm(xs[0], self.pair[0].shape, *self.pair, LAYERNORM_EPS)

    def plain(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        """The same without scale and shift."""
        return F.layer_norm(xs[0], self.pair[0].shape, None, None, LAYERNORM_EPS)


BLOCKS = {"batch_norm": BatchNorm, "layer_norm": LayerNorm}
