"""What LMF and TFN fuse with, in Paddle."""
from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor

from backends.paddle import kernels
from backends.paddle.blocks import Block, Tensors
from backends.paddle.kernels import Place, ops


class LowRankFusion(Block):
    """LMF (Liu & Shen et al., ACL 2018, equation 8): per rank, the product of what each modality's factor makes of it.

    (B, H) per modality -> (B, R, O). A factor is (1 + H, R O): one matrix product serves all ranks.
    """

    def bind(self, tensors: Tensors) -> None:
        self.factors = [tensors[name] for name in self.node["factors"]]
        self.shape = [-1, self.node["rank"], self.node["out"]]

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        terms = with_one(xs[0], self.place) @ self.factors[0]  # (B, 1 + H) -> (B, R O)
        for place in range(1, len(xs)):
            terms = terms * (with_one(xs[place], self.place) @ self.factors[place])
        y: Tensor = ops.reshape(terms, self.shape)  # (B, R, O)
        return y


class RankSum(Block):
    """(B, R, O) -> (B, O): the weighted sum over the ranks, and a bias."""

    def bind(self, tensors: Tensors) -> None:
        self.pair = tensors[self.node["weights"]], tensors[self.node["bias"]]  # (1, R), (1, O)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        weighted = ops.reshape(self.pair[0], [-1, 1]) * xs[0]  # (R, 1) * (B, R, O)
        y: Tensor = ops.add(kernels.total(weighted, [1]), self.pair[1])  # (B, R, O) -> (B, O)
        return y


class OuterProduct(Block):
    """TFN (Zadeh et al., EMNLP 2017): (B, H) per modality -> their outer product (B, P), each with a one in front."""

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        outer = with_one(xs[0], self.place)  # (B, 1 + H)
        for x in xs[1:]:
            # a matrix product of column and row: the backward pass of a broadcast `*` takes twice the time
            one = ops.unsqueeze(with_one(x, self.place), [1])  # (B, 1, 1 + H)
            outer = ops.flatten(ops.bmm(ops.unsqueeze(outer, [2]), one), 1, 2)  # (B, P) -> (B, P (1 + H))
        return outer


def with_one(h: Tensor, place: Place) -> Tensor:
    """(B, H) -> (B, 1 + H), with a one in front. Not by `pad`: exported, it writes out of bounds at another batch."""
    y: Tensor = ops.concat([kernels.filled(h, [-1, 1], 1.0, place), h], 1)
    return y


BLOCKS = {"low_rank_fusion": LowRankFusion, "rank_sum": RankSum, "outer_product": OuterProduct}
