"""The kind `scale` in MindSpore, which finds the way back by itself, and what its tools see."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore
from mindspore import Tensor, nn

from backends.mindspore import blocks, model, session
from core.common.arrays import Array
from core.config import make_config
from core.models.graph import Graph
from parity_tests.defaults import Replacements

PROGRAM = "network.mindir"


class Scale(blocks.Differentiated):
    """(T, B, D) times a weight (D,)."""

    def bind(self, tensors: blocks.Tensors) -> None:
        self.weight = tensors["weight"]

    def construct(self, x: Tensor) -> Tensor:
        return x * self.weight


def tools(graph: Graph, values: dict[str, Any]) -> tuple[list[str], str]:
    """What the framework's own tools list and print of a network."""
    network = session.open_session(graph, make_config(values)).network
    return list(network.parameters_dict()), repr(network)


def loaded(path: str) -> Callable[..., Array]:
    """An exported program: its inputs to its output, in NumPy."""
    program = nn.GraphCell(mindspore.load(path))
    return lambda *rows: program(*map(Tensor, rows)).asnumpy()


def scale() -> Replacements:
    return [(table, "scale", Scale) for table in (model.BLOCKS, model.BLOCKS64)]
