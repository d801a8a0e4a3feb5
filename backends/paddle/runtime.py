"""Devices of Paddle."""
from __future__ import annotations

import paddle
from paddle import Tensor

from backends.paddle.kernels import Place
from core.common.errors import UserError
from core.runtime.devices import index_among, kind_and_index


def find_device(name: str) -> Place:
    """The Paddle place called `name`: cpu, cuda, npu:1. Raises UserError saying what to install."""
    kind, _ = kind_and_index(name)
    if kind == "cuda":
        count = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
        if not count:
            raise UserError(f"device = {name!r}: this Paddle sees no CUDA device; install paddlepaddle-gpu from "
                            "Paddle's own package index and the NVIDIA driver, or use --device cpu")
        return paddle.CUDAPlace(index_among(name, count))
    if kind == "npu":
        if "npu" not in (paddle.device.get_all_custom_device_type() or ()):
            raise UserError(f"device = {name!r}: this Paddle has no NPU plugin; install paddle-custom-npu, CANN and "
                            "the Ascend driver and source CANN's set_env.sh, or use --device cpu")
        count = paddle.base.core.get_custom_device_count("npu")
        return paddle.CustomPlace("npu", index_among(name, count))
    return paddle.CPUPlace()


def device_of(tensor: Tensor) -> str:
    """Where a tensor lies, as find_device calls it: cpu, cuda:0, npu:1."""
    return str(tensor.place).removeprefix("Place(").removesuffix(")").replace("gpu", "cuda")
