"""The contract of core.training.session.Session in MindSpore."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor, ops

from backends.mindspore import captured, precision
from backends.mindspore.deployment import export_network
from backends.mindspore.kernels import in_dtype, mul
from backends.mindspore.losses import loss_of_batch
from backends.mindspore.model import Network
from backends.mindspore.optimizer import make_optimizer
from backends.mindspore.runtime import find_device, name_of_device, restore_interrupt
from backends.mindspore.state import LAYOUTS, to_numpy
from core.common.arrays import Array
from core.config import Config
from core.models.graph import Graph
from core.models.precision import Observed
from core.runtime.session import DeviceBatch, GraphSession
from core.training.plan import EpochPlan


def open_session(graph: Graph, config: Config) -> MindSporeSession:
    """A session on `config.device`. Raises UserError when that device is not there.

    On the CPU operators run one by one, each to its end: otherwise every one crosses three threads, which on a busy
    machine takes milliseconds. For the same reason a process with one thread stays on one core
    (backends.mindspore.prepare). Elsewhere a step is one graph, and nothing waits for it.
    """
    precision.check_precision(graph, config)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    find_device(config.device)
    if config.device == "cpu":
        mindspore.runtime.launch_blocking()
    restore_interrupt()
    return MindSporeSession(graph, config, capture=config.device != "cpu")


class MindSporeSession(GraphSession[Tensor]):
    """One network, its optimizer and its data on one device."""

    layouts = LAYOUTS
    network: Network

    def __init__(self, graph: Graph, config: Config, capture: bool) -> None:
        """capture: whether a step is one compiled graph."""
        self.dtype, self.half = precision.DTYPES[config.precision], precision.half_of(config)
        network = Network(graph, self.dtype, self.half, captured.KINDS if capture else None)
        super().__init__(graph, config, network, make_optimizer(graph, network, self.dtype),
                         precision.Scaler(config) if self.half else None)
        self.captured = captured.Captured(graph, network, self.half, self.loss) if capture else None
        self.rooms: dict[str, Array] = {}  # where sequences are brought into the order of an epoch

    def place(self, array: Array) -> Tensor:
        return Tensor(self._typed(array))

    def read(self, tensor: Tensor) -> Array:
        return to_numpy(tensor)

    def store(self, split: str, arrays: Mapping[str, Array]) -> None:
        """Sequences time first. It stays NumPy: on the CPU that is device memory, and an epoch is cut out of it in one
        go (see `batches`).
        """
        self.splits[split] = {name: self._typed(self.own(name, array)) for name, array in arrays.items()}

    def rows_of(self, split: str, start: int, stop: int) -> list[Tensor]:
        data = self.splits[split]
        return [Tensor(np.ascontiguousarray(data[one.name][:, start:stop] if one.layout == "sequence"
                                            else data[one.name][start:stop])) for one in self.graph.inputs]

    def batches(self, plan: EpochPlan, first: int, last: int) -> Iterator[DeviceBatch]:
        """One tensor per input for all these steps, in batch order, and views into it.

        A tensor made from NumPy costs 0.2 ms at its first use, a view 0.01 ms.
        """
        data, bounds = self.splits["train"], plan.bounds[first:last]
        before = bounds[0][0]
        order = plan.order[before:bounds[-1][1]]
        label = Tensor(data["label"][order])
        masks = {name: Tensor(self._typed(self.own(name, mask))) for name, mask in plan.masks(first, last).items()}
        places = [(start - before, stop - before) for start, stop in bounds]
        shared = Tensor.from_numpy if self.config.device == "cpu" else Tensor  # what reads later needs a copy
        whole = [shared(self._in_batches(one.name, order, places)) if one.layout == "sequence"
                 else Tensor(data[one.name][order]) for one in self.graph.inputs]
        for start, stop in places:
            rows = stop - start
            inputs = []
            for one, tensor in zip(self.graph.inputs, whole, strict=True):
                steps = one.shape[0] if one.layout == "sequence" else 1
                x = ops.narrow(tensor, 0, steps * start, steps * rows)
                inputs.append(x.view(steps, rows, -1) if one.layout == "sequence" else x)  # (T B, D) -> (T, B, D)
            cut = {name: ops.narrow(mask, self.row_axis(name), start, rows) for name, mask in masks.items()}
            yield DeviceBatch(inputs, ops.narrow(label, 0, start, rows), cut)

    def differentiate(self, batch: DeviceBatch) -> tuple[Tensor, Sequence[Tensor]]:
        network, scale = self.network, self.scaler.scale if self.scaler else None
        if self.captured:
            losses, slopes = self.captured(batch, scale)
        else:
            output, tape = network.forward(batch.inputs, batch.masks)
            losses, slope = loss_of_batch(self.loss, in_dtype(output, self.dtype), batch.label)
            slopes = network.backward(slope if scale is None else mul(slope, scale), tape)
        return losses, network.copies.gradients(slopes) if network.copies else slopes

    def export(self, path: Path, form: str) -> list[Path]:
        return export_network(self.graph, self.state().weights, self.dtype, path, form)

    def observed(self) -> Observed:
        value = next(iter(self.network.own.values()))
        where = name_of_device(value.device), str(value.dtype).lower()
        return Observed(*where, *self.half.observed()) if self.half else Observed(*where)

    def _typed(self, array: Array) -> Array:
        """In the run's dtype, classes one-hot, C-contiguous."""
        if array.dtype.kind == "i":
            array = np.eye(self.graph.task.outputs)[array]  # (N,) -> (N, C)
        return np.ascontiguousarray(array, self.config.precision)

    def _in_batches(self, name: str, order: Array, bounds: Sequence[tuple[int, int]]) -> Array:
        """A sequence (T, N, D) as the batches (T B, D) of `order`, one after the other: (T rows, D).

        It lies in memory that is kept from epoch to epoch: new memory costs a page fault every 4 KiB. The tensor made
        of it is a view of that memory, so the batches of one call of `batches` are gone when the next one is made.
        """
        data = self.splits["train"][name]
        steps, _, width = data.shape
        size = steps * len(order)
        if name not in self.rooms or len(self.rooms[name]) < size:
            self.rooms[name] = np.empty((size, width), self.config.precision)
        found = self.rooms[name][:size]
        for start, stop in bounds:
            part = found[steps * start:steps * stop]  # (T B, D)
            # "clip" writes to the target directly; all rows exist
            np.take(data, order[start:stop], 1, part.reshape(-1, stop - start, width), "clip")
        return found
