"""What has to be known of a published network to find it in a file: its tensors, its settings, what its shapes tell."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.common.arrays import Array
from core.common.errors import UserError
from core.config import Config
from core.data.specs import InputSpec

Tensors = Mapping[str, Array]
Inputs = tuple[InputSpec, ...]


@dataclass(frozen=True)
class Dropout:
    """Where a whole module keeps a dropout: in the `module` that drops, or the network's `attribute` it was made from.

    input: the input that it belongs to; empty where it belongs to all.
    """

    module: str
    attribute: str
    input: str = ""


@dataclass(frozen=True)
class PublishedNetwork:
    """A kind of network of which others have published weights.

    model: ours. classes: its module classes, in whatever Python module they stood; empty: they are called anything.
    inputs: all that it may have. axes: our names of its tensors, and how many axes each has. anchor: a tensor that
    every such network has; what stands before its name is a prefix of all names. head: one whose shape tells the
    outputs. renamed: by framework, pattern -> our name; transposed: by framework, pattern of our names. reasons: why a
    tensor can't be mapped -> pattern of its name. kind: which of these networks can be converted. dropouts: by our key;
    norms: modules with the eps that they must have; softmax: attribute that says whether outputs are probabilities,
    empty where there is none. detect: (tensors, path) -> keys of the configuration and inputs that the shapes tell,
    where sequences have one step; raises UserError. shown: (configuration, inputs) -> the network's sizes in words.
    """

    title: str
    model: str
    classes: tuple[str, ...]
    inputs: Inputs
    axes: Mapping[str, int]
    anchor: str
    head: str
    renamed: Mapping[str, Mapping[str, str]]
    transposed: Mapping[str, str]
    reasons: Mapping[str, str]
    kind: str
    dropouts: Mapping[str, Dropout]
    norms: Mapping[str, float]
    softmax: str
    detect: Callable[[Tensors, Path], tuple[dict[str, Any], Inputs]]
    shown: Callable[[Config, Inputs], str]


@dataclass(frozen=True)
class Shapes:
    """What the shapes of the tensors in the file `path` tell of a network called `title`."""

    tensors: Tensors
    path: Path
    title: str

    def size(self, name: str, axis: int) -> int:
        """The length of an axis. Raises UserError for a tensor that is missing."""
        if name not in self.tensors:
            raise UserError(f"{self.path}: {name} is missing, found {listed(self.tensors)}; {self.way_out}")
        return int(self.tensors[name].shape[axis])

    def width(self, name: str) -> int:
        """The inputs that a weight (out, in) takes. Raises UserError for none."""
        width = self.size(name, 1)
        if width == 0:
            raise UserError(f"{self.path}: {name} is {self.tensors[name].shape}, expected some inputs; {self.way_out}")
        return width

    def inputs(self, known: Inputs) -> Inputs:
        """Those that have a tensor. Raises UserError where none has."""
        chosen = tuple(one for one in known if any(name.startswith(f"{one.name}_") for name in self.tensors))
        if not chosen:
            raise UserError(f"{self.path}: no tensor of {self.title}, found {listed(self.tensors)}; convert a "
                            f"checkpoint of {self.title}")
        return chosen

    @property
    def way_out(self) -> str:
        return f"convert a complete checkpoint of {self.title}"


def listed(tensors: Tensors) -> str:
    """At most six names, for a message."""
    names = sorted(tensors)
    return (", ".join(names[:6]) or "no tensor") + (f" and {len(names) - 6} more" if len(names) > 6 else "")
