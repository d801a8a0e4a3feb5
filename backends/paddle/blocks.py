"""The general blocks in Paddle: what core/models/blocks.py has in NumPy.

A block is a layer; its parameters are registered in it by the network, under their neutral names. `forward(xs, train)`
works on tensors that were looked up once, because at batch 16 attribute access costs as much as the arithmetic.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import paddle
from paddle import Tensor, nn

from backends.paddle import kernels
from backends.paddle.kernels import Place, ops
from core.models.graph import DROPOUT, Node

Tensors = Mapping[str, Tensor]


class Block(nn.Layer):
    """What every block has: its node, for print(network), and the place of new tensors."""

    def __init__(self, node: Node, tensors: Tensors, place: Place) -> None:
        super().__init__()
        self.node, self.place = node, place
        self.bind(tensors)

    def bind(self, tensors: Tensors) -> None:
        """Look up its own tensors by their last names."""

    def extra_repr(self) -> str:
        return f"{', '.join(f'{key}={value}' for key, value in self.node.options.items())} -> {self.node.output.shape}"


class Linear(Block):
    """(B, I) -> (B, O), or (T, B, I) -> (T, B, O), with ReLU where the node says so. The weight is (I, O)."""

    def bind(self, tensors: Tensors) -> None:
        self.pair = tensors["weight"], tensors["bias"]
        self.relu = self.node.options.get("activation") == "relu"

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        y = kernels.linear(xs[0], self.pair[0], self.pair[1])
        return ops.relu(y) if self.relu else y

    def folded(self, affine: tuple[Tensor, Tensor], xs: Sequence[Tensor], train: bool) -> Tensor:
        """The same behind a LayerNorm of `affine` that left its scale and shift to this block."""
        (weight, bias), (scale, shift) = self.pair, affine  # (I, O), (O,), (I,), (I,)
        scaled = ops.multiply(weight, ops.unsqueeze(scale, [1]))
        y = kernels.linear(xs[0], scaled, kernels.linear(ops.unsqueeze(shift, [0]), weight, bias))
        return ops.relu_(y) if self.relu else y


class LSTM(Block):
    """(T, B, D) -> the last hidden state (B, H), also for B = 1; with `sequence` those of all steps (T, B, H)."""

    def bind(self, tensors: Tensors) -> None:
        self.sequence = self.node.options.get("sequence", False)
        self.weights = [tensors[f"{key}_l0"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        self.hidden = self.node["hidden"]
        self.dropout_state = paddle.zeros([], "uint8")  # the kernel asks for one, and uses none at rate 0

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        states, last = kernels.lstm(xs[0], self.weights, self.dropout_state, self.hidden, train, self.place)
        h: Tensor = states if self.sequence else ops.reshape(last, [-1, self.hidden])  # (1, B, H) -> (B, H)
        return h


class Dropout(Block):
    """A value and its mask, which is never in half."""

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return kernels.wide(xs[0]) * xs[1]


class Concat(Block):
    """(B, A), (B, C), ... -> (B, A + C + ...), or (T, B, A), (T, B, C), ... -> (T, B, A + C + ...)."""

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        y: Tensor = ops.concat(list(xs), -1)
        return y


class Add(Block):
    """Values of one shape -> their sum."""

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        y = xs[0]
        for x in xs[1:]:
            y = ops.add(y, x)
        return y


class ScaledSigmoid(Block):
    """(B, O) -> (B, O) between the node's `low` and `high`."""

    def bind(self, tensors: Tensors) -> None:
        self.low, self.range = self.node["low"], self.node["high"] - self.node["low"]

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return kernels.scaled(ops.sigmoid(xs[0]), self.range, self.low)


BLOCKS = {"linear": Linear, "lstm": LSTM, "concat": Concat, "add": Add, "scaled_sigmoid": ScaledSigmoid,
          DROPOUT: Dropout}
