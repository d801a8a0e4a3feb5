"""Mixed precision, block by block: each is held to its NumPy block in half on what the backend itself gave it.

So no difference is carried from one block to the next, and a rounding can be told: what a block in half gives has to be
the half number next to the exact result, or next to one that float32 arithmetic may have made of it.
"""
from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from core import models
from core.common.arrays import F64, Array
from core.common.half import HalfType, half_rounded
from core.common.rounding import Sized, sized
from core.config import Config
from core.models.graph import DROPOUT, Graph, Node
from core.models.precision import half_parameters, in_half
from core.training.plan import Batch
from parity.oracle import Layers


def between(value: F64, off: F64, kind: HalfType) -> tuple[F64, F64]:
    """The lowest and the highest half number that a result `value`, off by at most `off`, may be rounded to."""
    return half_rounded(value - off, kind), half_rounded(value + off, kind)


def as_layer(low: F64, high: F64, bound: float) -> Sized:
    """Both ends as a number with its size, of which `bound` is allowed: the one in the middle, and exactly the rest."""
    middle, reach = (high + low) / 2, (high - low) / 2
    return Sized(middle, np.asarray(reach / bound))


def blocks_in_half(graph: Graph, config: Config, weights: Mapping[str, Array], batch: Batch,
                   seen: Mapping[str, Array], train: bool, bound: float) -> Layers:
    """What each block should have made of the activations `seen` before it; `bound` of its size is float32's share."""
    names = {ref.index: name for name, ref in graph.activations}
    values: dict[int, Array] = {place: batch.inputs[name] for place, name in enumerate(graph.input_names)}
    found: Layers = {}
    for node in graph.nodes:
        half, place = in_half(node, config.amp_level), node.output.index
        if node.kind == DROPOUT:
            values[place] = _dropped(values[node.inputs[0]], batch if train else None, node,
                                     config.amp_dtype if half else None)
            continue
        taken = partial(half_rounded, kind=config.amp_dtype) if half else np.asarray
        xs = [sized(taken(values[index])) for index in node.inputs]
        own = {node.local(p.name): sized(taken(weights[p.name])) for p in node.parameters}
        y = models.ALL_KINDS[node.kind].forward64(node, xs, own, train, 0.0)
        found[names[place]] = as_layer(*between(y.value, bound * y.size, config.amp_dtype), bound) if half else y
        values[place] = seen[names[place]]
    return found


def _dropped(x: Array, batch: Batch | None, node: Node, kind: HalfType | None) -> Array:
    """The product with the mask, which is float32's own to the bit."""
    mask = None if batch is None else batch.masks.get(node["site"].name)
    if mask is None:
        return x
    if kind is None:
        return np.asarray(x, np.float32) * np.asarray(mask, np.float32)
    return half_rounded(half_rounded(x, kind).astype(np.float32) * np.asarray(mask, np.float32), kind)


def gradients_in_half(graph: Graph, config: Config, gradients: Mapping[str, Array], scale: float) -> Layers:
    """The gradients as numbers of half where their blocks compute in half: themselves, if they are. Before the loss
    scale was divided off, a power of two.
    """
    halves = half_parameters(graph, config.amp_level)
    return {p.name: sized(half_rounded(np.asarray(gradients[p.name], np.float64) * scale, config.amp_dtype) / scale)
            for p in graph.trainable if p.name in halves}
