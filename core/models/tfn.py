"""TFN, Tensor Fusion Network (Zadeh et al., EMNLP 2017): its keys, its block, its wiring."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from core.common.rounding import Sized, with_one
from core.data.specs import DataSpec
from core.models.blocks import nothing
from core.models.graph import OTHERS, BlockSpec, Builder, Node, Ref
from core.models.model import Model
from core.models.subnets import FUSION, SubnetKeys, subnets

Options = Mapping[str, Any]


class TFNKeys(SubnetKeys):
    """What TFN has beyond its subnets."""

    post_fusion_dim: Annotated[int, Field(ge=0, le=65536)] = Field(
        32, description="width of the two ReLU layers after the fusion; 0: none, h = W Z + b (LMF's equation 2)")


def tfn(b: Builder, keys: TFNKeys, data: DataSpec) -> Ref:
    """The outer product of all modalities, each with a one in front, then linear layers with ReLU between.

    The first layer's weight (K, P) is the full fusion tensor, row-major over the modalities; LMF's factors approximate
    it, so it trains at their rate. Without the scaled sigmoid that the original ends in: LMF's paper compares the
    fusion, and its subnets and losses serve both.
    """
    factors = b.group("factors", keys.factor_learning_rate)
    x = b.add("outer_product", *subnets(b, keys, data), name=FUSION)  # (B, H) each -> (B, P)
    x = b.dropout(x, keys.fused_dropout(), FUSION)
    layers = [keys.post_fusion_dim] * 2 if keys.post_fusion_dim else []
    for place, width in enumerate(layers, 1):
        x = b.add("linear", x, name=f"post_fusion_layer_{place}", out=width, activation="relu",
                  group=factors if place == 1 else OTHERS)  # (B, K)
    return b.add("linear", x, name=f"post_fusion_layer_{len(layers) + 1}", out=data.task.outputs,
                 group=OTHERS if layers else factors)  # (B, O)


def _outer_product64(node: Node, xs: Sequence[Sized], weights: Mapping[str, Sized], train: bool,
                     doubt: float) -> Sized:
    outer, rows = with_one(xs[0]), len(xs[0])  # (B, 1 + H)
    for x in xs[1:]:
        outer = (outer.reshape(rows, -1, 1) * with_one(x).reshape(rows, 1, -1)).reshape(rows, -1)
    return outer


MODEL = Model("tfn", "the full outer product (Zadeh et al., 2017)", TFNKeys, tfn, {
    "outer_product": BlockSpec(nothing, lambda refs, options: (math.prod(1 + ref.shape[0] for ref in refs),),
                               _outer_product64, half="O1"),
})
