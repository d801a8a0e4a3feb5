"""Devices of PyTorch."""
from __future__ import annotations

import torch

from core.common.errors import UserError
from core.runtime.devices import index_among, kind_and_index


def find_device(name: str) -> torch.device:
    """The torch device called `name`: cpu, cuda, npu:1. Raises UserError saying what to install."""
    kind, _ = kind_and_index(name)
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device = {name!r}: this PyTorch sees no CUDA device; install a CUDA build of torch "
                            "and the NVIDIA driver, or use --device cpu")
        return torch.device(kind, index_among(name, torch.cuda.device_count()))
    if kind == "npu":
        try:
            import torch_npu  # registers the device
        except (ImportError, RuntimeError, OSError) as error:
            raise UserError(f"device = {name!r}: torch_npu can't be imported; install torch_npu, CANN and the Ascend "
                            "driver and source CANN's set_env.sh, or use --device cpu") from error
        if not torch_npu.npu.is_available():
            raise UserError(f"device = {name!r}: torch_npu sees no Ascend NPU; install the Ascend driver and source "
                            "CANN's set_env.sh, or use --device cpu")
        return torch.device(kind, index_among(name, torch_npu.npu.device_count()))
    return torch.device("cpu")
