"""What a data set is, as data: its inputs, its task, where it comes from. Nothing outside core/data names one."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from core.common.arrays import Array

Layout = Literal["rows", "sequence"]
Direction = Literal["min", "max"]
LossKind = Literal["l1", "mse", "huber", "cross_entropy"]
Reduction = Literal["sum", "mean"]
Padding = Literal["front", "end"]
Pooled = Literal["mean"]
SENTIMENT = ("MAE", "Corr", "Has0_acc_2", "Has0_F1_score", "Non0_acc_2", "Non0_F1_score", "Has0_F1_score_swapped",
             "Non0_F1_score_swapped", "Acc-7", "Mult_acc_7", "Mult_acc_5", "Mult_acc_3")
TRAITS = ("MAE", "Corr", "Acc")
AXES: dict[Layout, tuple[str, ...]] = {"rows": ("width",), "sequence": ("steps", "width")}  # of a row


@dataclass(frozen=True)
class InputSpec:
    """One input: `shape` of a row, float32 on disk. Layout `rows`: (width,); `sequence`: (steps, width).

    keys: whose keys of the configuration it takes, where those are not of its own name. pooled: of a sequence, what
    models get of it that take rows; of rows, what they are of a file's sequences. called: its names in a file, where
    not those of core.data.published.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout = "rows"
    keys: str = ""
    pooled: Pooled | None = None
    called: tuple[str, ...] = ()

    @property
    def settings(self) -> str:
        """The name that its keys begin with."""
        return self.keys or self.name

    @property
    def width(self) -> int:
        """Features, of a row or of every step."""
        return self.shape[-1]

    def taken(self, sequences: bool) -> InputSpec:
        """As a model gets it: one that takes `sequences` as it is, another pooled where there is a word about that."""
        if self.layout == "rows" or not self.pooled:
            return self
        return replace(self, pooled=None) if sequences else replace(self, shape=(self.width,), layout="rows")


@dataclass(frozen=True)
class Task:
    """What is predicted. `names`: one per output, or per class; `label_range`: bounds of a regression's labels.

    A regression's label is (N, O) float32, that of a classification (N,) int64. chosen: the measures that are reported;
    none: all of them.
    """

    kind: Literal["regression", "classification"]
    names: tuple[str, ...]
    label_range: tuple[float, float] | None = None
    chosen: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Columns that a model gives: scores, or a logit per class."""
        return len(self.names)

    @property
    def losses(self) -> tuple[LossKind, ...]:
        """The losses that fit; the first is the originals'."""
        return ("l1", "mse", "huber") if self.kind == "regression" else ("cross_entropy",)

    @property
    def measures(self) -> tuple[str, ...]:
        """What can be said of its predictions; of several scores, of each one and in the mean."""
        if self.kind == "classification":
            return ("F1", f"Acc-{self.outputs}")
        return SENTIMENT if self.outputs == 1 else TRAITS

    @property
    def metrics(self) -> dict[str, Direction]:
        """Metric, as core.training.metrics names it -> whether the lowest or the highest is the best."""
        names = self.chosen or self.measures
        if self.kind == "regression" and self.outputs > 1:
            names = (*names, *(f"{metric} {name}" for name in self.names for metric in names))
        return {name: "min" if name.split(" ")[0] == "MAE" else "max" for name in names}


@dataclass(frozen=True)
class Published:
    """The published file: rows of train, valid and test; its size in bytes and its sha256, where they are known."""

    rows: tuple[int, int, int]
    file_bytes: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class DataSpec:
    """A data set: as published in `core.data.published.DATASETS`, or as it was read, with its own widths.

    reader: who reads its file (core.data.readers). defaults: keys whose default the data set decides; grids: what a
    search tries where the data set has its own. parts: names of data sets in one file, each with a task of its own.
    files: what its file may be called, where not <name>.pkl. label_keys: what labels may be called in it;
    label_columns: those that are used, where not all. padding: at which end of a sequence it is; None where that isn't
    known, and sequences are kept from their start. description: digest of the file that describes it (a user's own).
    """

    name: str
    inputs: tuple[InputSpec, ...]
    task: Task
    reader: str = "splits"
    defaults: Mapping[str, Any] = field(default_factory=dict)
    grids: Mapping[str, list[float]] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    label_keys: tuple[str, ...] = ("label",)
    label_columns: tuple[int, ...] = ()
    padding: Padding | None = None
    published: Published = Published((0, 0, 0))
    description: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(one.name for one in self.inputs)

    def of(self, name: str) -> InputSpec:
        """The input called `name`."""
        return next(one for one in self.inputs if one.name == name)

    def chosen(self, names: Sequence[str]) -> DataSpec:
        """The same with the inputs `names` alone."""
        return replace(self, inputs=tuple(one for one in self.inputs if one.name in names))

    def taken(self, sequences: bool) -> DataSpec:
        """The same as a model gets it."""
        return replace(self, inputs=tuple(one.taken(sequences) for one in self.inputs))

    def measured(self, arrays: Mapping[str, Array]) -> DataSpec:
        """The same with the widths and steps of `arrays`."""
        return replace(self, inputs=tuple(replace(one, shape=arrays[one.name].shape[1:]) for one in self.inputs))

    def part(self, name: str | None) -> DataSpec:
        """The same with the task of a part; `X` stands for it in the names of outputs."""
        names = tuple(output.replace("X", name) for output in self.task.names) if name else self.task.names
        return replace(self, task=replace(self.task, names=names))

    @property
    def steps(self) -> int:
        """Steps of its sequences; 0 without one."""
        return next((one.shape[0] for one in self.inputs if one.layout == "sequence"), 0)

    @property
    def file_names(self) -> tuple[str, ...]:
        """What its file may be called."""
        return self.files or (f"{self.name}.pkl",)

    @property
    def file(self) -> str:
        """How to know the published file."""
        if self.description:
            return f"{self.file_names[0]}, as its description calls it,"
        known = self.published
        digest = f" ({known.file_bytes} bytes, sha256 {known.sha256})" if known.sha256 else ""
        return f"the published {' or '.join(self.file_names)}{digest}"

    def way_out_of_damage(self, path: Path) -> str:
        """For a file that is no whole pickle: under the published name it may be a broken copy of that one."""
        published = path.name in self.file_names and not self.description
        return "write it again with pickle.dump" + (f"; {self.file} can be fetched again" if published else "")
