"""MindSpore's device, and Ctrl-C beside it."""
from __future__ import annotations

import signal
import threading

import mindspore

from backends.mindspore.kernels import add, constant
from core.common.errors import UserError


def find_device(name: str) -> str:
    """The MindSpore device called `name`. Raises UserError: only the CPU so far."""
    if name != "cpu":
        raise UserError(f"device = {name!r}: the mindspore backend runs on the CPU so far; use --device cpu, "
                        f"or the torch backend for {name}")
    return "CPU"


def restore_interrupt() -> None:
    """Give Ctrl-C back to Python: from its first operator on, which runs here, MindSpore answers it by killing the
    process.
    """
    zero = constant(0, mindspore.float32)
    add(zero, zero)
    handler = signal.getsignal(signal.SIGINT)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
