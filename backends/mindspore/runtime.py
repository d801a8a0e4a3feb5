"""MindSpore's devices, and Ctrl-C beside it."""
from __future__ import annotations

import re
import signal
import threading

import mindspore

from backends.mindspore.kernels import add, constant
from core.common.errors import UserError
from core.runtime.devices import kind_and_index


def find_device(name: str) -> str:
    """Make the device called `name` this process's, cpu or npu:1, and say what MindSpore calls it.

    Raises UserError saying what to install; the process can then go on with another device.
    """
    kind, index = kind_and_index(name)
    if kind == "cuda":
        raise UserError(f"device = {name!r}: MindSpore's packages are for the CPU and for Ascend NPUs; use "
                        "--device cpu, or the torch or the paddle backend for CUDA")
    if kind == "cpu":
        mindspore.set_device("CPU")
        return "CPU"
    try:
        mindspore.set_device("Ascend", index)
    except (RuntimeError, ValueError) as error:
        missing = re.search(r"(lib[\w.-]+): cannot open shared object file", str(error))
        reason = f"{missing[1]} is missing" if missing else str(error).splitlines()[0]
        raise UserError(f"device = {name!r}: MindSpore can't use it: {reason}; install CANN and the Ascend driver and "
                        "source CANN's set_env.sh, or use --device cpu") from error
    return "Ascend"


def name_of_device(own: str) -> str:
    """What a tensor says of its device, in the words of `find_device`: CPU -> cpu, Ascend:1 -> npu:1."""
    return own.replace("Ascend", "npu").lower()


def restore_interrupt() -> None:
    """Give Ctrl-C back to Python: from its first operator on, which runs here, MindSpore answers it by killing the
    process.
    """
    zero = constant(0, mindspore.float32)
    add(zero, zero)
    handler = signal.getsignal(signal.SIGINT)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, handler)
