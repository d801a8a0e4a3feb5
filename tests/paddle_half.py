"""In a worker: a Paddle whose CPU has half kernels for what CUDA has them for, so that the real half can be run.

Each computes in float32 and rounds what it gives. As on CUDA, the LSTM has none, and no kernel takes half and float32
together.
"""
from __future__ import annotations

import sys
from typing import Any

import paddle
from paddle import Tensor

import core.runtime.half
from backends.paddle import session

HALVES = paddle.float16, paddle.bfloat16
OWN = ("cast", "assign_out_")  # the CPU's own take half
WITHOUT = ("rnn",)
OPERATORS = {"__matmul__": "matmul", "__mul__": "multiply", "__add__": "add", "__sub__": "subtract"}


class Kernels:
    """Stands for paddle._C_ops."""

    def __getattr__(self, name: str) -> Any:
        kernel = getattr(paddle._C_ops, name)
        return kernel if name in OWN else lambda *args: rounded(name, kernel, args)


def rounded(name: str, kernel: Any, args: Any) -> Any:
    """What a kernel gives, in the half precision that its arguments are in."""
    tensors = [one for arg in args for one in (arg if isinstance(arg, list) else [arg]) if isinstance(one, Tensor)]
    found = {x.dtype for x in tensors if x.is_floating_point()}
    if not found & {*HALVES}:
        return kernel(*args)
    if len(found) > 1 or name in WITHOUT:
        raise TypeError(f"{name}: no kernel for {found}")
    half, = found
    made = kernel(*changed(list(args), half, paddle.float32))
    return changed(made, paddle.float32, half)


def changed(value: Any, before: paddle.dtype, after: paddle.dtype) -> Any:
    """All tensors of a dtype in another, and the name of the one for the other's."""
    if isinstance(value, list):
        return [changed(one, before, after) for one in value]
    if isinstance(value, Tensor):
        return value.astype(after) if value.dtype == before else value
    return after if value is before else value


def install() -> None:
    """For good: end the worker afterwards."""
    stand_in: Any = Kernels()
    package = session.__name__.rpartition(".")[0]
    for name, module in sys.modules.items():
        if name.startswith(package) and hasattr(module, "ops"):
            module.ops = stand_in  # type: ignore[attr-defined]
    for operator, name in OPERATORS.items():
        setattr(paddle.Tensor, operator, binary(stand_in, name, getattr(paddle.Tensor, operator)))
    core.runtime.half.emulated = lambda device: False


def binary(stand_in: Kernels, name: str, own: Any) -> Any:
    def operator(one: Tensor, other: Any) -> Any:
        if not isinstance(other, Tensor) or not {one.dtype, other.dtype} & {*HALVES}:
            return own(one, other)
        return getattr(stand_in, name)(one, other, *([False, False] if name == "matmul" else []))

    return operator
