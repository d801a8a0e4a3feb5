"""NaN and infinities in published features become zero, and are counted.

The published acoustic features hold all three. The original code zeroes NaN in audio only: an
infinity makes torch's loss NaN, and kills the audio branch in Paddle and MindSpore without a word.
"""
from __future__ import annotations

import numpy as np
import numpy.typing as npt

from core.common.arrays import Array


def clean(features: Array) -> tuple[npt.NDArray[np.float32], dict[str, int]]:
    """float32 copy of `features` (any shape, numeric) with NaN, +inf and -inf set to 0, and their counts.

    Values are counted after the conversion: a float64 beyond float32's range is an infinity too.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values = features.astype(np.float32, order="C", copy=True)
    bad = ~np.isfinite(values)
    found = values[bad]
    counts = {"nan": int(np.isnan(found).sum()), "posinf": int(np.isposinf(found).sum()),
              "neginf": int(np.isneginf(found).sum())}
    values[bad] = 0
    return values, counts


def sentences(cleaning: dict[str, dict[str, dict[str, int]]]) -> tuple[str, ...]:
    """One sentence per split and modality in which something was cleaned."""
    return tuple(
        f"{split} {modality}: {counts['nan']} NaN, {counts['posinf']} +inf, {counts['neginf']} -inf set to 0"
        for split, modalities in cleaning.items() for modality, counts in modalities.items()
        if sum(counts.values()))
