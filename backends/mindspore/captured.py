"""A step's way forward and back as one compiled graph, which an NPU needs: one by one, its operators would wait.

MindSpore differentiates it. What blocks.py writes out by hand is for the CPU, where an operator costs more than its
arithmetic; it computes the same. Blocks with an operator that only the CPU has, or that differ between evaluation and
training, have a version here.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mindspore
from mindspore import ParameterTuple, Tensor, nn, ops

from backends.mindspore import blocks, fusion, normalisation
from backends.mindspore.blocks import Saved, Tensors
from backends.mindspore.kernels import (
    add,
    assign,
    bias_add,
    cast,
    concat,
    constant,
    matmul,
    matmul_t,
    mul,
    sigmoid,
    split_gates,
    square,
    sub,
    tanh,
)
from backends.mindspore.losses import loss_of_batch
from backends.mindspore.model import Network
from backends.mindspore.precision import Half
from core.common.constants import BATCHNORM_MOMENTUM
from core.models.graph import DROPOUT, Graph
from core.models.precision import borders
from core.runtime.session import DeviceBatch
from core.training.losses import Loss


class LSTM(blocks.LSTM):
    """(T, B, D) -> the last hidden state (B, H), or those of all steps (T, B, H), made of operators that NPUs have too.

    MindSpore's own LSTM on Ascend, DynamicRNN, computes in float16 whatever it is given.
    """

    def construct(self, x: Tensor) -> Tensor:
        steps, rows, width = x.shape
        projected = matmul_t(x.view(-1, width), self.weight_ih)  # (T B, 4H)
        projected = bias_add(projected, add(self.bias_ih, self.bias_hh)).view(steps, rows, -1)
        h = cell = ops.zeros((rows, self.hidden), x.dtype)  # (B, H)
        states = ()
        for step in range(steps):
            i, f, g, o = split_gates(add(projected[step], matmul_t(h, self.weight_hh)))  # (B, H) each
            cell = add(mul(sigmoid(f), cell), mul(sigmoid(i), tanh(g)))
            h = mul(sigmoid(o), tanh(cell))
            states = (*states, h.expand_dims(0))
        return concat(states) if self.sequence else h

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return self.construct(xs[0]), None


class BatchNorm(normalisation.BatchNorm):
    """(B, A) -> (B, A)."""

    def bind(self, tensors: Tensors) -> None:
        super().bind(tensors)
        self.old, self.new = (constant(share, self.dtype) for share in (1 - BATCHNORM_MOMENTUM, BATCHNORM_MOMENTUM))

    def train(self, x: Tensor) -> Tensor:
        """`construct` in train mode; the running statistics change in place."""
        rows = x.shape[0]
        if rows == 1:
            return self.construct(x)
        mean = x.sum(0) / rows  # (A,)
        centred = sub(x, mean)
        squares = square(centred).sum(0)
        assign(self.running_mean, add(mul(self.running_mean, self.old), mul(mean, self.new)))
        assign(self.running_var, add(mul(self.running_var, self.old), mul(squares / (rows - 1), self.new)))
        return self.normalised(centred, squares / rows)[0]

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return self.train(xs[0]), None


class LowRankFusion(fusion.LowRankFusion):
    """(B, H) per modality -> (B, O, R). Of views made before, the differentiation sees nothing."""

    def bind(self, tensors: Tensors) -> None:
        super().bind(tensors)
        self.whole = ParameterTuple([tensors[name] for name in self.names])  # (1 + H, O, R) each

    def construct(self, *hidden: Tensor) -> Tensor:
        terms = 1
        for place in range(len(hidden)):
            factor = self.whole[place].view(self.whole[place].shape[0], -1)  # (1 + H, O R)
            terms = terms * bias_add(matmul(hidden[place], factor[1:]), factor[0])  # (B, H) -> (B, O R)
        return terms.view(self.shape)  # (B, O, R)


class RankSum(fusion.RankSum):
    """(B, O, R) -> (B, O), in the same way."""

    def bind(self, tensors: Tensors) -> None:
        super().bind(tensors)
        self.keep(whole=tensors[self.names[1]])  # (1, O)

    def construct(self, terms: Tensor) -> Tensor:
        return add(matmul_t(terms.view(-1, self.rank), self.weights).view(-1, self.out), self.whole)


KINDS = {"lstm": LSTM, "batch_norm": BatchNorm, "low_rank_fusion": LowRankFusion, "rank_sum": RankSum}


class Forward(nn.Cell):
    """The walk over a network's blocks in train mode. The graph compiler takes tuples that grow, no dictionaries."""

    def __init__(self, graph: Graph, made: nn.CellList, half: Half | None) -> None:
        super().__init__(auto_prefix=False)
        self.cells_in_order = made
        self.inputs = len(graph.inputs)
        self.wiring = tuple(node.inputs for node in graph.nodes)
        sites = [site.name for site in graph.dropout_sites]
        self.masks = tuple(sites.index(node["site"].name) if node.kind == DROPOUT else -1 for node in graph.nodes)
        self.trains = tuple(node.kind == "batch_norm" for node in graph.nodes)
        stands = borders(graph, half.level if half else "O0")
        self.halved = tuple(border.half for border in stands)
        self.crossed = tuple(border.crossed for border in stands)
        self.dtype, self.working = (half.dtype, half.working) if half else (mindspore.float32, mindspore.float32)

    def construct(self, *given: Tensor) -> Tensor:
        """The output (B, O) in float32, of the inputs and all masks."""
        values, masks = given[:self.inputs], given[self.inputs:]
        for place, block in enumerate(self.cells_in_order):
            xs = ()
            for index in range(len(self.wiring[place])):
                x = values[self.wiring[place][index]]
                if self.crossed[place][index]:
                    x = cast(cast(x, self.dtype), self.working if self.halved[place] else mindspore.float32)
                xs = (*xs, x)
            if self.masks[place] >= 0:
                y = mul(xs[0], masks[self.masks[place]])
            elif self.trains[place]:
                y = block.train(*xs)
            else:
                y = block(*xs)
            if self.halved[place]:
                y = cast(cast(y, self.dtype), self.working)
            values = (*values, y)
        return cast(values[-1], mindspore.float32)


class Captured:
    """The loss of a batch in train mode and its gradients, compiled at the first batch of each size."""

    def __init__(self, graph: Graph, network: Network, half: Half | None, loss: Loss) -> None:
        self.sites = [site.name for site in graph.dropout_sites]
        forward = Forward(graph, network.cells_in_order, half)

        def weighed(label: Tensor, scale: Tensor, *given: Tensor) -> Any:  # of a tuple, it would take constants
            output = forward(*given)
            losses, slope = loss_of_batch(loss, ops.stop_gradient(output), label)
            return mul(output, mul(slope, scale)).sum(), losses

        self.step = mindspore.jit(mindspore.value_and_grad(weighed, None, ParameterTuple(network.leaves), has_aux=True),
                                  fullgraph=True)
        self.one = constant(1, mindspore.float32)

    def __call__(self, batch: DeviceBatch, scale: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """As `differentiate` of a session; `scale` () is that of the loss."""
        masks = [batch.masks[name] for name in self.sites]
        (_, losses), gradients = self.step(batch.label, self.one if scale is None else scale, *batch.inputs, *masks)
        return losses, [gradient.view(-1) for gradient in gradients]
