"""The record that the rest of the project sees: three splits of arrays and where they came from."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.common.arrays import Array
from core.data.specs import DataSpec, InputSpec, Task

Cleaning = Mapping[str, Mapping[str, Mapping[str, int]]]  # split -> modality -> {nan, posinf, neginf}


@dataclass(frozen=True)
class Split:
    """Arrays of one split, C-contiguous, row i of each belonging together.

    Inputs in use, float32: rows (N, A), sequences (N, T, D); label (N, O) float32 for a regression, (N,) int64 class
    indices for a classification.
    """

    arrays: Mapping[str, Array]

    @property
    def rows(self) -> int:
        return len(self.arrays["label"])

    @property
    def inputs(self) -> dict[str, Array]:
        """The arrays without the label."""
        return {name: value for name, value in self.arrays.items() if name != "label"}


@dataclass(frozen=True)
class Dataset:
    """One data set, ready to train on.

    described: its inputs as they are here, and its task. part: which of several data sets in one file. splits: `train`,
    `valid`, `test`. fingerprint: hex sha256 of what decides the arrays. cleaning: per split and modality how many NaN,
    +inf and -inf became 0. source: the file; None for synthetic data. notes: sentences for a report's reader. ranges:
    of the training rows, as `core.data.ranges` makes them.
    """

    described: DataSpec
    part: str | None
    splits: Mapping[str, Split]
    synthetic: bool
    fingerprint: str
    cleaning: Cleaning
    source: str | None
    notes: tuple[str, ...] = ()
    ranges: Mapping[str, Array] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        return self.described.task

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        return self.described.inputs

    @property
    def title(self) -> str:
        """How to call the data wherever a result is shown; synthetic data says so."""
        name = " ".join(filter(None, (self.described.name, self.part)))
        return f"{name} (synthetic)" if self.synthetic else name
