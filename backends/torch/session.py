"""The contract of core.training.session.Session in PyTorch."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backends.torch import precision
from backends.torch.deployment import export_network
from backends.torch.losses import loss_of_batch
from backends.torch.model import Network
from backends.torch.optimizer import make_optimizer
from backends.torch.runtime import find_device
from backends.torch.state import LAYOUTS, to_numpy
from core.common.arrays import Array
from core.config import Config
from core.models.graph import Graph
from core.runtime.session import DeviceBatch, GraphSession
from core.training.plan import EpochPlan


def open_session(graph: Graph, config: Config) -> TorchSession:
    """A session on `config.device`. Raises UserError when that device is not there."""
    precision.check_precision(graph, config)
    torch.set_num_threads(config.threads)
    torch.backends.cuda.matmul.allow_tf32 = False  # TF32 keeps 10 bits: not the same experiment
    torch.backends.cudnn.allow_tf32 = False
    return TorchSession(graph, config, find_device(config.device))


class TorchSession(GraphSession[Tensor]):
    """One network, its optimizer and its data on one device."""

    layouts, precision = LAYOUTS, precision

    def __init__(self, graph: Graph, config: Config, device: torch.device) -> None:
        self.device, self.dtype = device, precision.DTYPES[config.precision]
        network = Network(graph, self.dtype, device)
        super().__init__(graph, config, network, make_optimizer(graph, network))
        tensors = network.tensors()
        self.trained = [tensors[p.name] for p in graph.trainable]

    def place(self, array: Array) -> Tensor:
        dtype = torch.int64 if array.dtype.kind == "i" else self.dtype
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, dtype)

    def read(self, tensor: Tensor) -> Array:
        return to_numpy(tensor)

    def store(self, split: str, arrays: Mapping[str, Array]) -> None:
        """Sequences time first and flat, (T N, D), so that a batch is one gather."""
        self.splits[split] = kept = {name: self.place(self.own(name, array)) for name, array in arrays.items()}
        for one in self.graph.inputs:
            if one.layout == "sequence":
                kept[one.name] = kept[one.name].flatten(0, 1)  # (T, N, D) -> (T N, D)
                starts = torch.arange(one.shape[0], device=self.device).unsqueeze(1)  # (T, 1)
                kept[f"{one.name} starts"] = starts * self.rows[split]  # where each step begins

    def rows_of(self, split: str, start: int, stop: int) -> list[Tensor]:
        return self._gather(self.splits[split], torch.arange(start, stop, device=self.device))

    def batches(self, plan: EpochPlan, first: int, last: int) -> Iterator[DeviceBatch]:
        data, size = self.splits["train"], plan.batch_size
        order = torch.from_numpy(plan.order[plan.bounds[first][0]:plan.bounds[last - 1][1]]).to(self.device)
        masks = {name: torch.from_numpy(self.own(name, mask)).to(self.device).split(size, self.row_axis(name))
                 for name, mask in plan.masks(first, last).items()}
        for step, rows in enumerate(order.split(size)):
            yield DeviceBatch(self._gather(data, rows), data["label"].index_select(0, rows),
                        {name: parts[step] for name, parts in masks.items()})

    def differentiate(self, batch: DeviceBatch) -> tuple[Tensor, Sequence[Tensor]]:
        with self.autocast():
            output = self.network.run(batch.inputs, batch.masks, True)
        loss = loss_of_batch(self.loss, output.to(self.dtype), batch.label)
        scaled = loss * self.scaler.scale if self.mixed else loss
        return loss.detach(), torch.autograd.grad(scaled, self.trained)

    def no_gradients(self) -> contextlib.AbstractContextManager[object]:
        return torch.no_grad()

    def read_losses(self, losses: Sequence[Tensor]) -> Any:
        return to_numpy(torch.stack(list(losses))).astype(np.float64)

    def export(self, path: Path, form: str) -> list[Path]:
        return export_network(self.network, self.graph, self.dtype, path, form)

    def _gather(self, data: Mapping[str, Tensor], rows: Tensor) -> list[Tensor]:
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
