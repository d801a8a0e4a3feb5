"""What a search tries: the original's grid, read off the schema, for the keys that the model and data have."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.config import Config, schema, to_values
from core.data.keys import INPUTS
from core.studies.defaults import plain

Space = dict[str, list[float]]


def search_space(config: Config, fixed: Mapping[str, Any]) -> Space:
    """Key -> choices, without the keys in `fixed` and those that `config` has no use for.

    In the order in which they are drawn, which a seed's settings depend on: what the model is made of, its rates, and
    how it is trained. Source: the original's train scripts, which draw settings from this grid at random.
    """
    space: Space = {}
    grids = config.known.grids
    used = {name for one in config.described.inputs for name in (one.name, one.settings)}
    unused = tuple(f"{name}_" for name in INPUTS if name not in used)  # keys of inputs that are left out
    for key, field in sorted(schema(config.model).model_fields.items(), key=lambda item: _place(item[0])):
        extra: Any = field.json_schema_extra or {}
        if "search" in extra and key not in fixed and not key.startswith(unused):
            space[key] = grids.get(key, extra["search"])
    return space


def default_setting(config: Config, space: Space) -> dict[str, Any]:
    """The keys of `space` as they are where nobody says them."""
    values = to_values(plain(config))
    return {key: values[key] for key in space}


def _place(key: str) -> int:
    return 2 if key in Config.model_fields else int(key.endswith("learning_rate"))
