"""Names of devices: cpu, cuda, cuda:1, npu, npu:1, as the key `device` has them."""
from __future__ import annotations

from core.common.errors import UserError


def kind_and_index(name: str) -> tuple[str, int]:
    """`cuda:1` -> cuda, 1; without a number it is the first."""
    kind, _, index = name.partition(":")
    return kind, int(index or 0)


def index_among(name: str, count: int) -> int:
    """The number of a device of which there are `count`. Raises UserError where there are too few."""
    kind, index = kind_and_index(name)
    if index >= count:
        raise UserError(f"device = {name!r}: there are {count} here, from {kind}:0 on; use one of these")
    return index
