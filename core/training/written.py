"""What runs and plans leave as JSON, and how it is checked when it is read again."""
from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Count = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(gt=-1e150, lt=1e150)]  # squares of it are numbers too
Choice = bool | str | Finite  # of a key that a search tries


class _Written(BaseModel):
    """Types are those of JSON, not what might be turned into them; keys of later versions don't disturb."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class Metrics(_Written):
    """metrics.json of a finished run."""

    test: dict[str, Finite | None]
    best_valid_loss: Finite
    best_epoch: Count
    parameters: Count
    data: str
    notes: list[str]


class Began(_Written):
    """run.json: what was known when a run began."""

    data_fingerprint: str
    versions: dict[str, str] = {}


class Epoch(_Written):
    """A line of history.jsonl."""

    epoch: Count
    train_loss: Finite
    valid_loss: Finite


class Row(Epoch):
    """An epoch, as the checkpoint of a run keeps it."""

    best: bool
    skipped_steps: Count


class Progress(_Written):
    """Where a run stands: the `progress` of its last.safetensors."""

    epoch: Count
    best_loss: Finite | None
    best_epoch: Count | None
    stale: Count
    history: list[Row]


class Dims(_Written):
    """Widths of a row, as earlier versions wrote them."""

    audio: Count
    video: Count
    text: Count
    steps: Count


class Input(_Written):
    """An input of the network, as core.data.specs.InputSpec has it."""

    name: str
    shape: Annotated[list[Annotated[int, Field(ge=1, lt=2**31)]], Field(min_length=1, max_length=3)]
    layout: Literal["rows", "sequence"]
    keys: str
    pooled: Literal["mean"] | None = None
    called: list[str] = []


class Record(_Written):
    """The header of a checkpoint. `progress` is the trainer's, or the conversion's.

    tensors: name -> what core.common.digests.describe says; None before there were digests.
    """

    config: dict[str, Any]
    dims: Dims = Dims(audio=0, video=0, text=0, steps=0)
    inputs: list[Input] | None = None
    backend: str
    fingerprint: str
    step: Count
    loss_scale: Annotated[float, Field(gt=0, lt=1e150)]
    good_steps: Count
    progress: dict[str, Any]
    tensors: dict[str, dict[str, Any]] | None = None


class Failure(_Written):
    """An entry of failures.json."""

    run: str
    error: str


class Study(_Written):
    """User attributes of a search's study, or of that of its confirming runs."""

    data: str = ""
    space: dict[str, list[Choice]] = {}
    fixed: dict[str, Any] = {}
    confirms: str = ""


class Setting(_Written):
    """A setting to be confirmed."""

    params: dict[str, Choice]
    trial: Count | None
    value: Finite | None


class Trial(_Written):
    """User attributes of a trial, or of a confirming run; which of them are there is a matter of how far it came."""

    seed: Count = 0
    backend: str = ""
    host: str = ""
    pid: Annotated[int, Field(ge=1, lt=2**31)] = 1
    best_epoch: Count = 0
    epochs: Count = 0
    parameters: Count = 0
    seconds: Finite = 0.0
    error: str = ""
    params: dict[str, Choice] = {}
    trial: Count | None = None
    plan: list[Count] = []
    settings: list[Setting] = []


METRICS, BEGAN, FAILURES = TypeAdapter(Metrics), TypeAdapter(Began), TypeAdapter(list[Failure])
RECORD, PROGRESS = TypeAdapter(Record), TypeAdapter(Progress)
STUDY, TRIAL = TypeAdapter(Study), TypeAdapter(Trial)
HISTORY = TypeAdapter(Annotated[list[Epoch], Field(min_length=1)])
