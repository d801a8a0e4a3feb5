"""The hyperparameter schema: one flat, frozen, validated model.

YAML keys, command line flags, `--help`, docs/configuration.md and the search space are all made from the fields below.
Default values are the POM "confident" setting of the original authors' hyperparams.txt.
"""
from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from core.errors import UserError
from core.text import shown

MODALITIES = ("audio", "video", "text")
EMOTIONS = ("happy", "sad", "angry", "neutral")
OUTPUTS = {"mosi": 1, "pom": 16, "iemocap": 2}
DROPOUTS = (0.0, 0.1, 0.15, 0.2, 0.3, 0.5)
RATES = (0.0003, 0.0005, 0.001, 0.003)
RUN_PLACES = ("run_id", "signature", "output_path", "model_path")  # keys that name and place a run's folder
LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes; what file systems take
EPOCHS = {"mosi": 500, "pom": 500, "iemocap": 100}


def _split_names(value: Any) -> Any:
    """Flags say `audio,video`; YAML may say that or a list."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _modalities(value: Any) -> Any:
    """Their order is always audio, video, text."""
    names = _split_names(value)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return value
    if not names or len(set(names)) != len(names):
        raise ValueError(f"expected one to three different names out of {', '.join(MODALITIES)}")
    return tuple(sorted(names, key=lambda name: MODALITIES.index(name) if name in MODALITIES else 9))


def _frozen(value: Any) -> Any:
    """Sorted, each once: the order says nothing. None and the empty text are no names."""
    names = () if value is None or value == "" else _split_names(value)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return value
    return tuple(sorted(set(names)))


def _loss_scale(value: Any) -> Any:
    try:
        return value if value == "dynamic" else float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("expected dynamic or a number") from None


def _searched(*choices: float, **by_dataset: list[float]) -> Any:
    """What `core.search` tries for a key: the original's space, and where a data set has its own."""
    return {"search": list(choices), "search_by_dataset": by_dataset}


Modality = Literal["audio", "video", "text"]
Width = Annotated[int, Field(ge=1, le=65536)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=10)]


class Config(BaseModel):
    """One run, fully determined (together with the data). Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    # data
    dataset: Literal["mosi", "pom", "iemocap"] = Field(description="data set and task")
    emotion: Literal["happy", "sad", "angry", "neutral"] | None = Field(
        None, description="IEMOCAP only: the emotion to detect (the original's default: happy)")
    data: Literal["published", "synthetic"] = Field(
        "published", description="published: read DATA_DIR/<dataset>.pkl; synthetic: generate it")
    data_dir: Path = Field(Path("data"), description="folder of the published pickles, or one pickle file")
    store_dir: Path | None = Field(
        None, description="folder of the converted data (default: DATA_DIR/store)")
    modalities: Annotated[tuple[Modality, ...], BeforeValidator(_modalities)] = Field(
        ("audio", "video", "text"), description="comma-separated; subnet and factor of one left out don't exist")
    max_len: Annotated[int, Field(ge=1)] = Field(20, description="text steps kept, from the start")
    synthetic_seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="seed of the synthetic data, apart from the run's own seed")
    # model
    model: Literal["lmf", "tfn"] = Field(
        "lmf", description="fusion: lmf, low-rank; tfn, the full outer product (Zadeh et al., 2017)")
    audio_hidden: Width = Field(
        16, description="width of the audio subnet",
        json_schema_extra=_searched(4, 8, 16, iemocap=[8, 16, 32]))
    video_hidden: Width = Field(16, description="width of the video subnet", json_schema_extra=_searched(4, 8, 16))
    text_hidden: Width = Field(
        64, description="hidden size of the text LSTM",
        json_schema_extra=_searched(64, 128, 256))
    text_out: Width | None = Field(None, description="width of the text subnet (default: text_hidden // 2)")
    audio_dropout: Probability = Field(
        0.3, description="dropout on the normalised audio features",
        json_schema_extra=_searched(*DROPOUTS))
    video_dropout: Probability = Field(
        0.5, description="dropout on the normalised video features",
        json_schema_extra=_searched(*DROPOUTS))
    text_dropout: Probability = Field(
        0.2, description="dropout on the last LSTM state",
        json_schema_extra=_searched(*DROPOUTS))
    post_fusion_dropout: Probability = Field(
        0.5, description="dropout on what is fused (LMF: rank terms, TFN: outer product); idle unless "
                         "apply_post_fusion_dropout")
    apply_post_fusion_dropout: bool = Field(
        False, description="the original builds the post-fusion dropout and never applies it; true applies it")
    rank: Width = Field(
        4, description="LMF only: number of rank-1 terms of the fusion tensor",
        json_schema_extra=_searched(1, 4, 8, 16))
    post_fusion_dim: Annotated[int, Field(ge=0, le=65536)] = Field(
        32, description="TFN only: width of the two ReLU layers after the fusion; 0: none, h = W Z + b "
                        "(LMF's equation 2)")
    output_dim: Width | None = Field(None, description="outputs (set by the data: MOSI 1, POM 16, IEMOCAP 2)")
    # training
    factor_learning_rate: Rate = Field(
        0.0005, description="Adam's rate for the three factors (TFN: the fusion tensor)",
        json_schema_extra=_searched(*RATES))
    learning_rate: Rate = Field(
        0.001, description="Adam's rate for every other parameter",
        json_schema_extra=_searched(*RATES))
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="L2 coupled into Adam's gradient, all parameters",
        json_schema_extra=_searched(0.0, 0.001, 0.002, 0.01))
    frozen: Annotated[tuple[str, ...], BeforeValidator(_frozen)] = Field(
        (), description="comma-separated names of parameters that stay as they were drawn: no step, no decay "
                        "(fusion_weights,fusion_bias: the original's habit at the time of the paper)")
    batch_size: Width = Field(16, description="rows per step; the last, smaller batch is trained too",
                              json_schema_extra=_searched(4, 8, 16, 32, 64, 128))
    epochs: Annotated[int, Field(ge=1)] | None = Field(
        None, description="most epochs (default: MOSI and POM 500, IEMOCAP 100)")
    patience: Annotated[int, Field(ge=1)] = Field(
        20, description="stop after this many epochs without a lower validation loss")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="decides initial weights, batch order and dropout masks")
    # hardware
    device: Literal["cpu", "cuda", "npu"] = Field("cpu", description="where the network runs")
    precision: Literal["float32", "float64"] = Field("float32", description="dtype of weights and arithmetic")
    amp_level: Literal["O0", "O1", "O2"] = Field("O0", description="mixed precision level; O0 is none")
    loss_scale: Annotated[float | Literal["dynamic"], BeforeValidator(_loss_scale)] = Field(
        1.0, description="static loss scale, or dynamic")
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="CPU threads; PyTorch's last bits depend on it")
    # output
    run_id: Annotated[int, Field(ge=0)] | None = Field(
        None, description="number of the run folder (default: the next free one)")
    signature: str = Field(
        "", description="name of the run folder (default: made of the data set and emotion)",
        pattern=r"^[A-Za-z0-9._-]*$")
    output_path: Path = Field(Path("runs"), description="folder that holds the run folders")
    model_path: Path | None = Field(
        None, description="folder for checkpoints (default: inside the run folder)")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` as true, and pydantic true as 1."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("is a truth value, which this key doesn't take")
        return value

    @field_validator("data_dir", "store_dir", "output_path", "model_path", mode="before")
    @classmethod
    def _a_path_that_can_be(cls, value: Any) -> Any:
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

    @model_validator(mode="after")
    def _resolve(self) -> Config:
        """Fill the defaults that depend on other keys, and refuse combinations without a meaning."""
        fill = {
            "text_out": max(1, self.text_hidden // 2),
            "output_dim": OUTPUTS[self.dataset],
            "epochs": EPOCHS[self.dataset],
            "emotion": "happy" if self.dataset == "iemocap" else None,
        }
        for key, value in fill.items():
            if getattr(self, key) is None:
                object.__setattr__(self, key, value)  # frozen for everyone else, from here on
        if self.emotion is not None and self.dataset != "iemocap":
            raise ValueError(f"emotion = {self.emotion!r}: only dataset iemocap has emotions; leave it out")
        if self.output_dim != OUTPUTS[self.dataset]:
            raise ValueError(f"output_dim = {self.output_dim}: {self.dataset} has {OUTPUTS[self.dataset]} "
                             "outputs; leave output_dim out")
        if self.precision == "float64" and self.amp_level != "O0":
            raise ValueError(f"amp_level = {self.amp_level!r}: mixed precision starts from float32; "
                             "use precision float32 or amp_level O0")
        if self.loss_scale != "dynamic" and not 0 < self.loss_scale <= 2**24:
            raise ValueError(f"loss_scale = {self.loss_scale}: expected dynamic or a number in (0, {2**24}]")
        if self.amp_level == "O0" and self.loss_scale != 1.0:
            raise ValueError(f"loss_scale = {self.loss_scale}: needs amp_level O1 or O2, or leave it out")
        return self

    @property
    def task(self) -> str:
        """`classification` (IEMOCAP) or `regression` (MOSI, POM)."""
        return "classification" if self.dataset == "iemocap" else "regression"

    def identity(self) -> dict[str, Any]:
        """The keys that a resumed run must share, JSON-ready: those that decide the result or find its checkpoints."""
        places = {"data_dir", "store_dir", "run_id", "signature", "output_path"}
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in places}

    def changes(self, then: Config) -> dict[str, tuple[Any, Any]]:
        """Keys of the identity that differ: what they were in `then`, and what they are here."""
        before, now = then.identity(), self.identity()
        return {key: (before[key], now[key]) for key in now if before[key] != now[key]}


def make_config(values: Mapping[str, Any], origin: Mapping[str, str] | None = None) -> Config:
    """Validate `values` into a Config.

    `origin` tells where a key came from (`--rank`, `configs/x.yaml`), for the error message.
    Raises UserError, one line: key, value, bound, origin.
    """
    origin = origin or {}
    unknown = [key for key in values if key not in Config.model_fields]
    if unknown:
        raise UserError(f"{origin.get(unknown[0], 'configuration')}: unknown key {shown(unknown[0])}; "
                        "docs/configuration.md lists all keys")
    try:
        return Config(**values)
    except ValidationError as error:
        raise UserError("; ".join(_describe(item, origin) for item in _distinct(error))) from error


def _distinct(error: ValidationError) -> list[Any]:
    """One message per key: a union reports each of its branches."""
    return list({str(item["loc"][:1]): item for item in error.errors()}.values())


def _describe(item: Any, origin: Mapping[str, str]) -> str:
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should", "should")
    if not item["loc"]:  # a combination of keys: the message begins with the one to change
        subject, _, reason = message.partition(": ")
        key = subject.split(" = ")[0]
        return f"{subject} (from {origin[key]}): {reason}" if key in origin else message
    key = str(item["loc"][0])
    if item["type"] == "missing":
        return f"--{key} is required: {Config.model_fields[key].description}"
    came = f" (from {origin[key]})" if key in origin else ""
    return f"{key} = {shown(item['input'])}{came}: {message}"
