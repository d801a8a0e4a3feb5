"""Initial weights, batch order and dropout masks: stateless functions of seed, epoch and name.

Every tensor has its own Philox key, so no draw depends on what was drawn before it, in which order,
or in which framework. Bits come from `random_raw`, which NumPy keeps stable across versions, and what is made of them
uses operations that IEEE 754 defines to the bit (core.common.normals): the same on every CPU.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.common.arrays import Array
from core.common.bits import random_bits
from core.common.normals import normals
from core.models.graph import DropoutSite, Graph, ParameterSpec


def _uniform(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """The top 53 bits as float64 in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def initial_weights(graph: Graph, seed: int, dtype: str = "float32") -> dict[str, Array]:
    """Every parameter and statistic of `graph` by name, drawn in float64 and rounded once to `dtype`."""
    return {p.name: _draw(p, seed).reshape(p.shape).astype(dtype) for p in graph.parameters}


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


@dataclass(frozen=True)
class Masks:
    """The dropout masks of an epoch: 0, or 1 / (1 - rate) for a kept unit, made for the rows that are asked for.

    Row i belongs to the i-th row of that epoch's batch order. Each 64-bit draw serves two units.
    """

    sites: tuple[DropoutSite, ...]
    seed: int
    epoch: int
    dtype: str

    @property
    def row_bytes(self) -> int:
        """Of all sites."""
        return sum(site.width for site in self.sites) * np.dtype(self.dtype).itemsize

    def rows(self, start: int, stop: int) -> dict[str, Array]:
        """Per site the masks (rows, *shape) of rows `start` to `stop`, exclusive."""
        return {site.name: self._draw(site, start, stop) for site in self.sites}

    def _draw(self, site: DropoutSite, start: int, stop: int) -> Array:
        first, last = start * site.width, stop * site.width  # units
        bits = random_bits((last + 1) // 2, self.seed, "dropout", self.epoch, site.name, start=first // 2)
        halves = bits.view(np.uint32)[first % 2:][:last - first]
        kept = halves >= np.uint32(min(round(site.rate * 2**32), 2**32 - 1))  # P(dropped) = rate to 2^-32
        scale = np.asarray(1 / (1 - site.rate), dtype=self.dtype)
        mask: Array = (kept.astype(self.dtype) * scale).reshape(stop - start, *site.shape)
        return mask
