"""The keys that choose the data."""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from core.common.keys import Keys, OneOf, split_names
from core.common.text import shown
from core.data.description import Description
from core.data.published import DATASETS
from core.data.specs import DataSpec

LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes; what file systems take
INPUTS = tuple(dict.fromkeys(name for spec in DATASETS.values() for name in spec.names))
PARTS = tuple(dict.fromkeys(part for spec in DATASETS.values() for part in spec.parts))
WITH_PARTS = [spec.name for spec in DATASETS.values() if spec.parts]
SAME = {"vision": "video", "video": "vision"}  # what data sets call what is seen


def path_that_can_be(value: Any) -> Any:
    """A file may say what no file system takes; asked for it, the system would answer with an exception."""
    if isinstance(value, (str, Path)):
        try:
            names = os.fsencode(value).split(b"/")
        except UnicodeEncodeError:  # half of a pair of surrogates
            raise ValueError("holds a character that no path can have") from None
        if b"\0" in b"".join(names):
            raise ValueError("holds a NUL, which no path can have")
        if max(map(len, names)) > LONGEST_NAME or sum(map(len, names)) > LONGEST_PATH:
            raise ValueError(f"is too long for a path: at most {LONGEST_NAME} bytes between two slashes, "
                             f"{LONGEST_PATH} in all")
    return value


def as_text(value: Any) -> Any:
    """`happy` of `b'happy'`, as users of the Ascend port write a key of the published pickles; all else as it is."""
    found = re.fullmatch(r"b(['\"])(\w+)\1", value) if isinstance(value, str) else None
    return found[2] if found else value


def spec_of(given: Mapping[str, Any]) -> DataSpec:
    """What the keys in `given` say of the data: a description of one's own, or a published data set by name."""
    described: Description | None = given["description"]
    return DATASETS[given["dataset"]] if described is None else described.spec()


def by_dataset(key: str) -> Callable[[dict[str, Any]], Any]:
    """The default of `key` where the data set decides it."""
    return lambda given: spec_of(given).defaults.get(key)


def by_name(of: Callable[[DataSpec], object]) -> str:
    """`MOSI 500, POM 500, IEMOCAP 100`, for the data sets of which there is something to say."""
    return ", ".join(f"{name.upper()} {said}" for name, spec in DATASETS.items() if (said := of(spec)) is not None)


AnyPath = Annotated[Path, BeforeValidator(path_that_can_be)]


class DataKeys(Keys):
    """Which data, from where, and how much of it."""

    description: Description | None = Field(
        None, description="YAML file of a data set of one's own, as --dataset FILE.yaml; a run keeps all that it says "
                          "(docs/data.md)")
    dataset: str = Field(description="data set and task; a YAML file describes one of your own",
                         json_schema_extra={"enum": [*DATASETS, "FILE.yaml"]})
    emotion: Annotated[str, OneOf(PARTS), BeforeValidator(as_text)] | None = Field(
        default_factory=lambda given: next(iter(spec_of(given).parts), None),
        description=f"{', '.join(map(str.upper, WITH_PARTS))} only: the emotion to detect "
                    f"(the original's default: {PARTS[0]})")
    data: Literal["published", "synthetic"] = Field(
        "published", description="published: read its file in DATA_DIR; synthetic: generate it")
    data_dir: AnyPath = Field(Path("data"), description="folder of the published pickles, or one pickle file")
    store_dir: AnyPath | None = Field(None, description="folder of the converted data (default: DATA_DIR/store)")
    modalities: tuple[str, ...] = Field(
        default_factory=lambda given: spec_of(given).names,
        description="comma-separated inputs of the data set (default: all of them); subnet and factor of one left out "
                    "don't exist; video and vision are the same")
    max_len: Annotated[int, Field(ge=1)] | None = Field(
        default_factory=by_dataset("max_len"),
        description=f"steps kept of each sequence, from the start, or where padding is in front from the end (default: "
                    f"{by_name(lambda spec: spec.defaults.get('max_len'))}, others all)")
    synthetic_seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="seed of the synthetic data, apart from the run's own seed")

    @field_validator("dataset")
    @classmethod
    def _published_or_described(cls, value: str, info: ValidationInfo) -> str:
        described = info.data.get("description")
        if value not in DATASETS and not (described and described.name == value):
            names = list(map(repr, DATASETS))
            raise ValueError(f"should be {', '.join(names[:-1])} or {names[-1]}, or the YAML file of a data "
                             "description (docs/data.md)")
        return value

    @field_validator("emotion")
    @classmethod
    def _only_where_there_are_parts(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and {"dataset", "description"} <= info.data.keys() and not spec_of(info.data).parts:
            raise ValueError(f"only dataset {' or '.join(WITH_PARTS)} has emotions; leave it out")
        return value

    @field_validator("modalities", mode="before")
    @classmethod
    def _inputs_of_the_data(cls, value: Any, info: ValidationInfo) -> Any:
        """Different names, in the order of the data set's inputs."""
        if not {"dataset", "description"} <= info.data.keys():  # then these are what is wrong
            return value
        known, names = spec_of(info.data).names, split_names(value)
        if not names or not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"expected names, one or more out of {', '.join(known)}")
        names = [SAME[name] if name not in known and SAME.get(name) in known else name for name in names]
        if len(set(names)) != len(names):
            raise ValueError(f"expected different names out of {', '.join(known)}")
        for name in names:
            if name not in known:
                raise ValueError(f"{info.data['dataset']} has no input {shown(name)}; it has {', '.join(known)}")
        return tuple(sorted(names, key=known.index))

    @property
    def takes_sequences(self) -> bool:
        """Whether the model takes sequences where the data offers rows instead."""
        return True

    @property
    def known(self) -> DataSpec:
        """The description of the whole data set."""
        return DATASETS[self.dataset] if self.description is None else self.description.spec()

    @property
    def described(self) -> DataSpec:
        """The description of the chosen inputs as the model gets them, with the task of the chosen emotion."""
        return self.known.chosen(self.modalities).part(self.emotion).taken(self.takes_sequences)
