"""`torch.npu`: what the tests and the torch backend ask of the device."""
from __future__ import annotations

import torch


def is_available() -> bool:
    return True


def device_count() -> int:
    return torch._C._accelerator_hooks_device_count()


def current_device() -> int:
    return torch.accelerator.current_device_index()


def set_device(device: torch.device | str | int) -> None:
    torch.accelerator.set_device_index(device)


def synchronize(device: torch.device | str | int | None = None) -> None:
    torch.accelerator.synchronize(device)


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16, torch.bfloat16]
