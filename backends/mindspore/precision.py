"""Precision in MindSpore: float32 by its own kernels, float64 by operators that have it (blocks.py, BLOCKS64)."""
from __future__ import annotations

import mindspore

from core.common.errors import UserError
from core.config import Config

DTYPES = {"float32": mindspore.float32, "float64": mindspore.float64}


def check_precision(config: Config) -> None:
    """Refuse what this framework can't do. Raises UserError."""
    if config.amp_level != "O0":
        raise UserError(f"amp_level = {config.amp_level!r}: the mindspore backend has O0 so far; use --amp_level O0, "
                        "or the torch backend for O1")
