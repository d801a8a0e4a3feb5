"""What LMF and TFN fuse with, in PyTorch."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from backends.torch.blocks import Block, Tensors
from core.models.graph import Node


class LowRankFusion(Block):
    """LMF (Liu & Shen et al., ACL 2018, equation 8): per rank, the product of what each modality's factor makes of it.

    (B, H) per modality -> (B, R, O). A factor is (1 + H, R O): one matrix product serves all ranks.
    """

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)
        self.factors = tuple(tensors[name] for name in node["factors"])
        self.shape = -1, node["rank"], node["out"]

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        terms = with_one(xs[0]) @ self.factors[0]  # (B, 1 + H) -> (B, R O)
        for x, factor in zip(xs[1:], self.factors[1:], strict=True):
            terms = terms * (with_one(x) @ factor)
        return terms.view(self.shape)  # (B, R, O)


class RankSum(Block):
    """(B, R, O) -> (B, O): the weighted sum over the ranks, and a bias."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)
        self.pair = tensors[node["weights"]], tensors[node["bias"]]  # (1, R), (1, O)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        weights, bias = self.pair
        return (weights.view(-1, 1) * xs[0]).sum(1) + bias  # (B, R, O) -> (B, O)


class OuterProduct(Block):
    """TFN (Zadeh et al., EMNLP 2017): (B, H) per modality -> their outer product (B, P), each with a one in front."""

    def __init__(self, node: Node, tensors: Tensors) -> None:
        super().__init__(node)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        outer = with_one(xs[0])  # (B, 1 + H)
        for x in xs[1:]:  # as matrix products: broadcasting takes twice as long, forward and backward
            outer = torch.bmm(outer.unsqueeze(2), with_one(x).unsqueeze(1)).flatten(1)  # (B, P) -> (B, P (1 + H))
        return outer


def with_one(h: Tensor) -> Tensor:
    """(B, H) -> (B, 1 + H), with a one in front."""
    return torch.cat((h.new_ones(h.shape[0], 1), h), 1)


BLOCKS = {"low_rank_fusion": LowRankFusion, "rank_sum": RankSum, "outer_product": OuterProduct}
