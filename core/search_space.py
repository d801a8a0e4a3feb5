"""What a search tries: the original's grid, read off the schema, for the keys that the model and data have."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.config import MODALITIES, Config

Space = dict[str, list[float]]


def search_space(config: Config, fixed: Mapping[str, Any]) -> Space:
    """Key -> choices, in the order of the schema; without the keys in `fixed` and those that `config` has no use for.

    Source: the original's train scripts, which draw settings from this grid at random.
    """
    space: Space = {}
    for key, field in Config.model_fields.items():
        extra: Any = field.json_schema_extra or {}
        if "search" not in extra or key in fixed or not _used(key, config):
            continue
        space[key] = extra["search_by_dataset"].get(config.dataset, extra["search"])
    return space


def _used(key: str, config: Config) -> bool:
    owner = key.split("_")[0]
    if owner in MODALITIES:
        return owner in config.modalities
    return key != "rank" or config.model == "lmf"
