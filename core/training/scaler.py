"""The loss scale that a run begins with."""
from __future__ import annotations

from core.config import Config


def initial_scale(config: Config) -> float:
    """The loss scale before the first step."""
    return config.loss_scale_init if config.loss_scale == "dynamic" else float(config.loss_scale)
