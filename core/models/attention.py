"""Kinds of blocks for attention over sequences: what each owns, what it gives, and its mathematics in float64 NumPy.

Source: Vaswani et al., Attention is all you need, NeurIPS 2017; semantics and names are torch.nn's, with the
projections of query, key and value apart, as Paddle has them.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache

import numpy as np

from core.common.arrays import F64
from core.common.constants import HIDDEN
from core.common.normals import cos_of_turns
from core.common.rounding import Sized, concatenated, sized, softmax
from core.models.blocks import Options, Weights, nothing
from core.models.graph import BlockSpec, Node, ParameterSpec, Ref

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")
LONGEST_WAVE = Decimal(10000)  # of the positions, in steps over 2 pi


@lru_cache
def sinusoids(steps: int, width: int) -> F64:
    """(T, E): sin(t / 10000^(2i / E)) in column 2i, the cosine of the same in column 2i + 1.

    Powers are decimal and angles in turns, modulo 1, so that all has the same bits on every CPU.
    """
    column = np.arange(width)
    waves = np.array([float(LONGEST_WAVE ** (Decimal(-2 * (place // 2)) / width)) for place in range(width)])
    waves /= 2 * math.pi  # turns a step
    turns = np.arange(steps)[:, None] * waves - 0.25 * (column % 2 == 0)  # sin(x) = cos(x - a quarter of a turn)
    folded = np.round((turns - np.floor(turns)) * 2.0**53) / 2.0**53
    return np.asarray(cos_of_turns(folded), np.float64)


def _positions64(node: Node, xs: Sequence[Sized], weights: Weights, train: bool, doubt: float) -> Sized:
    return xs[0] + sinusoids(*xs[0].shape[1:])  # (B, T, E) + (T, E)


def _real_steps64(node: Node, xs: Sequence[Sized], weights: Weights, train: bool, doubt: float) -> Sized:
    real = (xs[0].value != 0).any(-1)  # (B, T)
    real |= ~real.any(1, keepdims=True)  # where nothing is real all steps count: attention has to see something
    return sized(real.astype(np.float64))


def _attention(name: str, refs: Sequence[Ref], options: Options) -> list[ParameterSpec]:
    """Four torch.nn.Linear: of the query (E, E), of what is attended to (E, D) twice, of what comes out (E, E)."""
    width = refs[0].shape[-1]
    if width % options["heads"]:
        raise ValueError(f"block {name!r}: a width of {width} in {options['heads']} heads; heads must divide it")
    found = []
    for key, ref in zip(PROJECTIONS, (refs[0], refs[1], refs[1], refs[0]), strict=True):
        bound = 1 / math.sqrt(ref.shape[-1])
        found += [ParameterSpec(f"{name}.{key}.weight", (width, ref.shape[-1]), "uniform", bound, layout="matrix"),
                  ParameterSpec(f"{name}.{key}.bias", (width,), "uniform", bound)]
    return found


def _attention64(node: Node, xs: Sequence[Sized], weights: Weights, train: bool, doubt: float) -> Sized:
    query, memory, real = xs  # (B, T, E), (B, S, D), (B, S)
    heads, width = node["heads"], query.shape[-1]

    def projected(x: Sized, key: str) -> Sized:
        return x @ weights[f"{key}.weight"].T + weights[f"{key}.bias"]

    def split(x: Sized, key: str) -> Sized:
        return projected(x, key).reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)  # (B, heads, ., E / heads)

    hidden = (1 - real.value)[:, None, None] * HIDDEN  # (B, 1, 1, S)
    scores = split(query, "q_proj") @ split(memory, "k_proj").T * (1 / math.sqrt(width // heads)) + sized(hidden)
    found = softmax(scores) @ split(memory, "v_proj")  # (B, heads, T, S) @ (B, heads, S, E / heads)
    return projected(found.transpose(0, 2, 1, 3).reshape(*query.shape), "out_proj")


def _mean_steps64(node: Node, xs: Sequence[Sized], weights: Weights, train: bool, doubt: float) -> Sized:
    x, real = xs  # (B, T, E), (B, T)
    summed = (x * real.value[..., None]).sum(1)  # (B, E)
    counts: F64 = real.value.sum(1)[:, None]
    return summed / counts


KINDS = {
    # (B, T, E) -> the same with the sinusoids of its places added
    "positions": BlockSpec(nothing, lambda refs, options: refs[0].shape, _positions64),
    # (B, T, D) -> (B, T): 1 for a step that holds anything but zeros, 0 for padding; in half, small numbers are zeros
    "real_steps": BlockSpec(nothing, lambda refs, options: refs[0].shape[:1], _real_steps64, half="never"),
    # query (B, T, E), what it attends to (B, S, D), its real steps (B, S) -> (B, T, E); `heads` divide E
    "attention": BlockSpec(_attention, lambda refs, options: refs[0].shape, _attention64, half="O1"),
    # sequences (B, T, E), (B, S, E), ... one after the other -> (B, T + S + ..., E)
    "concat_steps": BlockSpec(nothing, lambda refs, options: (sum(ref.shape[0] for ref in refs), refs[0].shape[1]),
                              lambda node, xs, weights, train, doubt: concatenated(xs, 1)),
    # (B, T, E), its real steps (B, T) -> their mean (B, E)
    "mean_steps": BlockSpec(nothing, lambda refs, options: refs[0].shape[1:], _mean_steps64),
}
