"""Between the neutral state and PyTorch's tensors: layouts, and groups of parameters in one tensor."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.common.arrays import Array
from core.models.graph import ParameterSpec
from core.runtime import layouts

ALIGN = 16  # scalars: a vector register's worth, so that oneDNN finds its weights aligned
LAYOUTS = {
    "factor": layouts.Layout(  # (R, 1 + H, O) <-> (1 + H, R O)
        lambda array: array.transpose(1, 0, 2).reshape(array.shape[1], -1),
        lambda array, shape: array.reshape(shape[1], shape[0], shape[2]).transpose(1, 0, 2)),
    "sequence": layouts.Layout(lambda array: array.swapaxes(0, 1), lambda array, shape: array.swapaxes(0, 1)),
}


def to_numpy(tensor: Tensor) -> Array:
    """A copy on the host; of half precision, which NumPy doesn't all know, as float32."""
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    array: Array = tensor.detach().cpu().numpy().copy()
    return array


class Flat(layouts.Flat[Tensor]):
    """Parameters of a group in one tensor, on the device."""

    def __init__(self, parameters: Sequence[ParameterSpec], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(parameters, LAYOUTS, ALIGN)
        self.value = torch.zeros(self.size, dtype=dtype, device=device)

    def put(self, values: Array) -> None:
        self.value.copy_(torch.from_numpy(values))

    def take(self) -> Array:
        return to_numpy(self.value)

    def view(self, name: str) -> Tensor:
        start, stop, shape = self.places[name]
        return self.value[start:stop].view(shape)

    def owns(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() == self.value.untyped_storage().data_ptr()
