"""Precision in Paddle: float64, and mixed precision O1 with a loss scale."""
from __future__ import annotations

import contextlib
from collections.abc import Sequence

import paddle
from paddle import Tensor

from backends.paddle import kernels
from core.common.errors import UserError
from core.config import Config

DTYPES = {"float32": paddle.float32, "float64": paddle.float64}


def check_precision(config: Config) -> None:
    """Refuse what this framework can't do on this device. Raises UserError."""
    if config.amp_level != "O0" and config.device == "cpu":
        raise UserError(f"amp_level = {config.amp_level!r}: Paddle's CPU kernels ignore mixed precision and stay in "
                        "float32; use --amp_level O0, or --device cuda")
    if config.amp_level == "O2":
        raise UserError("amp_level = 'O2': the paddle backend has O0 and O1; use --amp_level O1")
    if config.precision == "float64" and config.device == "npu":
        raise UserError("precision = 'float64': Ascend NPUs have no float64; use --precision float32")


def autocast(config: Config) -> contextlib.AbstractContextManager[object]:
    """O1: float16. O0: nothing."""
    if config.amp_level == "O0":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[object] = paddle.amp.auto_cast(level="O1", dtype="float16")
    return context


def unscale(gradients: Sequence[Tensor], scale: float) -> bool:
    """Divide by the loss scale in place; False when a gradient is not finite and the step must be skipped.

    The only host synchronisation of a step, and only in mixed precision.
    """
    for gradient in gradients:
        kernels.scale_(gradient, 1 / scale)
    return bool(paddle.stack([gradient.isfinite().all() for gradient in gradients]).all())
