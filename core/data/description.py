"""A data set of one's own, described in a YAML file: what its file holds, and what is to be predicted from it.

The keys below are those of the file; docs/data.md shows one. A run keeps the whole description in its configuration.
"""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from core.common.errors import UserError
from core.common.text import shown
from core.data.published import DATASETS
from core.data.specs import DataSpec, InputSpec, Layout, Padding, Pooled, Published, Task

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")]
Key = Annotated[str, Field(min_length=1, max_length=100)]
Size = Annotated[int, Field(ge=1, le=65536, strict=True)]
Column = Annotated[int, Field(ge=0, lt=2**31, strict=True)]
Bound = Annotated[float, Field(ge=-1e30, le=1e30, strict=True)]
Words = Annotated[tuple[Word, ...], Field(max_length=200)]
LAYOUTS: dict[int, Layout] = {1: "rows", 2: "sequence"}  # axes of a row
PLAIN = ("MAE", "Corr")  # of one score, unless the description says more: the others are about sentiment
RESERVED = "label"  # what the labels are called beside the inputs


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class DescribedInput(_Described):
    """One input. shape: of a row, [width] or [steps, width]. key: its name in the file; keys: whose keys of the
    configuration it takes (audio: those that begin with `audio_`); pooled: what models get that take no sequences."""

    name: Name
    shape: Annotated[tuple[Size, ...], Field(min_length=1, max_length=2)]
    layout: Layout | None = None
    key: Key | None = None
    keys: Name | None = None
    pooled: Pooled | None = None

    @field_validator("name")
    @classmethod
    def _free(cls, value: str) -> str:
        if value == RESERVED:
            raise ValueError("is what labels are called; choose another name")
        return value

    @model_validator(mode="after")
    def _one_layout(self) -> DescribedInput:
        layout = LAYOUTS[len(self.shape)]
        if self.layout not in (None, layout):
            raise ValueError(f"layout = {self.layout}: the shape {list(self.shape)} is {layout}, [width] is rows and "
                             "[steps, width] a sequence")
        if self.pooled and layout == "rows":
            raise ValueError(f"pooled = {self.pooled}: {self.name} has no steps to be pooled; leave it out")
        return self

    def spec(self) -> InputSpec:
        return InputSpec(self.name, self.shape, LAYOUTS[len(self.shape)], self.keys or "", self.pooled,
                         (self.key,) if self.key else ())


class Description(_Described):
    """A data set. outputs: a name per score, with the range that labels lie in; or classes: a name per class.

    file: its name in DATA_DIR. label: the key of the labels; columns: those of its columns that are used. padding: at
    which end of sequences it is. synthetic_rows: of train, valid and test in generated data.
    """

    name: Name
    file: Annotated[str, Field(pattern=r"^[^/\x00]{1,200}\.(pkl|npz)$")]
    inputs: Annotated[tuple[DescribedInput, ...], Field(min_length=1, max_length=8)]
    label: Key = "labels"
    columns: Annotated[tuple[Column, ...], Field(max_length=200)] = ()
    outputs: Words = ()
    range: tuple[Bound, Bound] | None = None
    classes: Words = ()
    metrics: tuple[str, ...] = ()
    padding: Padding = "front"
    synthetic_rows: tuple[Size, Size, Size] = (600, 100, 200)

    @field_validator("name")
    @classmethod
    def _not_published(cls, value: str) -> str:
        if value in DATASETS:
            raise ValueError("is the name of a published data set; choose another")
        return value

    @field_validator("inputs")
    @classmethod
    def _different_inputs(cls, value: tuple[DescribedInput, ...]) -> tuple[DescribedInput, ...]:
        _different([one.name for one in value])
        return value

    @field_validator("columns", "outputs", "classes", "metrics")
    @classmethod
    def _different_values(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        _different(value)
        return value

    @model_validator(mode="after")
    def _one_task(self) -> Description:
        if bool(self.outputs) == bool(self.classes):
            raise ValueError("outputs: expected either outputs with a range (scores) or classes, "
                             f"found {'both' if self.outputs else 'neither'}")
        if bool(self.outputs) != bool(self.range):
            raise ValueError("range: expected the lowest and the highest label, [low, high], beside outputs and only "
                             "there")
        if self.range and self.range[0] >= self.range[1]:
            raise ValueError(f"range = {list(self.range)}: expected [low, high] with low below high")
        if len(self.classes) == 1:
            raise ValueError("classes: names one, expected two or more")
        if self.columns and self.outputs and len(self.columns) != len(self.outputs):
            raise ValueError(f"columns: {len(self.columns)} of them for {len(self.outputs)} outputs, expected one each")
        known = _task(self).measures
        unknown = [name for name in self.metrics if name not in known]
        if unknown:
            raise ValueError(f"metrics: {', '.join(map(shown, unknown))} is none of this task; known are "
                             f"{', '.join(known)}")
        return self

    def spec(self) -> DataSpec:
        """What the rest of the project takes."""
        return _spec(self)

    def digest(self) -> str:
        """Hex sha256 of all that it says."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def _task(one: Description) -> Task:
    if one.classes:
        return Task("classification", one.classes, chosen=one.metrics)
    return Task("regression", one.outputs, one.range, one.metrics or (PLAIN if len(one.outputs) == 1 else ()))


@cache
def _spec(one: Description) -> DataSpec:
    return DataSpec(one.name, tuple(each.spec() for each in one.inputs), _task(one), defaults={"epochs": 100},
                    files=(one.file,), label_keys=(one.label,), label_columns=one.columns, padding=one.padding,
                    published=Published(one.synthetic_rows), description=one.digest())


def read_description(values: Mapping[Any, Any], where: str) -> Description:
    """The description that `values` are. Raises UserError beginning with `where` and naming the first wrong key."""
    try:
        return Description.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
        if first["type"] == "missing":
            message = f"is missing; {Description.__name__.lower()}s have {', '.join(Description.model_fields)}"
        elif first["type"] == "extra_forbidden":
            message = "is no key of a data description; docs/data.md lists them"
        elif key and not isinstance(first["input"], Mapping):
            key = f"{key} = {shown(first['input'], 80)}"
        raise UserError(f"{where}: {key}: {message}" if key else f"{where}: {message}") from error


def _different(values: Any) -> None:
    twice = [value for place, value in enumerate(values) if value in values[:place]]
    if twice:
        raise ValueError(f"names {shown(twice[0])} twice")
