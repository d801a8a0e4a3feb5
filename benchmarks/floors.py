"""The floor of a training step in each framework: its own layers at the same shapes, forward and backward, alone.

For LMF that is the LSTM layer of the text. A sequence model consists of such layers: its floor is all of them, LSTMs by
the framework's kernel, which is the fastest call that it has for them, attention by its encoder layer.
"""
from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from core.common.arrays import Array
from core.models.graph import Graph, Node

STEPS, WIDTH = 20, 300  # of the text that LMF reads
Run = Callable[[], object]


class Floor(NamedTuple):
    """What it consists of, in words, and one step of it."""

    title: str
    run: Run


@dataclass(frozen=True)
class Kernel:
    """An LSTM, (T, B, D) -> all states (T, B, H), or where `last` the last one (1, B, H)."""

    steps: int
    batch: int
    width: int
    hidden: int
    last: bool

    def drawn(self) -> list[Array]:
        """x, the slope of what comes out, a state of zeros, both weights and biases, as they are first drawn."""
        draw, bound, gates = np.random.default_rng(0), 1 / math.sqrt(self.hidden), 4 * self.hidden
        found = [draw.normal(size=(self.steps, self.batch, self.width)),
                 draw.normal(size=(1 if self.last else self.steps, self.batch, self.hidden)),
                 np.zeros((1, self.batch, self.hidden)),
                 *(draw.uniform(-bound, bound, shape) for shape in (
                     (gates, self.width), (gates, self.hidden), (gates,), (gates,)))]
        return [array.astype(np.float32) for array in found]


@dataclass(frozen=True)
class Encoder:
    """A post-norm layer of the Transformer encoder, (T, B, E) -> (T, B, E), without dropout and masks."""

    steps: int
    batch: int
    width: int
    heads: int
    inner: int


def floor_of(backend: str, graph: Graph, batch: int) -> Floor:
    """Of a sequence model all its LSTMs and encoder layers, of others one LSTM layer as wide as the graph's."""
    shapes: dict[int, tuple[int, ...]] = {place: one.shape for place, one in enumerate(graph.inputs)}
    shapes.update((node.output.index, node.output.shape) for node in graph.nodes)
    named = {node.name: node for node in graph.nodes}
    lstms = [node for node in graph.nodes if node.kind == "lstm"]
    if not any(node.options.get("sequence") or node.kind == "attention" for node in graph.nodes):
        return Floor("1 x LSTM layer", LAYERS[backend](batch, lstms[0]["hidden"]))
    encoders = [node for node in graph.nodes if node.kind == "attention"]
    runs = [KERNELS[backend](Kernel(shapes[node.inputs[0]][0], batch, shapes[node.inputs[0]][1], node["hidden"],
                                    not node.options.get("sequence"))) for node in lstms]
    runs += [ENCODERS[backend](_encoder(node, named, batch)) for node in encoders]
    parts = {"TransformerEncoderLayer": len(encoders), "LSTM kernel": len(lstms)}
    title = " + ".join(f"{number} x {part}" for part, number in parts.items() if number)
    return Floor(title, lambda: [run() for run in runs])


def _encoder(node: Node, named: Mapping[str, Node], batch: int) -> Encoder:
    """The encoder layer that an attention block belongs to."""
    inner = named[f"{node.name.removesuffix('.self_attn')}.linear1"]["out"]
    steps, width = node.output.shape
    return Encoder(steps, batch, width, node["heads"], inner)


def torch_layer(batch: int, hidden: int) -> Run:
    torch = importlib.import_module("torch")
    layer = torch.nn.LSTM(WIDTH, hidden, batch_first=True)
    x = torch.randn(batch, STEPS, WIDTH)

    def run() -> object:
        layer.zero_grad()
        _, (last, _) = layer(x)
        last.sum().backward()
        return layer.weight_ih_l0.grad[0, 0]

    return run


def paddle_layer(batch: int, hidden: int) -> Run:
    paddle = importlib.import_module("paddle")
    layer = paddle.nn.LSTM(WIDTH, hidden)
    x = paddle.randn([batch, STEPS, WIDTH])

    def run() -> object:
        _, (last, _) = layer(x)
        last.sum().backward()
        layer.clear_gradients()
        return last

    return run


def mindspore_layer(batch: int, hidden: int) -> Run:
    """In the mode that the backend trains in, which is the fastest that was found for this layer too."""
    mindspore = importlib.import_module("mindspore")
    layer = mindspore.nn.LSTM(WIDTH, hidden, batch_first=True)
    x = mindspore.Tensor(np.random.default_rng(0).normal(size=(batch, STEPS, WIDTH)).astype(np.float32))
    backward = mindspore.value_and_grad(lambda inputs: layer(inputs)[1][0].sum(), None, layer.trainable_params())

    def run() -> object:
        value, gradients = backward(x)
        return gradients[0].asnumpy(), value

    return run


def torch_kernel(kernel: Kernel) -> Run:
    torch = importlib.import_module("torch")
    x, slope, zeros, *weights = map(torch.from_numpy, kernel.drawn())
    asked = [tensor.requires_grad_() for tensor in (x, *weights)]

    def run() -> object:
        states, last, _ = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, True, False, False)
        return torch.autograd.grad(last if kernel.last else states, asked, slope)

    return run


def paddle_kernel(kernel: Kernel) -> Run:
    """The positions of the kernel's arguments are those in backends/paddle/kernels.py."""
    paddle = importlib.import_module("paddle")
    x, slope, zeros, *weights = map(paddle.to_tensor, kernel.drawn())
    asked = [x, *weights]
    for tensor in asked:
        tensor.stop_gradient = False
    unused = paddle.zeros([], "uint8")

    def run() -> object:
        states, _, (last, _) = paddle._C_ops.rnn(x, [zeros, zeros], weights, None, unused, 0.0, False, kernel.width,
                                                 kernel.hidden, 1, "LSTM", 0, False)
        return paddle.grad([last if kernel.last else states], asked, [slope])

    return run


def mindspore_kernel(kernel: Kernel) -> Run:
    """The operator and its gradient one after the other: automatic differentiation of the operator takes longer."""
    mindspore = importlib.import_module("mindspore")
    gradients = importlib.import_module("mindspore.ops.operations._grad_ops")
    options = (kernel.width, kernel.hidden, 1, True, False, 0.0)  # layers, biases, bidirectional, dropout
    forward, backward = mindspore.ops.LSTM(*options), gradients.LSTMGrad(*options)
    x, slope, zeros, *weights = kernel.drawn()
    flat = np.concatenate([weights[0].ravel(), weights[1].ravel(), weights[2] + weights[3]]).reshape(-1, 1, 1)
    x, slope, zeros, flat = map(mindspore.Tensor, (x, slope, zeros, flat))
    nothing = mindspore.ops.zeros((kernel.steps, kernel.batch, kernel.hidden), mindspore.float32)
    slopes = (nothing, slope) if kernel.last else (slope, zeros)

    def run() -> object:
        states, last, cell, reserved, _ = forward(x, zeros, zeros, flat)
        return backward(x, zeros, zeros, flat, states, last, cell, *slopes, zeros, reserved)

    return run


def torch_encoder(encoder: Encoder) -> Run:
    torch = importlib.import_module("torch")
    layer = torch.nn.TransformerEncoderLayer(encoder.width, encoder.heads, encoder.inner, 0.0)
    x = torch.randn(encoder.steps, encoder.batch, encoder.width, requires_grad=True)
    asked, slope = [x, *layer.parameters()], torch.randn(x.shape)
    return lambda: torch.autograd.grad(layer(x), asked, slope)


def paddle_encoder(encoder: Encoder) -> Run:
    """Batch first: it knows no other order."""
    paddle = importlib.import_module("paddle")
    layer = paddle.nn.TransformerEncoderLayer(encoder.width, encoder.heads, encoder.inner, 0.0)
    x, slope = (paddle.randn([encoder.batch, encoder.steps, encoder.width]) for _ in range(2))
    x.stop_gradient = False
    asked = [x, *layer.parameters()]
    return lambda: paddle.grad([layer(x)], asked, [slope])


def mindspore_encoder(encoder: Encoder) -> Run:
    mindspore = importlib.import_module("mindspore")
    layer = mindspore.nn.TransformerEncoderLayer(encoder.width, encoder.heads, encoder.inner, 0.0)
    layer.set_train()
    draw, shape = np.random.default_rng(0), (encoder.steps, encoder.batch, encoder.width)
    x, slope = (mindspore.Tensor(draw.normal(size=shape).astype(np.float32)) for _ in range(2))
    backward = mindspore.value_and_grad(lambda inputs: (layer(inputs) * slope).sum(), 0, layer.trainable_params())
    return lambda: backward(x)


LAYERS = {"torch": torch_layer, "mindspore": mindspore_layer, "paddle": paddle_layer}
KERNELS = {"torch": torch_kernel, "mindspore": mindspore_kernel, "paddle": paddle_kernel}
ENCODERS = {"torch": torch_encoder, "mindspore": mindspore_encoder, "paddle": paddle_encoder}
