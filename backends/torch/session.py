"""The contract of core.backend.Session in PyTorch."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backends.torch.deployment import export_network
from backends.torch.model import make_network
from backends.torch.optimizer import GroupedAdam
from backends.torch.precision import DTYPES, autocast, check_precision, unscale
from backends.torch.state import read, read_weights, to_numpy, write_weights
from core.config import Config
from core.errors import UserError
from core.models import ModelSpec
from core.plan import EVALUATION_ROWS, Batch, EpochPlan, EpochResult
from core.randomness import Array
from core.scaler import LossScaler
from core.state import State


def open_session(spec: ModelSpec, config: Config) -> TorchSession:
    """A session on `config.device`. Raises UserError when that device is not there."""
    check_precision(config)
    torch.set_num_threads(config.threads)
    torch.backends.cuda.matmul.allow_tf32 = False  # TF32 keeps 10 bits: not the same experiment
    torch.backends.cudnn.allow_tf32 = False
    return TorchSession(spec, config, find_device(config.device))


def find_device(name: str) -> torch.device:
    """The torch device called `name`. Raises UserError saying what to install."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device = 'cuda': this PyTorch sees no CUDA device; install a CUDA build of torch "
                        "and the NVIDIA driver, or use --device cpu")
    if name == "npu":
        try:
            import torch_npu  # noqa: F401  # registers the device
        except (ImportError, RuntimeError, OSError) as error:
            raise UserError("device = 'npu': torch_npu can't be imported; install torch_npu, CANN and the Ascend "
                            "driver and source CANN's set_env.sh, or use --device cpu") from error
    return torch.device(name)


class TorchSession:
    """One network, its optimizer and its data on one device."""

    def __init__(self, spec: ModelSpec, config: Config, device: torch.device) -> None:
        self.spec, self.config, self.device = spec, config, device
        self.dtype = DTYPES[config.precision]
        self.network = make_network(spec, self.dtype, device)
        self.optimizer = GroupedAdam(self.network, spec, config)
        self.scaler = LossScaler(config)
        self.splits: dict[str, dict[str, Tensor]] = {}

    def load_data(self, split: str, arrays: Mapping[str, Array]) -> None:
        """Put a split on the device; text time first and flat, (T N, D), so that a batch is one gather."""
        tensors = {name: self._place(name, array) for name, array in arrays.items()}
        if "text" in tensors:
            steps, rows = tensors["text"].shape[:2]
            tensors["starts"] = torch.arange(steps, device=self.device).unsqueeze(1) * rows  # (T, 1)
            tensors["text"] = tensors["text"].flatten(0, 1)  # (T, N, D) -> (T N, D)
        self.splits[split] = tensors

    def load_state(self, state: State) -> None:
        write_weights(self.network, self.spec, state.weights)
        self.optimizer.load(state)
        self.scaler.load(state.loss_scale, state.good_steps)

    def state(self) -> State:
        moments = (self.optimizer.moments(key) for key in ("exp_avg", "exp_avg_sq"))
        return State(read_weights(self.network, self.spec), *moments, self.optimizer.steps,
                     self.scaler.scale, self.scaler.good_steps)

    def train_epoch(self, plan: EpochPlan) -> EpochResult:
        data, size = self.splits["train"], plan.batch_size
        order = torch.from_numpy(plan.order).to(self.device)
        masks = {name: torch.from_numpy(mask).to(self.device).split(size) for name, mask in plan.masks.items()}
        losses, skipped = [], 0
        for step, rows in enumerate(order.split(size)):
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
        return EpochResult(to_numpy(torch.stack(losses)).astype(np.float64), skipped)

    def predict(self, split: str) -> Array:
        data = self.splits[split]
        rows = torch.arange(self._rows(data), device=self.device)
        with torch.no_grad(), autocast(self.config):
            outputs = [self.network(self._gather(data, part)[0], {}, False)[0].to(self.dtype)
                       for part in rows.split(EVALUATION_ROWS)]
        return to_numpy(torch.cat(outputs))

    def forward(self, batch: Batch, train: bool) -> dict[str, Array]:
        with torch.no_grad(), self._kept_statistics():
            inputs = {name: self._place(name, value) for name, value in batch.inputs.items()}
            masks = {name: self._place(name, value) for name, value in batch.masks.items()} if train else {}
            _, layers = self.network(inputs, masks, train)
            return {name: to_numpy(value) for name, value in layers.items()}

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        with self._kept_statistics():
            inputs = {name: self._place(name, value) for name, value in batch.inputs.items()}
            masks = {name: self._place(name, value) for name, value in batch.masks.items()}
            loss, gradients = self._backward(inputs, self._place("label", batch.label), masks)
            pairs = zip(self.spec.trainable, gradients, strict=True)
            return float(loss), {p.name: read(p, gradient) for p, gradient in pairs}

    def optimizer_groups(self) -> dict[str, list[str]]:
        return self.optimizer.names(self.network)

    def export(self, path: Path, form: str) -> list[Path]:
        return export_network(self.network, self.spec, self.dtype, path, form)

    def _place(self, name: str, array: Array) -> Tensor:
        """To the device in the run's dtype; labels of classes stay int64; text becomes (T, N, D)."""
        if name == "text":
            array = array.transpose(1, 0, 2)  # (N, T, D) -> (T, N, D)
        dtype = torch.int64 if array.dtype.kind == "i" else self.dtype
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, dtype)

    def _rows(self, data: dict[str, Tensor]) -> int:
        flat = {"text": self.spec.dims.steps}  # T N rows
        modality = self.spec.modalities[0]
        return len(data[modality]) // flat.get(modality, 1)

    def _gather(self, data: dict[str, Tensor], rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The inputs and labels of `rows` (B,); without labels, an empty tensor stands for them."""
        inputs = {name: data[name].index_select(0, rows) for name in self.spec.modalities if name != "text"}
        if "text" in data:
            places = data["starts"] + rows  # (T, 1) + (B,) -> (T, B)
            inputs["text"] = data["text"].index_select(0, places.view(-1)).view(*places.shape, -1)  # (T, B, D)
        return inputs, data["label"].index_select(0, rows) if "label" in data else rows[:0]

    def _backward(self, inputs: dict[str, Tensor], label: Tensor,
                  masks: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Summed loss (), and the gradients in the order of the specification, times the loss scale."""
        with autocast(self.config):
            output, _ = self.network(inputs, masks, True)
        loss = summed_loss(output.to(self.dtype), label)
        scaled = loss if self.config.amp_level == "O0" else loss * self.scaler.scale
        return loss.detach(), torch.autograd.grad(scaled, self.optimizer.parameters)

    @contextlib.contextmanager
    def _kept_statistics(self) -> Iterator[None]:
        """Put BatchNorm's running statistics back afterwards: a look must not change the state."""
        kept = [buffer.clone() for buffer in self.network.buffers()]
        try:
            yield
        finally:
            for buffer, value in zip(self.network.buffers(), kept, strict=True):
                buffer.copy_(value)


def summed_loss(output: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy for int64 class labels (B,), absolute error for scores (B, O); summed, as the original."""
    if label.dtype == torch.int64:
        return F.cross_entropy(output, label, reduction="sum")
    return F.l1_loss(output, label, reduction="sum")
