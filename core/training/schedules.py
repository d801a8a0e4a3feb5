"""Learning rates, step by step and group by group."""
from __future__ import annotations

import numpy as np

from core.common.arrays import F64
from core.common.normals import cos_of_turns
from core.config import Config
from core.models.graph import Graph


def step_rates(graph: Graph, config: Config, epoch: int, steps: int) -> F64:
    """(steps, groups) of `epoch`, counted from 0.

    cosine: rate (1 + cos(pi t / T)) / 2 at step t of T in all epochs, torch's CosineAnnealingLR stepped after each
    step; with a cosine that has the same bits on every CPU.
    """
    rates = np.array([group.rate for group in graph.groups], np.float64)  # (G,)
    if config.schedule == "constant":
        return np.tile(rates, (steps, 1))
    done = np.arange(epoch * steps, (epoch + 1) * steps, dtype=np.float64)  # steps taken before each
    return np.asarray((1 + cos_of_turns(done / (2.0 * config.epochs * steps)))[:, None] / 2 * rates)
