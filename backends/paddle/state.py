"""Between the neutral state and Paddle's tensors: layouts, and groups of parameters in one tensor."""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor

from backends.paddle.kernels import ops
from core.common.arrays import Array
from core.models.graph import ParameterSpec
from core.runtime import layouts

LAYOUTS = {
    "matrix": layouts.Layout(lambda array: array.T, lambda array, shape: array.T),  # (out, in) <-> (in, out)
    "factor": layouts.Layout(  # (R, 1 + H, O) <-> (1 + H, R O)
        lambda array: array.transpose(1, 0, 2).reshape(array.shape[1], -1),
        lambda array, shape: array.reshape(shape[1], shape[0], shape[2]).transpose(1, 0, 2)),
    "sequence": layouts.Layout(lambda array: array.swapaxes(0, 1), lambda array, shape: array.swapaxes(0, 1)),
}


def to_numpy(tensor: Tensor) -> Array:
    """A copy on the host; of half precision, which NumPy doesn't all know, as float32."""
    if tensor.dtype in (paddle.float16, paddle.bfloat16):
        tensor = tensor.astype("float32")
    array: Array = tensor.numpy().copy()
    return array


class Flat(layouts.Flat[Tensor]):
    """Parameters of a group in one tensor, on the device."""

    def __init__(self, parameters: Sequence[ParameterSpec], dtype: paddle.dtype) -> None:
        super().__init__(parameters, LAYOUTS)
        self.value = paddle.zeros([self.size], dtype)

    def put(self, values: Array) -> None:
        with paddle.no_grad():
            ops.assign_out_(paddle.to_tensor(np.asarray(values), dtype=self.value.dtype), self.value)

    def take(self) -> Array:
        return to_numpy(self.value)

    def view(self, name: str) -> Tensor:
        start, stop, shape = self.places[name]
        return self.value[start:stop].reshape(list(shape))

    def owns(self, tensor: Tensor) -> bool:
        offset: int = tensor.data_ptr() - self.value.data_ptr()
        return 0 <= offset < self.value.size * self.value.element_size()
