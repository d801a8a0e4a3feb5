"""What a model file gives: a name, a word about it, its keys, its wiring, and the kinds of blocks that only it has."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from core.common.keys import Keys
from core.models.graph import BlockSpec


@dataclass(frozen=True)
class Model:
    """keys: a subclass of Keys; wiring: (builder, keys, data) -> the output.

    defaults: keys of the run whose default the model decides. sequences: whether it takes all sequences of
    the data; one that doesn't gets the mean over steps where the data's description has a word about that.
    """

    name: str
    about: str
    keys: type[Keys]
    wiring: Callable[..., Any]
    kinds: Mapping[str, BlockSpec] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    sequences: bool = False
