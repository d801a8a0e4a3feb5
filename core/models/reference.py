"""A graph walked in float64 NumPy: what the blocks say of themselves, each number with its size.

Any model has it, whoever wrote it. It is made of the graph, so it shows whether a framework's blocks are right, and not
whether the wiring is: for that a model has a witness of its own (for LMF and TFN, parity/oracle.py).
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from core import models  # its table of kinds is whole once all files of the folder are read, this one among them
from core.common.arrays import Array
from core.common.rounding import Operand, Sized, sized
from core.models.graph import DROPOUT, Graph, Node, Ref
from core.models.walk import execute, local_tensors, steps_of

Block = Callable[[Sequence[Sized], bool], Sized]


class Rows(Protocol):
    """Inputs by name, (B, width) or (B, steps, width), and masks (B, ...) by dropout site: core.training.plan.Batch."""

    @property
    def inputs(self) -> Mapping[str, Array]: ...

    @property
    def masks(self) -> Mapping[str, Array]: ...


def measured(graph: Graph, weights: Mapping[str, Operand], batch: Rows, train: bool = False, doubt: float = 0.0
             ) -> dict[str, Sized]:
    """The activations in the order of `graph.activations`, the last one `output` (B, O), each element with its size.

    With `train`, BatchNorm uses the batch's own statistics and `batch.masks` are multiplied in. doubt: the share of its
    size that rounding may take, for slopes that jump.
    """
    tensors = {name: sized(value) for name, value in weights.items()}
    masks = {name: sized(mask) for name, mask in batch.masks.items()} if train else {}
    found: dict[str, Sized] = {}

    def watch(name: str, ref: Ref, value: Sized) -> None:
        found[name] = value

    steps = steps_of(graph, [_block(node, tensors, doubt) for node in graph.nodes])
    execute(steps, [sized(batch.inputs[name]) for name in graph.input_names], masks, train, watch)
    return found


def _block(node: Node, tensors: Mapping[str, Sized], doubt: float) -> Block:
    if node.kind == DROPOUT:
        return lambda xs, train: xs[0] * xs[1]
    return partial(_forward, node, local_tensors(node, tensors), doubt)


def _forward(node: Node, weights: Mapping[str, Sized], doubt: float, xs: Sequence[Sized], train: bool) -> Sized:
    return models.ALL_KINDS[node.kind].forward64(node, xs, weights, train, doubt)
