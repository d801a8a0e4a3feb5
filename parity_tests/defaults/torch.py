"""PyTorch's defaults and habits of code written for it."""
from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends.torch import blocks, kernels, model, session
from core.common.arrays import Array
from core.models.graph import Node
from core.runtime.half import Bordered
from core.training.losses import Loss
from parity_tests.defaults import Replacements


class BatchNorm(nn.BatchNorm1d):
    """The layer as it comes; the network gives it its tensors. In train mode it refuses a single row."""

    def __init__(self, node: Node, tensors: blocks.Tensors) -> None:
        super().__init__(*node.output.shape)

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        self.train(train)
        return super().forward(xs[0])


class LSTM(blocks.LSTM):
    """`squeeze()` on the last hidden state (1, B, H), as in the original: (H,) for one row."""

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return kernels.lstm(xs[0], self.weights, train)[1].squeeze()


def batch_norm() -> Replacements:
    return [(model.BLOCKS, "batch_norm", BatchNorm)]


def bare_squeeze() -> Replacements:
    return [(model.BLOCKS, "lstm", LSTM)]


def mean_loss() -> Replacements:
    """Both losses with their default reduction."""
    def default(loss: Loss, output: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(output, label) if loss.kind == "cross_entropy" else F.l1_loss(output, label)

    return [(session, "loss_of_batch", default)]


class UnderAutocast(Bordered[Tensor]):
    """A block under the framework's own autocast."""

    def __call__(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        with torch.autocast("cpu", dtype=self.half.dtype):
            y: Tensor = self.block(xs, train)
        return y.float()


def autocast() -> Replacements:
    """Autocast on the CPU in the place of the casts at the borders."""
    return [(model, "Bordered", UnderAutocast)]


def softmax_without_axis(scores: Array) -> Array:
    """F.softmax(x): it warns, and takes axis 0 of a tensor with three."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return F.softmax(torch.from_numpy(scores)).numpy()


def lstm_gradient(x: Array, threads: int) -> dict[str, Array]:
    """Gradient of the input weights of an LSTM of 64 units, x (T, B, D), and the sum of x, with that many threads."""
    before = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    try:
        lstm = nn.LSTM(x.shape[2], 64, dtype=torch.float64)
        lstm(torch.from_numpy(x))[0].sum().backward()
        total = torch.from_numpy(x).sum().numpy()
    finally:
        torch.set_num_threads(before)
    assert lstm.weight_ih_l0.grad is not None
    return {"weight_ih_l0": lstm.weight_ih_l0.grad.numpy(), "sum": total}


def plain_list_parameters(rank: int, width: int) -> list[str]:
    """Names of the parameters of a module that keeps its factors in a Python list."""
    class Fusion(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factors = [nn.Parameter(torch.empty(rank, width, 1)) for _ in range(3)]
            self.fusion_weights = nn.Parameter(torch.empty(1, rank))
            self.fusion_bias = nn.Parameter(torch.empty(1, 1))

    return [name for name, _ in Fusion().named_parameters()]


def initial(shapes: dict[str, tuple[int, ...]], dtype: str) -> dict[str, Array]:
    """nn.Linear's own values and xavier_normal_, by neutral name."""
    torch.manual_seed(3)
    values: dict[str, Array] = {}
    for name, shape in shapes.items():
        if name.endswith("_factor"):
            values[name] = nn.init.xavier_normal_(torch.empty(shape)).numpy().astype(dtype)
        elif name.endswith("weight"):
            linear = nn.Linear(shape[1], shape[0])
            values[name] = linear.weight.detach().numpy().astype(dtype)
            values[name.replace("weight", "bias")] = linear.bias.detach().numpy().astype(dtype)
    return values


def dropout(rows: int, width: int, rate: float, dtype: str) -> Array:
    """The mask of F.dropout on ones."""
    torch.manual_seed(3)
    return F.dropout(torch.from_numpy(np.ones((rows, width), dtype)), rate).numpy()
