"""The contract of core.training.session.Session in PyTorch."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.torch import precision
from backends.torch.captured import Capture, CapturedSteps, OnDevice, StaticStep, capture_on_cuda
from backends.torch.deployment import export_network
from backends.torch.losses import loss_of_batch
from backends.torch.model import Network
from backends.torch.optimizer import make_optimizer
from backends.torch.runtime import find_device
from backends.torch.state import LAYOUTS, to_numpy
from core.common.arrays import Array
from core.config import Config
from core.models.graph import Graph
from core.models.precision import Observed
from core.runtime.session import DeviceBatch
from core.training.plan import EpochPlan


def open_session(graph: Graph, config: Config) -> TorchSession:
    """A session on `config.device`. Raises UserError when that device is not there."""
    precision.check_precision(graph, config)
    torch.set_num_threads(config.threads)
    torch.backends.cuda.matmul.allow_tf32 = config.tf32  # it keeps 10 bits: not the same experiment
    torch.backends.cudnn.allow_tf32 = config.tf32
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # products of halves add up in float32
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return TorchSession(graph, config, find_device(config.device))


class TorchSession(OnDevice):
    """One network, its optimizer and its data on one device."""

    layouts = LAYOUTS
    network: Network

    def __init__(self, graph: Graph, config: Config, device: torch.device) -> None:
        self.device, self.dtype = device, precision.DTYPES[config.precision]
        self.half = precision.half_of(config)
        self.capture: Capture | None = partial(capture_on_cuda, device) if device.type == "cuda" else None
        self.captured: CapturedSteps | None = None
        network = Network(graph, self.dtype, device, self.half)
        super().__init__(graph, config, network, make_optimizer(graph, network),
                         precision.Scaler(config, device) if self.half else None)

    def place(self, array: Array) -> Tensor:
        dtype = torch.int64 if array.dtype.kind == "i" else self.dtype
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, dtype)

    def read(self, tensor: Tensor) -> Array:
        return to_numpy(tensor)

    def store(self, split: str, arrays: Mapping[str, Array]) -> None:
        """Sequences time first and flat, (T N, D), so that a batch is one gather."""
        self.captured = None  # it works on the rows that were there
        self.splits[split] = kept = {name: self.place(self.own(name, array)) for name, array in arrays.items()}
        for one in self.graph.inputs:
            if one.layout == "sequence":
                kept[one.name] = kept[one.name].flatten(0, 1)  # (T, N, D) -> (T N, D)
                starts = torch.arange(one.shape[0], device=self.device).unsqueeze(1)  # (T, 1)
                kept[f"{one.name} starts"] = starts * self.rows[split]  # where each step begins

    def rows_of(self, split: str, start: int, stop: int) -> list[Tensor]:
        return self.inputs_of(self.splits[split], torch.arange(start, stop, device=self.device))

    def batches(self, plan: EpochPlan, first: int, last: int) -> Iterator[DeviceBatch]:
        data, size = self.splits["train"], plan.batch_size
        order = torch.from_numpy(plan.order[plan.bounds[first][0]:plan.bounds[last - 1][1]]).to(self.device)
        masks = {name: torch.from_numpy(self.own(name, mask)).to(self.device).split(size, self.row_axis(name))
                 for name, mask in plan.masks(first, last).items()}
        for step, rows in enumerate(order.split(size)):
            yield DeviceBatch(self.inputs_of(data, rows), data["label"].index_select(0, rows),
                        {name: parts[step] for name, parts in masks.items()})

    def train_steps(self, plan: EpochPlan, first: int, last: int) -> Iterator[Tensor]:
        """Where there is `capture`, on CUDA, those of full batches are one captured graph."""
        full = last - (plan.sizes[last - 1] < plan.batch_size)
        if self.capture and full > first:
            yield from self._captured(self.capture, plan.batch_size, full - first).run([plan], first, full)[0].unbind()
            first = full
        if first < last:
            yield from super().train_steps(plan, first, last)

    def _captured(self, capture: Capture, rows: int, steps: int) -> CapturedSteps:
        """For at least so many steps of batches of `rows`; made anew only where the last one doesn't serve."""
        found = self.captured
        if found is None or found.steps[0].rows != rows or found.steps[0].capacity < steps:
            found = self.captured = CapturedSteps([StaticStep(self, rows, steps)], capture)
        return found

    def differentiate(self, batch: DeviceBatch) -> tuple[Tensor, Sequence[Tensor]]:
        output = self.network.run(batch.inputs, batch.masks, True)
        loss = loss_of_batch(self.loss, output.to(self.dtype), batch.label)
        if self.network.copies is None or self.scaler is None:
            return loss.detach(), torch.autograd.grad(loss, self.network.leaves)
        slopes = torch.autograd.grad(loss * self.scaler.scale, self.network.leaves)
        return loss.detach(), self.network.copies.gradients(slopes)

    def no_gradients(self) -> contextlib.AbstractContextManager[object]:
        return torch.no_grad()

    def read_losses(self, losses: Sequence[Tensor]) -> Any:
        return to_numpy(torch.stack(list(losses))).astype(np.float64)

    def export(self, path: Path, form: str) -> list[Path]:
        network = self.network
        if self.half:  # what is deployed is float32
            network = Network(self.graph, self.dtype, self.device)
            self._write([flat for flats in network.flats.values() for flat in flats], self.state().weights)
        return export_network(network, self.graph, self.dtype, path, form)

    def observed(self) -> Observed:
        value = self.network.leaves[0] if self.network.copies is None else self.network.copies.sources[0]
        where = str(value.device), str(value.dtype).removeprefix("torch.")
        return Observed(*where, *self.half.observed()) if self.half else Observed(*where)

    def inputs_of(self, data: Mapping[str, Tensor], rows: Tensor) -> list[Tensor]:
        """The inputs of `rows` (B,): (B, A), or (T, B, D) of a sequence."""
        inputs = []
        for one in self.graph.inputs:
            x = data[one.name]
            if one.layout == "sequence":
                places = data[f"{one.name} starts"] + rows  # (T, 1) + (B,) -> (T, B)
                inputs.append(x.index_select(0, places.view(-1)).view(*places.shape, -1))  # (T, B, D)
            else:
                inputs.append(x.index_select(0, rows))
        return inputs
