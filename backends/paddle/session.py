"""The contract of core.training.session.Session in Paddle."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from backends.paddle import precision
from backends.paddle.deployment import export_network
from backends.paddle.kernels import Place, cast, ops
from backends.paddle.losses import loss_of_batch
from backends.paddle.model import Network
from backends.paddle.optimizer import make_optimizer
from backends.paddle.runtime import device_of, find_device
from backends.paddle.state import LAYOUTS, to_numpy
from core.common.arrays import Array
from core.config import Config
from core.models.graph import Graph
from core.models.precision import Observed
from core.runtime.session import DeviceBatch, GraphSession
from core.training.plan import EpochPlan


def open_session(graph: Graph, config: Config) -> PaddleSession:
    """A session on `config.device`. Raises UserError when that device is not there."""
    precision.check_precision(graph, config)
    place = find_device(config.device)
    paddle.device.set_device(place)  # of every new tensor
    paddle.set_default_dtype(config.precision)  # of every new parameter
    paddle.base.core.set_num_threads(config.threads)
    paddle.base.core.set_cublas_switch(config.tf32)  # it keeps 10 bits: not the same experiment
    paddle.base.core.set_cudnn_switch(config.tf32)
    return PaddleSession(graph, config, place)


class PaddleSession(GraphSession[Tensor]):
    """One network, its optimizer and its data on one device."""

    layouts = LAYOUTS
    network: Network

    def __init__(self, graph: Graph, config: Config, place: Place) -> None:
        self.where, self.dtype = place, precision.DTYPES[config.precision]
        self.half = precision.half_of(config)
        network = Network(graph, place, self.half)
        super().__init__(graph, config, network, make_optimizer(graph, network),
                         precision.Scaler(config) if self.half else None)

    def place(self, array: Array) -> Tensor:
        dtype = paddle.int64 if array.dtype.kind == "i" else self.dtype
        return paddle.to_tensor(np.ascontiguousarray(array), dtype=dtype)

    def read(self, tensor: Tensor) -> Array:
        return to_numpy(tensor)

    def store(self, split: str, arrays: Mapping[str, Array]) -> None:
        """Sequences time first and flat, (T N, D), so that a batch is one gather."""
        self.splits[split] = kept = {name: self.place(self.own(name, array)) for name, array in arrays.items()}
        for one in self.graph.inputs:
            if one.layout == "sequence":
                kept[one.name] = kept[one.name].flatten(0, 1)  # (T, N, D) -> (T N, D)
                starts = paddle.arange(one.shape[0]) * self.rows[split]
                kept[f"{one.name} starts"] = starts.unsqueeze(1)  # (T, 1), where each step begins

    def rows_of(self, split: str, start: int, stop: int) -> list[Tensor]:
        return self._gather(self.splits[split], paddle.arange(start, stop))

    def batches(self, plan: EpochPlan, first: int, last: int) -> Iterator[DeviceBatch]:
        data, bounds = self.splits["train"], plan.bounds[first:last]
        sizes = [stop - start for start, stop in bounds]
        order = ops.split(paddle.to_tensor(plan.order[bounds[0][0]:bounds[-1][1]]), sizes, 0)
        masks = {name: ops.split(paddle.to_tensor(self.own(name, mask)), sizes, self.row_axis(name))
                 for name, mask in plan.masks(first, last).items()}
        for step, rows in enumerate(order):
            yield DeviceBatch(self._gather(data, rows), ops.gather(data["label"], rows, 0),
                        {name: parts[step] for name, parts in masks.items()})

    def differentiate(self, batch: DeviceBatch) -> tuple[Tensor, Sequence[Tensor]]:
        network, output = self.network, self.network.run(batch.inputs, batch.masks, True)
        if network.copies is None or self.scaler is None:
            loss = loss_of_batch(self.loss, output, batch.label)
            return loss.detach(), paddle.grad(loss, network.asked)[:len(network.leaves)]
        loss = loss_of_batch(self.loss, cast(output, self.dtype), batch.label)
        slopes = paddle.grad(ops.multiply(loss, self.scaler.scale), network.asked)
        return loss.detach(), network.copies.gradients(slopes[:len(network.leaves)])

    def no_gradients(self) -> contextlib.AbstractContextManager[object]:
        context: contextlib.AbstractContextManager[object] = paddle.no_grad()
        return context

    def read_losses(self, losses: Sequence[Tensor]) -> Any:
        return to_numpy(paddle.stack(list(losses))).astype(np.float64)

    def export(self, path: Path, form: str) -> list[Path]:
        network = self.network
        if self.half:  # what is deployed is float32
            network = Network(self.graph, self.where)
            self._write([flat for flats in network.flats.values() for flat in flats], self.state().weights)
        return export_network(network, self.graph, self.dtype, path, form)

    def observed(self) -> Observed:
        value = self.network.leaves[0] if self.network.copies is None else self.network.copies.sources[0]
        where = device_of(value), str(value.dtype).removeprefix("paddle.")
        return Observed(*where, *self.half.observed()) if self.half else Observed(*where)

    def _gather(self, data: Mapping[str, Tensor], rows: Tensor) -> list[Tensor]:
        """The inputs of `rows` (B,): (B, A), or (T, B, D) of a sequence."""
        inputs = []
        for one in self.graph.inputs:
            if one.layout == "sequence":
                places = ops.reshape(data[f"{one.name} starts"] + rows, [-1])  # (T, 1) + (B,) -> (T B,)
                flat = ops.gather(data[one.name], places, 0)  # (T B, D)
                inputs.append(ops.reshape(flat, [one.shape[0], len(rows), -1]))  # (T, B, D)
            else:
                inputs.append(ops.gather(data[one.name], rows, 0))
        return inputs
