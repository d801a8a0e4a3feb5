"""The kind `scale` in PyTorch, and what its tools see."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from backends.torch import blocks, model, session
from core.common.arrays import Array
from core.config import make_config
from core.models.graph import Graph, Node
from parity_tests.defaults import Replacements

PROGRAM = "network.pt2"


class Scale(blocks.Block):
    """(T, B, D) times a weight (D,)."""

    def __init__(self, node: Node, tensors: blocks.Tensors) -> None:
        super().__init__(node)
        self.factor = (tensors["weight"],)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return xs[0] * self.factor[0]


def tools(graph: Graph, values: dict[str, Any]) -> tuple[list[str], str]:
    """What the framework's own tools list and print of a network."""
    network = session.open_session(graph, make_config(values)).network
    return list(network.state_dict()), repr(network)


def loaded(path: str) -> Callable[..., Array]:
    """An exported program: its inputs to its output, in NumPy."""
    program = torch.export.load(path).module()
    return lambda *rows: program(*map(torch.from_numpy, rows)).detach().numpy()


def scale() -> Replacements:
    return [(model.BLOCKS, "scale", Scale)]
