"""The record that the rest of the project sees: three splits of arrays and where they came from."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.models import InputDims
from core.randomness import Array

Cleaning = Mapping[str, Mapping[str, Mapping[str, int]]]  # split -> modality -> {nan, posinf, neginf}


@dataclass(frozen=True)
class Split:
    """Arrays of one split, C-contiguous, row i of each belonging together.

    audio (N, A), video (N, V), text (N, T, D) float32, those in use; label (N, O) float32 for a
    regression, (N,) int64 class indices for a classification.
    """

    arrays: Mapping[str, Array]

    @property
    def rows(self) -> int:
        return len(self.arrays["label"])

    @property
    def inputs(self) -> dict[str, Array]:
        """The arrays without the label."""
        return {name: value for name, value in self.arrays.items() if name != "label"}


def dims_of(arrays: Mapping[str, Array]) -> InputDims:
    """Widths (and text steps) of the modalities among `arrays`."""
    widths = {name: arrays[name].shape[-1] if name in arrays else 0 for name in ("audio", "video", "text")}
    return InputDims(**widths, steps=arrays["text"].shape[1] if "text" in arrays else 0)


@dataclass(frozen=True)
class Dataset:
    """One data set, ready to train on.

    splits: `train`, `valid`, `test`. dims: widths of the modalities in use and text
    steps, 0 where left out.
    label_names: one per output. fingerprint: hex sha256 of what decides the arrays. cleaning: per split
    and modality how many NaN, +inf and -inf became 0. source: the pickle; None for synthetic data.
    notes: sentences for a report's reader. ranges: of the training rows, as `core.data.ranges` makes them.
    """

    name: str
    emotion: str | None
    task: str
    splits: Mapping[str, Split]
    modalities: tuple[str, ...]
    dims: InputDims
    label_names: tuple[str, ...]
    synthetic: bool
    fingerprint: str
    cleaning: Cleaning
    source: str | None
    notes: tuple[str, ...] = ()
    ranges: Mapping[str, Array] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """How to call the data wherever a result is shown; synthetic data says so."""
        name = f"{self.name} {self.emotion}" if self.emotion else self.name
        return f"{name} (synthetic)" if self.synthetic else name
