"""Half precision in NumPy: what a number becomes when it is rounded to float16 or bfloat16."""
from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np

from core.common.arrays import F64, Array

HalfType = Literal["float16", "bfloat16"]
HALF_TYPES: tuple[HalfType, ...] = get_args(HalfType)


class Format(NamedTuple):
    """bits: of the significand, the hidden one among them; least: exponent of the smallest number above 0."""

    bits: int
    least: int
    largest: float

    @property
    def unit_roundoff(self) -> float:
        """The furthest that rounding moves a number, by its size."""
        return 2.0**-self.bits


FORMATS: dict[HalfType, Format] = {"float16": Format(11, -24, 65504.0),
                                   "bfloat16": Format(8, -133, (2 - 2.0**-7) * 2.0**127)}


def half_rounded(array: Array, kind: HalfType) -> F64:
    """The nearest numbers of the format, the even one of two; beyond the largest, inf. float64."""
    values, unit = np.asarray(array, np.float64), half_unit(array, kind)
    found = np.rint(values / unit) * unit
    return np.asarray(np.where(np.abs(found) > FORMATS[kind].largest, np.copysign(np.inf, values), found))


def half_unit(array: Array, kind: HalfType) -> F64:
    """The unit in the last place: the distance between neighbours in the format, there."""
    form, exponent = FORMATS[kind], np.frexp(np.asarray(array, np.float64))[1]
    return np.asarray(np.ldexp(1.0, np.maximum(exponent - form.bits, form.least)))
