"""What sequences (N, T, D) need before a network takes them."""
from __future__ import annotations

import numpy as np

from core.common.arrays import Array
from core.data.specs import Padding


def keep_steps(values: Array, most: int | None, padding: Padding | None) -> Array:
    """(N, T, D) with at most `most` of its steps, contiguous; None: all. From the end that is not padding."""
    if most is None or values.shape[1] <= most:
        return np.ascontiguousarray(values)
    return np.ascontiguousarray(values[:, -most:] if padding == "front" else values[:, :most])
