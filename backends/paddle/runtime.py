"""Devices of Paddle."""
from __future__ import annotations

import paddle

from backends.paddle.kernels import Place
from core.common.errors import UserError


def find_device(name: str) -> Place:
    """The Paddle place called `name`. Raises UserError saying what to install."""
    if name == "cuda":
        if not paddle.device.is_compiled_with_cuda() or paddle.device.cuda.device_count() == 0:
            raise UserError("device = 'cuda': this Paddle sees no CUDA device; install paddlepaddle-gpu "
                            "and the NVIDIA driver, or use --device cpu")
        return paddle.CUDAPlace(0)
    if name == "npu":
        if "npu" not in (paddle.device.get_all_custom_device_type() or ()):
            raise UserError("device = 'npu': this Paddle has no NPU plugin; install paddle-custom-npu, CANN and the "
                            "Ascend driver and source CANN's set_env.sh, or use --device cpu")
        return paddle.base.core.CustomPlace("npu", 0)
    return paddle.CPUPlace()
