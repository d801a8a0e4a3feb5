"""LMF, Low-rank Multimodal Fusion (Liu & Shen et al., ACL 2018): its keys, its two blocks, its wiring."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import mul
from typing import Any

from pydantic import Field

from core.common.keys import Width, searched
from core.common.rounding import Sized, with_one
from core.data.specs import DataSpec
from core.models.graph import BlockSpec, Builder, Node, ParameterSpec, Ref
from core.models.model import Model
from core.models.subnets import FUSION, SubnetKeys, subnets

Options = Mapping[str, Any]


class LMFKeys(SubnetKeys):
    """What LMF has beyond its subnets."""

    rank: Width = Field(4, description="number of rank-1 terms of the fusion tensor",
                        json_schema_extra=searched(1, 4, 8, 16))


def lmf(b: Builder, keys: LMFKeys, data: DataSpec) -> Ref:
    """h = (sum over the ranks of w_r times the product over modalities m of [1; z_m] . factor_m,r) + b, equation 8."""
    outputs = data.task.outputs
    factors = b.group("factors", keys.factor_learning_rate)
    hidden = subnets(b, keys, data)  # (B, H) each
    terms = b.add("low_rank_fusion", *hidden, name=FUSION, rank=keys.rank, out=outputs, group=factors,
                  factors=tuple(f"{name}_factor" for name in data.names))  # (B, R, O)
    terms = b.dropout(terms, keys.fused_dropout(), FUSION)
    return b.add("rank_sum", terms, name="rank_sum", weights="fusion_weights", bias="fusion_bias")  # (B, O)


def _factors(name: str, refs: Sequence[Ref], options: Options) -> list[ParameterSpec]:
    """A factor (R, 1 + H, O) per modality, drawn as torch's xavier_normal_ has it: fan_in 1 + H, fan_out R, times O."""
    rank, out = options["rank"], options["out"]
    return [ParameterSpec(factor, (rank, 1 + ref.shape[0], out), "normal",
                          math.sqrt(2 / ((rank + 1 + ref.shape[0]) * out)), options["group"], "factor")
            for factor, ref in zip(options["factors"], refs, strict=True)]


def _low_rank_fusion64(node: Node, xs: Sequence[Sized], weights: Mapping[str, Sized], train: bool,
                       doubt: float) -> Sized:
    terms = []
    for x, factor in zip(xs, node["factors"], strict=True):
        rank, width, out = weights[factor].shape
        flat = weights[factor].transpose(1, 0, 2).reshape(width, -1)  # (1 + H, R O)
        terms.append((with_one(x) @ flat).reshape(-1, rank, out))  # (B, R, O)
    return reduce(mul, terms)


def _sum_weights(name: str, refs: Sequence[Ref], options: Options) -> list[ParameterSpec]:
    rank, out = refs[0].shape
    return [ParameterSpec(options["weights"], (1, rank), "normal", math.sqrt(2 / (1 + rank))),
            ParameterSpec(options["bias"], (1, out), "zeros", 0.0)]


def _rank_sum64(node: Node, xs: Sequence[Sized], weights: Mapping[str, Sized], train: bool, doubt: float) -> Sized:
    return (xs[0] * weights[node["weights"]].T).sum(1) + weights[node["bias"]]  # (B, R, O) * (R, 1) -> (B, O)


MODEL = Model("lmf", "low-rank fusion (Liu & Shen et al., 2018)", LMFKeys, lmf, {
    "low_rank_fusion": BlockSpec(_factors, lambda refs, options: (options["rank"], options["out"]),
                                 _low_rank_fusion64, "terms", half="O1"),
    "rank_sum": BlockSpec(_sum_weights, lambda refs, options: (refs[0].shape[1],), _rank_sum64, half="O1"),
})
