"""The models, each a file of this folder with a MODEL: adding one adds its keys, its flags and its network."""
from __future__ import annotations

import importlib
import pkgutil

from core.models import attention, blocks
from core.models.graph import BlockSpec
from core.models.model import Model

MODELS: dict[str, Model] = {}
for _found in pkgutil.iter_modules(__path__):
    if not _found.name.startswith("_"):  # __main__ is the command
        _model = getattr(importlib.import_module(f"{__name__}.{_found.name}"), "MODEL", None)
        if _model is not None:
            MODELS[_model.name] = _model

ALL_KINDS: dict[str, BlockSpec] = {**blocks.KINDS, **attention.KINDS}
for _one in MODELS.values():
    ALL_KINDS.update(_one.kinds)

__all__ = ["ALL_KINDS", "MODELS", "Model"]
