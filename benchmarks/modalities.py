"""Models of more modalities than the schema has: `video_2`, `video_3`, ... have the widths and settings of `video`.

Specification, oracle and backends loop over whatever modalities a specification names; only the user's schema stops
at three.
"""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from core.config import Config
from core.models import InputDims, ModelSpec, build_spec

NUMBERED = re.compile(r"^(audio|video)_\d+")


class RepeatedDims(InputDims):
    """Widths in which a numbered modality has those of the one that it repeats."""

    def of(self, modality: str) -> int:
        return super().of(NUMBERED.sub(r"\1", modality))


class RepeatedConfig:
    """`config` with other modalities; `video_2_hidden` is its `video_hidden`, and so on."""

    def __init__(self, config: Config, modalities: Sequence[str]) -> None:
        self._config, self.modalities = config, tuple(modalities)

    def __getattr__(self, key: str) -> Any:
        return getattr(self._config, NUMBERED.sub(r"\1", key))


def repeated(modality: str, times: int) -> tuple[str, ...]:
    """`video`, `video_2`, ..., `times` of them."""
    return (modality, *(f"{modality}_{number}" for number in range(2, times + 1)))


def spec_of(config: Config, dims: InputDims, modalities: Sequence[str]) -> ModelSpec:
    """The specification of `config.model` for `modalities`, numbered ones among them."""
    widths = RepeatedDims(dims.audio, dims.video, dims.text, dims.steps)
    return build_spec(cast(Config, RepeatedConfig(config, modalities)), widths)
