"""Precision in PyTorch: float64, and mixed precision O1 and O2 with a loss scale."""
from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from backends.torch import kernels
from core.common.errors import UserError
from core.config import Config
from core.models.graph import Graph

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def check_precision(graph: Graph, config: Config) -> None:
    """Refuse what this framework can't do on this device. Raises UserError."""
    if config.amp_level == "O2":
        raise UserError("amp_level = 'O2': the torch backend has O0 and O1; use --amp_level O1")
    if config.precision == "float64" and config.device == "npu":
        raise UserError("precision = 'float64': Ascend NPUs have no float64; use --precision float32")
    if config.amp_level == "O1" and config.device == "cpu" and any(node.kind == "lstm" for node in graph.nodes):
        problem = _bfloat16_lstm_problem()
        if problem:
            raise UserError(f"amp_level = 'O1': PyTorch has no bfloat16 LSTM for this CPU ({problem}); "
                            "use --amp_level O0, or --device cuda")


@cache
def _bfloat16_lstm_problem() -> str | None:
    """What PyTorch says when an LSTM of one unit takes a bfloat16 step forward and back; None where it can.

    oneDNN decides by the CPU, and by ONEDNN_MAX_CPU_ISA: without AVX-512 it has no such kernel. Asked once a process.
    """
    shapes = ((4, 1), (4, 1), (4,), (4,))  # input and hidden weights of the four gates, their two biases
    weights = [torch.ones(shape, requires_grad=True) for shape in shapes]
    x = torch.ones(1, 1, 1)  # (T, B, D)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, _ = kernels.lstm(x, weights, True)
        torch.autograd.grad(y.float().sum(), weights)
    except RuntimeError as error:
        return str(error).partition(". ")[0]
    return None


def autocast(config: Config) -> contextlib.AbstractContextManager[object]:
    """O1: bfloat16 on the CPU, whose LSTM can't train in float16, and float16 elsewhere. O0: nothing."""
    if config.amp_level == "O0":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if config.device == "cpu" else torch.float16
    return torch.autocast(config.device, dtype=dtype)


def unscale(gradients: Sequence[Tensor], scale: float) -> bool:
    """Divide by the loss scale in place; False when a gradient is not finite and the step must be skipped.

    The only host synchronisation of a step, and only in mixed precision.
    """
    kernels.scale_all(gradients, 1 / scale)
    return bool(torch.stack([gradient.isfinite().all() for gradient in gradients]).all())
