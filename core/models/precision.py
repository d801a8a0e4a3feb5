"""Mixed precision as a policy: which blocks compute in half, and where the casts stand. The same in every framework.

    O1  matrix products and LSTMs in half, everything else in float32
    O2  everything in half but normalisation, the loss and Adam, with float32 master weights

A block in half takes its inputs and its parameters rounded to half and gives its output rounded to half; on the way
back it takes the gradient of its output rounded to half, and gives those of its inputs and parameters in half. Blocks
in float32 take and give float32. Casts stand nowhere else. Dropout masks stay float32: the factor of the kept units,
rounded to half, would be off by the same for all of them.

On a device with half kernels, blocks in half compute with these. Where there are none, operands are rounded to half and
back, the block computes in float32 and what it gives is rounded: what a matrix unit does, emulated.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.common.half import HalfType
from core.models.graph import Graph, Node

Level = Literal["O0", "O1", "O2"]


@dataclass(frozen=True)
class Border:
    """How a block stands among the others. half: whether it computes in half.

    crossed: for each input, whether a cast stands before it: always one to half, one to float32 where the value is in
    half. The way back through a cast rounds to half either way.
    """

    half: bool
    crossed: tuple[bool, ...]


def in_half(node: Node, level: Level) -> bool:
    """Whether a block computes in half at a level."""
    return (node.half == "O1" and level != "O0") or (node.half == "O2" and level == "O2")


def borders(graph: Graph, level: Level) -> tuple[Border, ...]:
    """The border of every block, in the order of the nodes."""
    kept = dict.fromkeys(range(len(graph.inputs)), False)  # whether a value is in half
    found = []
    for node in graph.nodes:
        half = in_half(node, level)
        found.append(Border(half, tuple(half or kept[place] for place in node.inputs)))
        kept[node.output.index] = half
    return tuple(found)


def emulated(device: str) -> bool:
    """Whether half is emulated on a device: on every CPU, though some have kernels for some of it, because a result
    may not depend on which CPU it is.
    """
    return device == "cpu"


def half_parameters(graph: Graph, level: Level) -> tuple[str, ...]:
    """The parameters of the blocks in half: a step works on copies of them in half, Adam on those in float32."""
    return tuple(p.name for node in graph.nodes if in_half(node, level) for p in node.parameters)


@dataclass(frozen=True)
class Observed:
    """Where and in what a session computes, as read off its tensors. half: the half type, empty at O0."""

    device: str
    dtype: str
    level: Level = "O0"
    half: HalfType | Literal[""] = ""
    emulated: bool = False

    def __str__(self) -> str:
        """`cpu, float32`, `cuda:0, O1, bfloat16`, `O2, float16, emulated on cpu`."""
        if self.level == "O0":
            return f"{self.device}, {self.dtype}"
        if self.emulated:
            return f"{self.level}, {self.half}, emulated on {self.device}"
        return f"{self.device}, {self.level}, {self.half}"
