"""Precision in PyTorch: float64, and mixed precision O1 and O2 with a loss scale."""
from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from core.config import Config
from core.errors import UserError
from core.scaler import LossScaler

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def check_precision(config: Config) -> None:
    """Refuse what this framework can't do on this device. Raises UserError."""
    if config.amp_level == "O2":
        raise UserError("amp_level = 'O2': the torch backend has O0 and O1; use --amp_level O1")
    if config.precision == "float64" and config.device == "npu":
        raise UserError("precision = 'float64': Ascend NPUs have no float64; use --precision float32")


def autocast(config: Config) -> contextlib.AbstractContextManager[object]:
    """O1: bfloat16 on the CPU, whose LSTM can't train in float16, and float16 elsewhere. O0: nothing."""
    if config.amp_level == "O0":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if config.device == "cpu" else torch.float16
    return torch.autocast(config.device, dtype=dtype)


def unscale(gradients: Sequence[Tensor], scaler: LossScaler) -> bool:
    """Divide by the loss scale in place; False when a gradient is not finite and the step must be skipped.

    The only host synchronisation of a step, and only in mixed precision.
    """
    torch._foreach_mul_(list(gradients), 1 / scaler.scale)
    return bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
