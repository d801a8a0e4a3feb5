"""Between the neutral state and MindSpore's tensors: layouts, and groups of parameters in one tensor."""
from __future__ import annotations

from collections.abc import Sequence

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, ops

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
    """A copy on the host."""
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

    def owns(self, tensor: Tensor) -> bool:
        offset: int = tensor.data_ptr() - self.value.data_ptr()
        return 0 <= offset < self.value.nbytes
