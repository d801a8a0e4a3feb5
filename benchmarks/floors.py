"""The floor of a training step in each framework: its own LSTM layer, forward and backward, and nothing else."""
from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np

STEPS, WIDTH = 20, 300


def torch_floor(batch: int, hidden: int) -> Callable[[], object]:
    torch = importlib.import_module("torch")
    layer = torch.nn.LSTM(WIDTH, hidden, batch_first=True)
    x = torch.randn(batch, STEPS, WIDTH)

    def run() -> object:
        layer.zero_grad()
        _, (last, _) = layer(x)
        last.sum().backward()
        return layer.weight_ih_l0.grad[0, 0]

    return run


def paddle_floor(batch: int, hidden: int) -> Callable[[], object]:
    paddle = importlib.import_module("paddle")
    layer = paddle.nn.LSTM(WIDTH, hidden)
    x = paddle.randn([batch, STEPS, WIDTH])

    def run() -> object:
        _, (last, _) = layer(x)
        last.sum().backward()
        layer.clear_gradients()
        return last

    return run


def mindspore_floor(batch: int, hidden: int) -> Callable[[], object]:
    """In the mode that the backend trains in, which is the fastest that was found for this layer too."""
    mindspore = importlib.import_module("mindspore")
    layer = mindspore.nn.LSTM(WIDTH, hidden, batch_first=True)
    x = mindspore.Tensor(np.random.default_rng(0).normal(size=(batch, STEPS, WIDTH)).astype(np.float32))
    backward = mindspore.value_and_grad(lambda inputs: layer(inputs)[1][0].sum(), None, layer.trainable_params())

    def run() -> object:
        value, gradients = backward(x)
        return gradients[0].asnumpy(), value

    return run


FLOORS = {"torch": torch_floor, "mindspore": mindspore_floor, "paddle": paddle_floor}
