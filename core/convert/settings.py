"""What a whole module carries beside its weights: its dropouts, and what else decides its outputs."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.common.errors import UserError
from core.config import Config
from core.convert.network import PublishedNetwork
from core.convert.pickles import part_of, unwrapped
from core.convert.standins import Module


@dataclass(frozen=True)
class Setting:
    """A value as the file has it, which may be anything, and where it stands there."""

    value: Any
    where: str


def settings_of(value: Any, published: PublishedNetwork) -> dict[str, Setting]:
    """What the whole module in `value` tells, by the key of the configuration or the file's own name.

    Nothing of a state dict. What a dropout module does counts more than the number it was made from.
    """
    inner = unwrapped(value)
    network = _network(inner, published.anchor) if isinstance(inner, Module) else None
    if network is None:
        return {}
    found: dict[str, Setting] = {}
    for key, place in published.dropouts.items():
        module = _at(network, place.module)
        if module is not None and "p" in module.attributes:
            found[key] = Setting(_number(module.attributes["p"]), f"{place.module}.p")
        elif place.attribute in network.attributes:
            found[key] = Setting(_number(network.attributes[place.attribute]), place.attribute)
    for path in published.norms:
        module = _at(network, path)
        if module is not None and "eps" in module.attributes:
            found[f"{path}.eps"] = Setting(_number(module.attributes["eps"]), f"{path}.eps")
    softmax = published.softmax
    if softmax and softmax in network.attributes:
        found[softmax] = Setting(network.attributes[softmax], softmax)
    return found


def dropouts(settings: Mapping[str, Setting], inputs: Collection[str], given: Collection[str], path: Path,
             published: PublishedNetwork) -> dict[str, float]:
    """The dropouts that the file tells of `inputs`.

    Raises UserError, one line, for a value that no dropout can have, unless its key is among the `given`, which win.
    """
    told: dict[str, float] = {}
    for key, place in published.dropouts.items():
        if key not in settings or (place.input and place.input not in inputs):
            continue
        value, where = settings[key].value, settings[key].where
        if type(value) in (int, float) and 0 <= value < 1:
            told[key] = float(value)
        elif key not in given:
            raise UserError(f"{path}: {where} is {_shown(value)}, expected a probability from 0 to below 1; "
                            f"give the right one with --{key}")
    return told


def refuse_other_outputs(settings: Mapping[str, Setting], config: Config, path: Path, published: PublishedNetwork
                         ) -> None:
    """Raises UserError where the module computes something else with the same weights."""
    way_out = f"convert a checkpoint of {published.title} as published"
    for norm, eps in published.norms.items():
        key = f"{norm}.eps"
        if key in settings and settings[key].value != eps:
            raise UserError(f"{path}: {key} is {_shown(settings[key].value)}, expected {eps}: with another the same "
                            f"weights give other outputs; {way_out}")
    key, kind = published.softmax, config.described.task.kind
    if key in settings and settings[key].value is not False and kind == "regression":
        raise UserError(f"{path}: {key} is {_shown(settings[key].value)}, expected False: {config.dataset}'s "
                        f"outputs are scores, no probabilities; {way_out}")


def _number(value: Any) -> Any:
    """A NumPy scalar as Python's number; anything else as it is."""
    array = value.numpy() if hasattr(value, "numpy") else value
    plain = isinstance(array, (np.ndarray, np.generic)) and array.size == 1 and array.dtype.kind in "fiu"
    return array.item() if plain else value


def _shown(value: Any) -> str:
    """A value of the file's choosing for a message: a number of some digits, else only its kind."""
    short = type(value) in (float, bool) or (type(value) is int and value.bit_length() < 64)
    return str(value) if short else f"a {type(value).__name__}"


def _network(module: Module, anchor: str) -> Module | None:
    """The module that has the tensor `anchor`: `module` or one within it, as DataParallel has it."""
    folder, _, name = anchor.rpartition(".")
    holder = _at(module, folder) if folder else module
    if holder is not None and name in part_of(holder, "_parameters"):
        return module
    inner = (_network(item, anchor) for item in part_of(module, "_modules").values() if isinstance(item, Module))
    return next((found for found in inner if found), None)


def _at(module: Module, path: str) -> Module | None:
    """The module below `module` under a dotted name."""
    found: Any = module
    for name in path.split("."):
        found = part_of(found, "_modules").get(name) if isinstance(found, Module) else None
    return found if isinstance(found, Module) else None
