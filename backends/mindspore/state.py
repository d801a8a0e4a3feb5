"""Between the neutral state and MindSpore's tensors: layouts, and groups of parameters in one tensor."""
from __future__ import annotations

from collections.abc import Sequence

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, ops

from backends.mindspore.kernels import cast
from core.common.arrays import Array
from core.models.graph import ParameterSpec
from core.runtime import layouts

LAYOUTS = {
    # (R, 1 + H, O) <-> (1 + H, O, R)
    "factor": layouts.Layout(lambda array: array.transpose(1, 2, 0), lambda array, shape: array.transpose(2, 0, 1)),
    # (B, R, O) <-> (B, O, R): what is fused, and its mask, follow the factors
    "terms": layouts.Layout(lambda array: array.swapaxes(1, 2), lambda array, shape: array.swapaxes(1, 2)),
    "sequence": layouts.Layout(lambda array: array.swapaxes(0, 1), lambda array, shape: array.swapaxes(0, 1)),
}


def to_numpy(tensor: Tensor) -> Array:
    """A copy on the host; of half precision, which NumPy doesn't all know, as float32."""
    if tensor.dtype in (mindspore.float16, mindspore.bfloat16):
        tensor = cast(tensor, mindspore.float32)
    array: Array = tensor.asnumpy().copy()
    return array


class Flat(layouts.Flat[Tensor]):
    """Parameters of a group in one tensor.

    Views follow every change of `value`; writing goes through `value`, because MindSpore's in-place operators do
    nothing, without a word, on views. So what an operator writes to lies alone in its Flat.
    """

    def __init__(self, parameters: Sequence[ParameterSpec], dtype: mindspore.dtype) -> None:
        super().__init__(parameters, LAYOUTS)
        # gradients are written by hand
        self.value = Parameter(Tensor(np.zeros(self.size), dtype), name="value", requires_grad=False)

    def put(self, values: Array) -> None:
        ops.assign(self.value, Tensor(values, self.value.dtype))

    def take(self) -> Array:
        return to_numpy(self.value)

    def view(self, name: str) -> Tensor:
        start, stop, shape = self.places[name]
        return ops.narrow(self.value, 0, start, stop - start).view(shape)

    def parameter(self, name: str) -> Parameter:
        """A parameter whose memory is its part of this; one that is alone here is the whole of it."""
        if len(self.parameters) == 1 and self.value.shape == self.places[name][2]:
            self.value.name = name
            return self.value
        view = self.view(name)
        parameter = Parameter(Tensor(np.zeros(view.shape), view.dtype), name=name, requires_grad=False)
        parameter.set_data(view)
        return parameter

    def owns(self, tensor: Tensor) -> bool:
        offset: int = tensor.data_ptr() - self.value.data_ptr()
        return 0 <= offset < self.value.nbytes
