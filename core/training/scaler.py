"""The loss scale of mixed precision, kept on the host: static, or doubled and halved."""
from __future__ import annotations

from core.config import Config

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000  # steps without overflow before the scale doubles, as torch's GradScaler has it


def initial_scale(config: Config) -> float:
    """The loss scale before the first step."""
    return INITIAL_SCALE if config.loss_scale == "dynamic" else float(config.loss_scale)


class LossScaler:
    """Scale, and the number of good steps since it last changed. `state` values go into checkpoints."""

    def __init__(self, config: Config) -> None:
        self.dynamic = config.loss_scale == "dynamic"
        self.scale = initial_scale(config)
        self.good_steps = 0

    def load(self, scale: float, good_steps: int) -> None:
        self.scale, self.good_steps = scale, good_steps

    def update(self, finite: bool) -> None:
        """After a step: halve on overflow, double after GROWTH_INTERVAL good steps; static stays."""
        if not self.dynamic:
            return
        if not finite:
            self.scale, self.good_steps = max(self.scale / 2, 1.0), 0
            return
        self.good_steps += 1
        if self.good_steps == GROWTH_INTERVAL:
            self.scale, self.good_steps = self.scale * 2, 0
