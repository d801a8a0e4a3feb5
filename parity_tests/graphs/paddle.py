"""The kind `scale` in Paddle, and what its tools see."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import Tensor

from backends.paddle import blocks, model, session
from core.common.arrays import Array
from core.config import make_config
from core.models.graph import Graph
from parity_tests.defaults import Replacements

PROGRAM = "network.json"


class Scale(blocks.Block):
    """(T, B, D) times a weight (D,)."""

    def bind(self, tensors: blocks.Tensors) -> None:
        self.factor = (tensors["weight"],)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return xs[0] * self.factor[0]


def tools(graph: Graph, values: dict[str, Any]) -> tuple[list[str], str]:
    """What the framework's own tools list and print of a network."""
    network = session.open_session(graph, make_config(values)).network
    return list(network.state_dict()), repr(network)


def loaded(path: str) -> Callable[..., Array]:
    """An exported program: its inputs to its output, in NumPy."""
    program = paddle.jit.load(path.removesuffix(".json"))
    return lambda *rows: program(*map(paddle.to_tensor, rows)).numpy()


def scale() -> Replacements:
    return [(model.BLOCKS, "scale", Scale)]
