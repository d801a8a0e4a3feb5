"""What a tensor was when it was written, to be compared with what is read."""
from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from core.common.arrays import Array


def describe(array: Array) -> dict[str, Any]:
    """JSON-ready dtype, shape and hex sha256 of the bytes, row-major. Any changed bit of the tensor changes it."""
    digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": digest}


def difference(array: Array, written: Mapping[str, Any]) -> str | None:
    """How `array` differs from what `describe` said when it was written: `sha256 12ab.., written 34cd..`, or None."""
    found = describe(array)
    for key, value in found.items():
        if written.get(key) != value:
            shown = [f"{item[:12]}.." if key == "sha256" and isinstance(item, str) else f"{item}"[:80]
                     for item in (value, written.get(key))]
            return f"{key} {shown[0]}, written {shown[1]}"
    return None
