"""The contract of core.backend.Session in MindSpore."""
from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor, ops

from backends.mindspore.deployment import export_network
from backends.mindspore.model import Gradients, make_network
from backends.mindspore.optimizer import GroupedAdam
from backends.mindspore.precision import Kernels, absolute, check_precision, make_kernels, sign, sub
from backends.mindspore.state import read_weights, to_numpy, turn, turn_back, write_weights
from core.config import Config
from core.errors import UserError
from core.models import ModelSpec
from core.plan import EVALUATION_ROWS, Batch, EpochPlan, EpochResult
from core.randomness import Array
from core.scaler import LossScaler
from core.state import State

Batches = Iterator[tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]]  # inputs, label, masks


def open_session(spec: ModelSpec, config: Config) -> MindSporeSession:
    """A session on `config.device`. Raises UserError when that device is not there.

    Operators run one by one, each to its end: otherwise every one crosses three threads, which on a busy machine
    takes milliseconds. For the same reason a process with one thread stays on one core (backends.mindspore.prepare).
    """
    check_precision(config)
    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    mindspore.set_device(find_device(config.device))
    mindspore.runtime.launch_blocking()
    session = MindSporeSession(spec, config)
    restore_interrupt()
    return session


def find_device(name: str) -> str:
    """The MindSpore device called `name`. Raises UserError: only the CPU so far."""
    if name != "cpu":
        raise UserError(f"device = {name!r}: the mindspore backend runs on the CPU so far; use --device cpu, "
                        f"or the torch backend for {name}")
    return "CPU"


def restore_interrupt() -> None:
    """Give Ctrl-C back to Python: from its first operator on, MindSpore answers it by killing the process."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)


class MindSporeSession:
    """One network, its optimizer and its data on one device."""

    def __init__(self, spec: ModelSpec, config: Config) -> None:
        self.spec, self.config = spec, config
        self.kernels = make_kernels(config)
        self.dtype = self.kernels.dtype
        self.network = make_network(spec, self.kernels)
        self.optimizer = GroupedAdam(self.network, spec, config, self.dtype)
        self.scaler = LossScaler(config)
        self.splits: dict[str, dict[str, Array]] = {}

    def load_data(self, split: str, arrays: Mapping[str, Array]) -> None:
        """Keep a split in the run's dtype, text time first. It stays NumPy: on the CPU that is device memory,
        and an epoch is cut out of it in one go (see `_batches`).
        """
        self.splits[split] = {name: self._arrange(name, array) for name, array in arrays.items()}

    def load_state(self, state: State) -> None:
        write_weights(self.network, self.spec, state.weights)
        self.optimizer.load(state)
        self.scaler.load(state.loss_scale, state.good_steps)

    def state(self) -> State:
        return State(read_weights(self.network, self.spec), self.optimizer.moments("exp_avg"),
                     self.optimizer.moments("exp_avg_sq"), self.optimizer.steps,
                     self.scaler.scale, self.scaler.good_steps)

    def train_epoch(self, plan: EpochPlan) -> EpochResult:
        losses = []
        for inputs, label, masks in self._batches(plan):
            loss, gradients = self._backward(inputs, label, masks)
            losses.append(loss)
            self.optimizer.step(gradients)
        return EpochResult(np.array([to_numpy(loss).sum(dtype=np.float64) for loss in losses]))

    def predict(self, split: str) -> Array:
        data, rows = self.splits[split], self._rows(self.splits[split])
        outputs = []
        for start in range(0, rows, EVALUATION_ROWS):
            part = slice(start, start + EVALUATION_ROWS)
            inputs = {m: Tensor(np.ascontiguousarray(data[m][:, part] if m == "text" else data[m][part]))
                      for m in self.spec.modalities}
            outputs.append(to_numpy(self.network.forward(inputs, {}, False)[0]))
        return np.concatenate(outputs)

    def forward(self, batch: Batch, train: bool) -> dict[str, Array]:
        with self._kept_statistics():
            inputs, _, masks = self._place(batch)
            _, layers = self.network.forward(inputs, masks if train else {}, train)
            return {name: turn_back(name, to_numpy(value)) for name, value in layers.items()}

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        with self._kept_statistics():
            loss, gradients = self._backward(*self._place(batch))
            named = {p.name: to_numpy(gradients[p.name]).reshape(self.network.tensors[p.name].shape)
                     for p in self.spec.trainable}
            return float(to_numpy(loss).sum(dtype=np.float64)), {n: turn_back(n, g) for n, g in named.items()}

    def optimizer_groups(self) -> dict[str, list[str]]:
        return self.optimizer.names(self.network)

    def export(self, path: Path, form: str) -> list[Path]:
        return export_network(self.network, self.spec, self.dtype, path, form)

    def _arrange(self, name: str, array: Array) -> Array:
        """In the run's dtype and memory order: text (T, N, D), masks as `turn` has them, class labels one-hot."""
        if array.dtype.kind == "i":
            array = np.eye(self.spec.output_dim)[array]  # (N,) -> (N, C)
        if name == "text":
            array = array.transpose(1, 0, 2)  # (N, T, D) -> (T, N, D)
        if name == "fusion" and self.spec.model == "lmf":
            array = turn(name, array.reshape(len(array), self.spec.rank, -1))  # (N, R O) -> (N, O, R)
        return np.ascontiguousarray(array, self.config.precision)

    def _place(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """Inputs, label and masks of `batch` as tensors."""
        inputs = {name: Tensor(self._arrange(name, value)) for name, value in batch.inputs.items()}
        masks = {name: Tensor(self._arrange(name, value)) for name, value in batch.masks.items()}
        return inputs, Tensor(self._arrange("label", batch.label)), masks

    def _rows(self, data: dict[str, Array]) -> int:
        modality = self.spec.modalities[0]
        return data[modality].shape[1 if modality == "text" else 0]

    def _batches(self, plan: EpochPlan) -> Batches:
        """The steps of an epoch: one tensor per modality, in batch order, and views into it.

        A tensor made from NumPy costs 0.2 ms at its first use, a view 0.01 ms.
        """
        data, order = self.splits["train"], plan.order
        flat = {name: Tensor(data[name][order]) for name in (*self.spec.modalities, "label") if name != "text"}
        masks = {name: Tensor(self._arrange(name, mask)) for name, mask in plan.masks.items()}
        if "text" in data:
            rows, width = len(order), data["text"].shape[2]
            text = np.empty((self.spec.dims.steps * rows, width), self.config.precision)  # a batch after the other
            for start, stop in plan.bounds:
                part = text[self.spec.dims.steps * start:self.spec.dims.steps * stop]  # (T B, D)
                # "clip" writes to the target directly; all rows exist
                np.take(data["text"], order[start:stop], 1, part.reshape(-1, stop - start, width), "clip")
            flat["text"] = Tensor(text)
        for start, stop in plan.bounds:
            parts = {name: ops.narrow(tensor, 0, start, stop - start)
                     for name, tensor in flat.items() if name != "text"}
            if "text" in flat:
                steps = self.spec.dims.steps
                part = ops.narrow(flat["text"], 0, steps * start, steps * (stop - start))  # (T B, D)
                parts["text"] = part.view(steps, stop - start, -1)  # (T, B, D)
            label = parts.pop("label")
            yield parts, label, {name: ops.narrow(mask, 0, start, stop - start) for name, mask in masks.items()}

    def _backward(self, inputs: dict[str, Tensor], label: Tensor,
                  masks: dict[str, Tensor]) -> tuple[Tensor, Gradients]:
        """Losses whose sum is minimised, and the gradients by name."""
        output, _ = self.network.forward(inputs, masks, True)
        losses, slope = summed_loss(output, label, self.spec.task, self.kernels)
        return losses, self.network.backward(slope)

    @contextlib.contextmanager
    def _kept_statistics(self) -> Iterator[None]:
        """Put BatchNorm's running statistics back afterwards: a look must not change the state."""
        kept = {name: to_numpy(tensor) for name, tensor in self.network.statistics.items()}
        try:
            yield
        finally:
            for name, value in kept.items():
                ops.assign(self.network.statistics[name], Tensor(value))


def summed_loss(output: Tensor, label: Tensor, task: str, kernels: Kernels) -> tuple[Tensor, Tensor]:
    """Cross-entropy for one-hot class labels (B, C), absolute error for scores (B, O); summed, as the original.

    Returns the terms, which the host adds up after the epoch, and the gradient of their sum (B, O).
    """
    if task == "classification":
        return kernels.cross_entropy(output, label)
    difference = sub(output, label)  # (B, O)
    return absolute(difference), sign(difference)
