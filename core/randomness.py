"""Initial weights, batch order and dropout masks: stateless functions of seed, epoch and name.

Every tensor has its own Philox key, so no draw depends on what was drawn before it, in which order,
or in which framework. Bits come from `random_raw`, which NumPy keeps stable across versions, and what is made of them
uses operations that IEEE 754 defines to the bit (core.normals): the same on every CPU.
"""
from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from core.models import ModelSpec, ParameterSpec
from core.normals import normals

Array = npt.NDArray[np.generic]


def random_bits(count: int, *key: object) -> npt.NDArray[np.uint64]:
    """`count` uniform 64-bit integers from the stream that `key` names."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    stream = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
    bits: npt.NDArray[np.uint64] = np.atleast_1d(stream.random_raw(count))
    return bits


def _uniform(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """The top 53 bits as float64 in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def initial_weights(spec: ModelSpec, seed: int, dtype: str = "float32") -> dict[str, Array]:
    """Every parameter and statistic of `spec` by name, drawn in float64 and rounded once to `dtype`."""
    return {p.name: _draw(p, seed).reshape(p.shape).astype(dtype) for p in spec.parameters}


def _draw(parameter: ParameterSpec, seed: int) -> npt.NDArray[np.float64]:
    count = int(np.prod(parameter.shape))
    if parameter.init in ("zeros", "ones"):
        return np.full(count, float(parameter.init == "ones"))
    if parameter.init == "normal":
        uniform = _uniform(random_bits(2 * count, seed, "init", parameter.name))
        return normals(uniform[:count], uniform[count:]) * parameter.scale
    uniform = _uniform(random_bits(count, seed, "init", parameter.name))
    return (2 * uniform - 1) * parameter.scale


def batch_order(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    """The order of the training rows in `epoch`: a permutation of 0 .. rows - 1, int64 (rows,)."""
    return np.argsort(random_bits(rows, seed, "order", epoch), kind="stable").astype(np.int64)


def dropout_masks(spec: ModelSpec, seed: int, epoch: int, rows: int, dtype: str = "float32") -> dict[str, Array]:
    """Per dropout site a mask (rows, width): 0, or 1 / (1 - rate) for a kept unit.

    Row i belongs to the i-th row of that epoch's batch order. Each 64-bit draw serves two units.
    """
    masks: dict[str, Array] = {}
    for site in spec.dropout_sites:
        count = rows * site.width
        halves = random_bits((count + 1) // 2, seed, "dropout", epoch, site.name).view(np.uint32)[:count]
        kept = halves >= np.uint32(min(round(site.rate * 2**32), 2**32 - 1))  # P(dropped) = rate to 2^-32
        scale = np.asarray(1 / (1 - site.rate), dtype=dtype)
        masks[site.name] = (kept.astype(dtype) * scale).reshape(rows, site.width)
    return masks
