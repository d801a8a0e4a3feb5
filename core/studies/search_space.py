"""What a search tries: the grid of the schema, for the keys that the model and data have a use for."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from core.common.errors import UserError
from core.config import Config, build_graph, make_config, schema, to_values
from core.data.keys import INPUTS
from core.models.graph import Graph
from core.studies.defaults import plain

Space = dict[str, list[Any]]
Draw = Callable[[str, list[Any]], Any]


def search_space(config: Config, fixed: Mapping[str, Any]) -> Space:
    """Key -> choices, without the keys in `fixed` and those that `config` has no use for.

    In the order in which they are drawn, which a seed's settings depend on: the kinds of blocks, on which the use of
    other keys depends; what else the model is made of; its rates; how it is trained. Of the kinds only those remain
    that can be built for these inputs, and of several that come to the same network the first. Source: the original's
    train scripts, which draw settings from this grid at random; what msa adds is chosen here.
    """
    space: Space = {}
    grids = config.known.grids
    used = {name for one in config.described.inputs for name in (one.name, one.settings)}
    unused = tuple(f"{name}_" for name in INPUTS if name not in used)  # keys of inputs that are left out
    for key, field in sorted(schema(config.model).model_fields.items(), key=_place):
        extra: Any = field.json_schema_extra or {}
        if "search" in extra and key not in fixed and not key.startswith(unused):
            choices = grids.get(key, extra["search"])
            choices = _different(fixed, key, choices) if _is_kind(field) else choices
            if len(choices) > 1:
                space[key] = choices
    return space


def drawn(space: Space, fixed: Mapping[str, Any], draw: Draw) -> dict[str, Any]:
    """A setting: `draw(key, choices)` for each key that has a use, in the order of the space as far as uses allow.

    What is left at last has none beside what was drawn, and stays at its default.
    """
    chosen: dict[str, Any] = {}
    waiting = dict(space)
    while True:
        idle = make_config({**fixed, **chosen}).idle
        key = next((key for key in waiting if key not in idle), None)
        if key is None:
            return chosen
        chosen[key] = draw(key, waiting.pop(key))


def default_setting(space: Space, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `space` that have a use, as they are where nobody says them."""
    values = to_values(plain(make_config(fixed)))
    return drawn(space, fixed, lambda key, choices: values[key])


def _different(fixed: Mapping[str, Any], key: str, choices: list[Any]) -> list[Any]:
    """Those of `choices` that can be built, each network once; all where only other keys give them a use."""
    if key in make_config(fixed).idle:
        return choices
    found: list[tuple[Any, Graph]] = []
    for choice in choices:
        try:
            graph = build_graph(make_config({**fixed, key: choice}))
        except UserError:  # not for these inputs, as cross-attention with one alone
            continue
        if all(graph != other for _, other in found):
            found.append((choice, graph))
    return [choice for choice, _ in found]


def _is_kind(field: Any) -> bool:
    """Whether a key says what something is, not how much."""
    return any(isinstance(choice, (str, bool)) for choice in field.json_schema_extra["search"])


def _place(item: tuple[str, Any]) -> int:
    key, field = item
    if "search" in (field.json_schema_extra or {}) and _is_kind(field):
        return 0
    return 3 if key in Config.model_fields else 2 if key.endswith("learning_rate") else 1
