"""What a whole module carries beside its weights: its dropouts, and what else decides its outputs."""
from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.config import MODALITIES, Config
from core.convert.pickles import part_of, unwrapped
from core.convert.standins import Module
from core.errors import UserError
from core.models import BATCHNORM_EPS

DROPOUTS = {  # key -> the module that drops, in the original, and the attribute of LMF that it was made from
    "audio_dropout": ("audio_subnet.drop", "audio_prob"), "video_dropout": ("video_subnet.drop", "video_prob"),
    "text_dropout": ("text_subnet.dropout", "text_prob"),
    "post_fusion_dropout": ("post_fusion_dropout", "post_fusion_prob"),
}
NORMS = ("audio_subnet.norm", "video_subnet.norm")
SOFTMAX = "use_softmax"


@dataclass(frozen=True)
class Setting:
    """A value as the file has it, which may be anything, and where it stands there."""

    value: Any
    where: str


def settings_of(value: Any) -> dict[str, Setting]:
    """What the whole module in `value` tells, by the key of the configuration or the file's own name.

    Nothing of a state dict. What a dropout module does counts more than the number it was made from.
    """
    inner = unwrapped(value)
    network = _network(inner) if isinstance(inner, Module) else None
    if network is None:
        return {}
    found: dict[str, Setting] = {}
    for key, (path, attribute) in DROPOUTS.items():
        module = _at(network, path)
        if module is not None and "p" in module.attributes:
            found[key] = Setting(_number(module.attributes["p"]), f"{path}.p")
        elif attribute in network.attributes:
            found[key] = Setting(_number(network.attributes[attribute]), attribute)
    for path in NORMS:
        module = _at(network, path)
        if module is not None and "eps" in module.attributes:
            found[f"{path}.eps"] = Setting(_number(module.attributes["eps"]), f"{path}.eps")
    if SOFTMAX in network.attributes:
        found[SOFTMAX] = Setting(network.attributes[SOFTMAX], SOFTMAX)
    return found


def dropouts(settings: Mapping[str, Setting], modalities: Collection[str], given: Collection[str],
             path: Path) -> dict[str, float]:
    """The dropouts that the file tells of `modalities`.

    Raises UserError, one line, for a value that no dropout can have, unless its key is among the `given`, which win.
    """
    told: dict[str, float] = {}
    for key in DROPOUTS:
        modality = key.removesuffix("_dropout")
        if key not in settings or (modality in MODALITIES and modality not in modalities):
            continue
        value, where = settings[key].value, settings[key].where
        if type(value) in (int, float) and 0 <= value < 1:
            told[key] = float(value)
        elif key not in given:
            raise UserError(f"{path}: {where} is {_shown(value)}, expected a probability from 0 to below 1; "
                            f"give the right one with --{key}")
    return told


def refuse_other_outputs(settings: Mapping[str, Setting], config: Config, path: Path) -> None:
    """Raises UserError where the module computes something else with the same weights."""
    for key in (f"{norm}.eps" for norm in NORMS):
        if key in settings and settings[key].value != BATCHNORM_EPS:
            raise UserError(f"{path}: {key} is {_shown(settings[key].value)}, expected {BATCHNORM_EPS}: with another "
                            "the same weights give other outputs; convert a checkpoint of LMF as published")
    if SOFTMAX in settings and settings[SOFTMAX].value is not False and config.task == "regression":
        raise UserError(f"{path}: {SOFTMAX} is {_shown(settings[SOFTMAX].value)}, expected False: {config.dataset}'s "
                        "outputs are scores, no probabilities; convert a checkpoint of LMF as published")


def _number(value: Any) -> Any:
    """A NumPy scalar as Python's number; anything else as it is."""
    array = value.numpy() if hasattr(value, "numpy") else value
    plain = isinstance(array, (np.ndarray, np.generic)) and array.size == 1 and array.dtype.kind in "fiu"
    return array.item() if plain else value


def _shown(value: Any) -> str:
    """A value of the file's choosing for a message: a number of some digits, else only its kind."""
    short = type(value) in (float, bool) or (type(value) is int and value.bit_length() < 64)
    return str(value) if short else f"a {type(value).__name__}"


def _network(module: Module) -> Module | None:
    """The module that holds the fusion's bias: `module` or one within it, as DataParallel has it."""
    if "fusion_bias" in part_of(module, "_parameters"):
        return module
    inner = (_network(item) for item in part_of(module, "_modules").values() if isinstance(item, Module))
    return next((found for found in inner if found), None)


def _at(module: Module, path: str) -> Module | None:
    """The module below `module` under a dotted name."""
    found: Any = module
    for name in path.split("."):
        found = part_of(found, "_modules").get(name) if isinstance(found, Module) else None
    return found if isinstance(found, Module) else None
