"""Devices of PyTorch."""
from __future__ import annotations

import torch

from core.common.errors import UserError


def find_device(name: str) -> torch.device:
    """The torch device called `name`. Raises UserError saying what to install."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device = 'cuda': this PyTorch sees no CUDA device; install a CUDA build of torch "
                        "and the NVIDIA driver, or use --device cpu")
    if name == "npu":
        try:
            import torch_npu  # noqa: F401  # registers the device
        except (ImportError, RuntimeError, OSError) as error:
            raise UserError("device = 'npu': torch_npu can't be imported; install torch_npu, CANN and the Ascend "
                            "driver and source CANN's set_env.sh, or use --device cpu") from error
    return torch.device(name)
