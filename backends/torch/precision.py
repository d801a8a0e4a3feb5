"""Precision in PyTorch: float64, and half precision at the borders of blocks with a loss scale."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.common.errors import UserError
from core.common.half import HalfType
from core.config import Config
from core.models.graph import Graph
from core.models.precision import in_half
from core.runtime import half
from core.runtime.scaler import LossScaler

DTYPES = {"float32": torch.float32, "float64": torch.float64}
HALVES: dict[HalfType, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def check_precision(graph: Graph, config: Config) -> None:
    """Refuse what this framework can't do on this device. Raises UserError."""
    halved = [node.kind for node in graph.nodes if in_half(node, config.amp_level)]
    if config.device.startswith("npu") and config.amp_dtype == "bfloat16" and "lstm" in halved:
        raise UserError("amp_dtype = 'bfloat16': the LSTM of Ascend NPUs has float16 and float32; use --amp_dtype "
                        "float16")


class Half(half.Half[Tensor]):
    """Half precision on a device: really, or emulated."""

    halves, full = HALVES, torch.float32

    def cast(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype)

    def one(self) -> Tensor:
        return torch.ones((), dtype=self.working)

    def take(self, copies: Tensor) -> None:
        """Round what was copied from the parameters."""
        if self.emulated:
            copies.copy_(copies.to(self.dtype))


def half_of(config: Config) -> Half | None:
    """None at O0."""
    return None if config.amp_level == "O0" else Half(config)


class Scaler(LossScaler):
    """The loss scale."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.device = device
        super().__init__(config)

    def number(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, device=self.device)

    def count(self, value: int) -> Tensor:
        return torch.tensor(value, dtype=torch.int32, device=self.device)

    def put(self, target: Tensor, value: Tensor) -> None:
        target.copy_(value)

    def choose(self, condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
        return torch.where(condition, one, other)

    def finite(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensor.isfinite().all() for tensor in tensors]).all()

    def read(self, scalar: Tensor) -> float:
        return scalar.item()
