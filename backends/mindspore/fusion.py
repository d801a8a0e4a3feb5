"""What LMF and TFN fuse with, in MindSpore, forward and back."""
from __future__ import annotations

from collections.abc import Sequence

from mindspore import Tensor, ops

from backends.mindspore.blocks import Back, Block, Saved, Tensors
from backends.mindspore.kernels import (
    batch_matmul,
    bias_add,
    bias_grad,
    concat,
    concat_columns,
    matmul,
    matmul_t,
    mul,
    ones,
    t_matmul,
)


class LowRankFusion(Block):
    """LMF (Liu & Shen et al., ACL 2018, equation 8): per rank, the product of what each modality's factor makes of it.

    (B, H) per modality -> (B, O, R). A factor is (1 + H, O, R): its first row meets the constant 1, as a bias does, and
    the sum over the rank, which comes last, is one matrix product.
    """

    def bind(self, tensors: Tensors) -> None:
        self.names = self.node["factors"]
        flat = [tensors[name].view(len(tensors[name]), -1) for name in self.names]  # (1 + H, O R)
        self.factors, self.biases = tuple(factor[1:] for factor in flat), tuple(factor[0] for factor in flat)
        self.shape = -1, self.node["out"], self.node["rank"]

    def construct(self, *hidden: Tensor) -> Tensor:
        terms = bias_add(matmul(hidden[0], self.factors[0]), self.biases[0])  # (B, H) -> (B, O R)
        for place in range(1, len(hidden)):
            terms = mul(terms, bias_add(matmul(hidden[place], self.factors[place]), self.biases[place]))
        return terms.view(self.shape)  # (B, O, R)

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        terms, products = [], []
        for h, factor, bias in zip(xs, self.factors, self.biases, strict=True):
            term = bias_add(matmul(h, factor), bias)  # (B, H) -> (B, O R)
            terms.append(term)
            products.append(mul(products[-1], term) if products else term)
        return products[-1].view(self.shape), (xs, terms, products)  # (B, O, R)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        hidden, terms, products = saved
        rest = dy.view(dy.shape[0], -1)  # (B, O R): of the product of the first terms
        slopes: list[Tensor | None] = [None] * len(terms)
        found = {}
        for place in reversed(range(len(terms))):
            term = mul(rest, products[place - 1]) if place else rest  # (B, O R)
            rest = mul(rest, terms[place]) if place else rest
            found[self.names[place]] = concat((bias_grad(term), t_matmul(hidden[place], term).view(-1)))
            if needs[place]:
                slopes[place] = matmul_t(term, self.factors[place])  # (B, H)
        return slopes, found


class RankSum(Block):
    """(B, O, R) -> (B, O): the weighted sum over the ranks, and a bias."""

    def bind(self, tensors: Tensors) -> None:
        self.names = self.node["weights"], self.node["bias"]
        self.keep(weights=tensors[self.names[0]], bias=tensors[self.names[1]].view(-1))  # (1, R), (1, O) -> (O,)
        self.rank, self.out = self.weights.shape[1], len(self.bias)

    def construct(self, terms: Tensor) -> Tensor:
        return self.summed(terms.view(-1, self.rank))

    def summed(self, columns: Tensor) -> Tensor:
        """(B O, R) -> (B, O)."""
        return bias_add(matmul_t(columns, self.weights).view(-1, self.out), self.bias)

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        columns = xs[0].view(-1, self.rank)
        return self.summed(columns), columns

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        column = dy.view(-1, 1)  # (B O, 1)
        slopes = t_matmul(column, saved).view(-1), bias_grad(dy)
        found = dict(zip(self.names, slopes, strict=True))
        return [matmul(column, self.weights).view(-1, self.out, self.rank) if needs[0] else None], found  # (B, O, R)


class OuterProduct(Block):
    """TFN (Zadeh et al., EMNLP 2017): (B, H) per modality -> their outer product (B, P), each with a one in front.

    Products and their gradients are batched matrix products: seven times as fast as products that broadcast.
    """

    def construct(self, *hidden: Tensor) -> Tensor:
        outer = concat_columns((ops.ones_like(hidden[0][:, :1]), hidden[0]))  # (B, 1 + H)
        for h in hidden[1:]:
            one = concat_columns((ops.ones_like(h[:, :1]), h))
            outer = (outer.expand_dims(2) * one.expand_dims(1)).flatten(start_dim=1)  # (B, P) -> (B, P (1 + H))
        return outer

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        rows, outer = len(xs[0]), with_one(xs[0])  # (B, 1 + H)
        pairs = []
        for h in xs[1:]:
            pairs.append((outer, with_one(h)))
            left, right = pairs[-1]
            outer = batch_matmul(left.view(rows, -1, 1), right.view(rows, 1, -1)).view(rows, -1)  # (B, P (1 + H))
        return outer, pairs

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> Back:
        rows, slopes = len(dy), []
        for left, right in reversed(saved):
            outer = dy.view(rows, -1, right.shape[1])  # (B, P, 1 + H)
            slopes.append(without_one(batch_matmul(left.view(rows, 1, -1), outer).view(rows, -1)))  # (B, H)
            dy = batch_matmul(outer, right.view(rows, -1, 1)).view(rows, -1)  # (B, P)
        return [without_one(dy), *reversed(slopes)], {}


def with_one(h: Tensor) -> Tensor:
    """(B, H) -> (B, 1 + H), with a one in front."""
    return concat_columns((ones((len(h), 1), h.dtype), h))


def without_one(dy: Tensor) -> Tensor:
    """The gradient of `with_one`: (B, 1 + H) -> (B, H)."""
    return ops.narrow(dy, 1, 1, dy.shape[1] - 1)


BLOCKS = {"low_rank_fusion": LowRankFusion, "rank_sum": RankSum, "outer_product": OuterProduct}
