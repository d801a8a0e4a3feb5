"""Numbers that synthetic data is made of: random bits, sums and products, the same bytes on every machine."""
from __future__ import annotations

import math

import numpy as np

from core.common.arrays import F64
from core.common.bits import random_bits


def uniform(count: int, stream: str) -> F64:
    """float64 (count,) in [0, 1), 32 bits each, from the Philox stream that is named."""
    halves = random_bits((count + 1) // 2, stream).astype("<u8").view("<u4")[:count]
    return np.asarray(halves * 2.0**-32, np.float64)


def noise(count: int, stream: str) -> F64:
    """float64 (count,), mean 0, variance 1, uniform: no transcendental function has a say in its bits."""
    return np.asarray((uniform(count, stream) - 0.5) * math.sqrt(12))


def signs(rows: int, share: float, stream: str) -> F64:
    """+1 in `share` of the rows, as exactly as whole rows allow, else -1; in random order."""
    order = np.argsort(uniform(rows, stream), kind="stable")
    return np.asarray(np.where(order < round(rows * share), 1.0, -1.0), np.float64)


def loadings(width: int, most: float, stream: str) -> F64:
    """(D,) in +-[0.7, 1] times `most`: how much of a channel is the hidden value."""
    draws = uniform(2 * width, stream)
    return np.asarray(np.where(draws[:width] < 0.5, -most, most) * (0.7 + 0.3 * draws[width:]), np.float64)
