"""The contract of core.backend.Session in Paddle."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import paddle
from paddle import Tensor

from backends.paddle.deployment import export_network
from backends.paddle.model import Place, kernels, make_network
from backends.paddle.optimizer import GroupedAdam
from backends.paddle.precision import DTYPES, autocast, check_precision, unscale
from backends.paddle.state import named_tensors, read, read_weights, to_numpy, write_weights
from core.config import Config
from core.errors import UserError
from core.models import ModelSpec
from core.plan import EVALUATION_ROWS, Batch, EpochPlan, EpochResult
from core.randomness import Array
from core.scaler import LossScaler
from core.state import State


def open_session(spec: ModelSpec, config: Config) -> PaddleSession:
    """A session on `config.device`. Raises UserError when that device is not there."""
    check_precision(config)
    place = find_device(config.device)
    paddle.device.set_device(config.device.replace("cuda", "gpu"))  # of every new tensor
    paddle.set_default_dtype(config.precision)  # of every new parameter
    paddle.base.core.set_num_threads(config.threads)
    if config.device == "cuda":
        paddle.base.core.set_cublas_switch(False)  # TF32 keeps 10 bits: not the same experiment
        paddle.base.core.set_cudnn_switch(False)
    return PaddleSession(spec, config, place)


def find_device(name: str) -> Place:
    """The Paddle place called `name`. Raises UserError saying what to install."""
    if name == "cuda":
        if not paddle.device.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
            raise UserError("device = 'cuda': this Paddle sees no CUDA device; install paddlepaddle-gpu "
                            "and the NVIDIA driver, or use --device cpu")
        return paddle.CUDAPlace(0)
    if name == "npu":
        if "npu" not in (paddle.device.get_all_custom_device_type() or ()):
            raise UserError("device = 'npu': this Paddle has no NPU plugin; install paddle-custom-npu, CANN and the "
                            "Ascend driver and source CANN's set_env.sh, or use --device cpu")
        return paddle.base.core.CustomPlace("npu", 0)
    return paddle.CPUPlace()


class PaddleSession:
    """One network, its optimizer and its data on one device."""

    def __init__(self, spec: ModelSpec, config: Config, place: Place) -> None:
        self.spec, self.config, self.place = spec, config, place
        self.dtype = DTYPES[config.precision]
        self.network = make_network(spec, place)
        self.optimizer = GroupedAdam(self.network, spec, config)
        self.scaler = LossScaler(config)
        self.splits: dict[str, dict[str, Tensor]] = {}

    def load_data(self, split: str, arrays: Mapping[str, Array]) -> None:
        """Put a split on the device; text time first and flat, (T N, D), so that a batch is one gather."""
        tensors = {name: self._place(name, array) for name, array in arrays.items()}
        if "text" in tensors:
            steps, rows, _ = tensors["text"].shape
            tensors["text"] = tensors["text"].flatten(0, 1)  # (T, N, D) -> (T N, D)
            tensors["starts"] = (paddle.arange(steps) * rows).unsqueeze(1)  # (T, 1), where each step begins
        self.splits[split] = tensors

    def load_state(self, state: State) -> None:
        write_weights(self.network, self.spec, state.weights)
        self.optimizer.load(state)
        self.scaler.load(state.loss_scale, state.good_steps)

    def state(self) -> State:
        return State(read_weights(self.network, self.spec), self.optimizer.moments("exp_avg"),
                     self.optimizer.moments("exp_avg_sq"), self.optimizer.steps,
                     self.scaler.scale, self.scaler.good_steps)

    def train_epoch(self, plan: EpochPlan) -> EpochResult:
        data, sizes = self.splits["train"], [stop - start for start, stop in plan.bounds]
        order = kernels.split(paddle.to_tensor(plan.order), sizes, 0)
        masks = {name: kernels.split(paddle.to_tensor(mask), sizes, 0) for name, mask in plan.masks.items()}
        losses, skipped = [], 0
        for step, rows in enumerate(order):
            inputs, label = self._gather(data, rows)
            loss, gradients = self._backward(inputs, label, {name: parts[step] for name, parts in masks.items()})
            losses.append(loss)
            if self.config.amp_level != "O0":
                finite = unscale(gradients, self.scaler)
                self.scaler.update(finite)
                if not finite:
                    skipped += 1
                    continue
            self.optimizer.step(gradients)
        return EpochResult(to_numpy(paddle.stack(losses)).astype(np.float64), skipped)

    def predict(self, split: str) -> npt.NDArray[np.floating]:
        data = self.splits[split]
        count = self._rows(data)
        starts = range(0, count, EVALUATION_ROWS)
        with paddle.no_grad(), autocast(self.config):
            parts = [paddle.arange(start, min(start + EVALUATION_ROWS, count)) for start in starts]
            outputs = [self.network(self._gather(data, part)[0], {}, False)[0].astype(self.dtype) for part in parts]
        return to_numpy(paddle.concat(outputs))

    def forward(self, batch: Batch, train: bool) -> dict[str, Array]:
        with paddle.no_grad(), self._kept_statistics():
            inputs = {name: self._place(name, value) for name, value in batch.inputs.items()}
            masks = {name: self._place(name, value) for name, value in batch.masks.items()} if train else {}
            _, layers = self.network(inputs, masks, train)
            return {name: to_numpy(value) for name, value in layers.items()}

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        with self._kept_statistics():
            inputs = {name: self._place(name, value) for name, value in batch.inputs.items()}
            masks = {name: self._place(name, value) for name, value in batch.masks.items()}
            loss, gradients = self._backward(inputs, self._place("label", batch.label), masks)
            return float(loss), {p.name: read(p, g) for p, g in zip(self.spec.trainable, gradients, strict=True)}

    def optimizer_groups(self) -> dict[str, list[str]]:
        return self.optimizer.names(self.network)

    def export(self, path: Path, form: str) -> list[Path]:
        return export_network(self.network, self.spec, self.dtype, path, form)

    def _place(self, name: str, array: Array) -> Tensor:
        """To the device in the run's dtype; labels of classes stay int64; text becomes (T, N, D)."""
        if name == "text":
            array = array.transpose(1, 0, 2)  # (N, T, D) -> (T, N, D)
        dtype = paddle.int64 if array.dtype.kind == "i" else self.dtype
        return paddle.to_tensor(np.ascontiguousarray(array), dtype=dtype)

    def _rows(self, data: dict[str, Tensor]) -> int:
        flat = {"text": self.spec.dims.steps}  # T N rows
        modality = self.spec.modalities[0]
        return len(data[modality]) // flat.get(modality, 1)

    def _gather(self, data: dict[str, Tensor], rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The inputs and labels of `rows` (B,); without labels, an empty tensor stands for them."""
        inputs = {name: kernels.gather(data[name], rows, 0) for name in self.spec.modalities if name != "text"}
        if "text" in data:
            steps = self.spec.dims.steps
            flat = kernels.gather(data["text"], kernels.reshape(data["starts"] + rows, [-1]), 0)  # (T B, D)
            inputs["text"] = kernels.reshape(flat, [steps, len(rows), -1])  # (T, B, D)
        return inputs, kernels.gather(data["label"], rows, 0) if "label" in data else rows[:0]

    def _backward(self, inputs: dict[str, Tensor], label: Tensor,
                  masks: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Summed loss (), and the gradients in the order of the specification, times the loss scale."""
        with autocast(self.config):
            output, _ = self.network.forward(inputs, masks, True)
        if self.config.amp_level == "O0":
            loss = scaled = summed_loss(output, label)
        else:
            loss = summed_loss(output.astype(self.dtype), label)
            scaled = loss * self.scaler.scale
        trained = self.optimizer.parameters
        # frozen ones too: the backward passes of rnn and addmm fail unless all their parameters ask for gradients
        return loss.detach(), paddle.grad(scaled, trained + self.optimizer.frozen)[:len(trained)]

    @contextlib.contextmanager
    def _kept_statistics(self) -> Iterator[None]:
        """Put BatchNorm's running statistics back afterwards: a look must not change the state."""
        tensors = named_tensors(self.network, self.spec)
        buffers = [tensors[p.name] for p in self.spec.group("statistics")]
        kept = [buffer.clone() for buffer in buffers]
        try:
            yield
        finally:
            for buffer, value in zip(buffers, kept, strict=True):
                kernels.assign_out_(value, buffer)


def summed_loss(output: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy for int64 class labels (B,), absolute error for scores (B, O); summed, as the original."""
    if label.dtype == paddle.int64:
        # arguments: soft labels, softmax within, numerically stable, ignored index, axis
        _, losses = kernels.cross_entropy_with_softmax(output, kernels.reshape(label, [-1, 1]),
                                                      False, True, True, -100, -1)  # (B, 1)
    else:
        losses = kernels.abs(output - label)  # (B, O)
    total: Tensor = kernels.sum(losses, [], None, False)  # ()
    return total
