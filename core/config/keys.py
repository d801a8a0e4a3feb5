"""The keys that every run has, whatever its model: training, hardware, output, beside those of the data.

YAML keys, command line flags, `--help`, docs/configuration.md and the search space are all made from the fields below
and those of the models (core/models).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from core.common.half import HalfType
from core.common.keys import OneOf, Rate, Width, searched, split_names
from core.data.keys import AnyPath, DataKeys, by_dataset, by_name, spec_of
from core.data.specs import LossKind, Reduction
from core.models import MODELS
from core.models.precision import Level

Scale = Annotated[float, Field(ge=1, le=2.0**127)]
RUN_PLACES = ("run_id", "signature", "output_path", "model_path")  # keys that name and place a run's folder


def _frozen(value: Any) -> Any:
    """Sorted, each once: the order says nothing. None and the empty text are no names."""
    names = () if value is None or value == "" else split_names(value)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        return value
    return tuple(sorted(set(names)))


def _loss_scale(value: Any) -> Any:
    """`none` is the scale 1."""
    try:
        return value if value == "dynamic" else 1.0 if value in (None, "none") else float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("expected none, dynamic or a number") from None


def _device(value: Any) -> Any:
    """With the names that users of Paddle and MindSpore know: gpu, Ascend."""
    if not isinstance(value, str):
        return value
    kind, colon, index = value.partition(":")
    return {"gpu": "cuda", "ascend": "npu"}.get(kind.lower(), kind) + colon + index


def _alias(value: Any) -> Any:
    return "l1" if value == "mae" else value


def _of_model(key: str, otherwise: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """The default of `key` where the model may decide it."""
    def default(given: dict[str, Any]) -> Any:
        decided = MODELS[given["model"]].defaults
        return decided[key] if key in decided else otherwise(given)
    return default


def _loss(given: dict[str, Any]) -> Any:
    """The model's, if it fits the task, or the first that does."""
    fitting = spec_of(given).task.losses
    wanted = MODELS[given["model"]].defaults.get("loss")
    return wanted if wanted in fitting else fitting[0]


def _selection(given: dict[str, Any]) -> Any:
    """The model's metric, if the task has it, or the loss."""
    wanted = MODELS[given["model"]].defaults.get("selection", "loss")
    return wanted if wanted in spec_of(given).task.metrics else "loss"


def _by_model(key: str, otherwise: str) -> str:
    """`sum; MSA: mean`."""
    return "; ".join([otherwise, *(f"{model.name.upper()}: {model.defaults[key]}" for model in MODELS.values()
                                   if key in model.defaults)])


class ModelKeys(DataKeys):
    """Which model, and what all models share."""

    model: Annotated[str, OneOf(list(MODELS))] = Field(
        "lmf", description="; ".join(f"{model.name}: {model.about}" for model in MODELS.values()))
    output_dim: Width = Field(
        default_factory=lambda given: spec_of(given).task.outputs,
        description=f"outputs (set by the data: {by_name(lambda spec: spec.task.outputs)})")
    frozen: Annotated[tuple[str, ...], BeforeValidator(_frozen)] = Field(
        (), description="comma-separated names of parameters that stay as they were drawn: no step, no decay "
                        "(fusion_weights,fusion_bias: the original's habit at the time of the paper)")

    @property
    def takes_sequences(self) -> bool:
        """Whether the model takes sequences where the data offers rows instead."""
        return MODELS[self.model].sequences


class TrainingKeys(ModelKeys):
    """How it is trained, and what selects the best epoch."""

    loss: Annotated[LossKind, BeforeValidator(_alias)] = Field(
        default_factory=_loss,
        description=f"what training minimises; mae is l1 (default: {_by_model('loss', 'l1')}; cross_entropy for "
                    "classes)")
    loss_reduction: Reduction = Field(
        default_factory=_of_model("loss_reduction", lambda given: "sum"),
        description=f"over rows and outputs of a batch (default: {_by_model('loss_reduction', 'sum')}, as the "
                    "originals)")
    huber_delta: Rate = Field(1.0, description="where loss huber turns from squares to absolute values")
    learning_rate: Rate = Field(0.001, description="Adam's rate for every parameter without a rate of its own",
                                json_schema_extra=searched(0.0003, 0.0005, 0.001, 0.003))
    schedule: Literal["constant", "cosine"] = Field(
        default_factory=_of_model("schedule", lambda given: "constant"),
        description="of all rates, step by step; cosine falls from the rate to 0 over all epochs (default: "
                    f"{_by_model('schedule', 'constant')})")
    weight_decay: Annotated[float, Field(ge=0, le=10)] = Field(
        0.0, description="L2 coupled into Adam's gradient, all parameters",
        json_schema_extra=searched(0.0, 0.001, 0.002, 0.01))
    batch_size: Width = Field(16, description="rows per step; the last, smaller batch is trained too",
                              json_schema_extra=searched(4, 8, 16, 32, 64, 128))
    epochs: Annotated[int, Field(ge=1)] = Field(
        default_factory=_of_model("epochs", by_dataset("epochs")),
        description=f"most epochs (default: {_by_model('epochs', by_name(lambda spec: spec.defaults['epochs']))})")
    patience: Annotated[int, Field(ge=1)] = Field(
        20, description="stop after this many epochs without a better validation value")
    selection: str = Field(
        default_factory=_selection,
        description="the validation value that chooses the best epoch: loss, or a metric such as Corr (default: "
                    f"{_by_model('selection', 'loss')}, where the data has it)",
        pattern=r"^[A-Za-z0-9 _-]+$")
    selection_direction: Literal["min", "max", "auto"] = Field(
        "auto", description="whether the lowest or the highest is the best; auto: what the metric means")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="decides initial weights, batch order and dropout masks")


class HardwareKeys(TrainingKeys):
    """Where it runs, in which precision."""

    device: Annotated[str, BeforeValidator(_device)] = Field(
        "cpu", description="where the network runs: cpu, cuda, npu, or one of several as cuda:1; gpu is cuda, Ascend "
                           "is npu", pattern=r"^(cpu|(cuda|npu)(:\d{1,3})?)$")
    precision: Literal["float32", "float64"] = Field("float32", description="dtype of weights and arithmetic")
    amp_level: Level = Field(
        "O0", description="mixed precision: O0 none; O1 matrix products and LSTMs in half; O2 all but normalisation "
                          "and loss in half")
    amp_dtype: HalfType = Field("float16", description="which half precision")
    loss_scale: Annotated[float | Literal["dynamic"], BeforeValidator(_loss_scale)] = Field(
        1.0, description="of mixed precision: none (the scale 1), a number that stays, or dynamic")
    loss_scale_init: Scale = Field(65536.0, description="a dynamic loss scale before the first step")
    loss_scale_growth: Annotated[float, Field(gt=1, le=1024)] = Field(
        2.0, description="what a dynamic loss scale is multiplied by after loss_scale_interval good steps in a row")
    loss_scale_backoff: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="what it is multiplied by after an overflow, whose step is skipped; never below 1")
    loss_scale_interval: Annotated[int, Field(ge=1, lt=2**31)] = Field(2000, description="good steps until it grows")
    tf32: bool = Field(False, description="CUDA: float32 products in TensorFloat-32, which keeps 10 bits")
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="CPU threads; PyTorch's last bits depend on it")


class Config(HardwareKeys):
    """One run, fully determined (together with the data): the keys of the run, and in a subclass those of its model.

    `core.config.make_config` makes one of `core.config.schema(model)`, with every default filled in.
    """

    run_id: Annotated[int, Field(ge=0)] | None = Field(
        None, description="number of the run folder (default: the next free one)")
    signature: str = Field(
        "", description="name of the run folder (default: made of the data set and emotion)",
        pattern=r"^[A-Za-z0-9._-]*$")
    output_path: AnyPath = Field("runs", validate_default=True, description="folder that holds the run folders")
    model_path: AnyPath | None = Field(
        None, description="folder for checkpoints (default: inside the run folder)")

    @model_validator(mode="after")
    def _combinations(self) -> Config:
        """Refuse combinations without a meaning."""
        task = self.described.task
        if self.output_dim != task.outputs:
            raise ValueError(f"output_dim = {self.output_dim}: {self.dataset} has {task.outputs} outputs; leave "
                             "output_dim out")
        if self.loss not in task.losses:
            raise ValueError(f"loss = {self.loss!r}: {self.dataset} is a {task.kind}; use {' or '.join(task.losses)}")
        if self.selection != "loss" and self.selection not in task.metrics:
            raise ValueError(f"selection = {self.selection!r}: no validation value of {self.dataset}; use loss, "
                             f"{', '.join(list(task.metrics)[:8])}")
        if self.precision == "float64" and self.amp_level != "O0":
            raise ValueError(f"amp_level = {self.amp_level!r}: mixed precision starts from float32; "
                             "use precision float32 or amp_level O0")
        if self.loss_scale != "dynamic" and not 0 < self.loss_scale <= 2**24:
            raise ValueError(f"loss_scale = {self.loss_scale}: expected none, dynamic or a number in (0, {2**24}]")
        if self.amp_level == "O0" and self.loss_scale != 1.0:
            raise ValueError(f"loss_scale = {self.loss_scale}: needs amp_level O1 or O2, or leave it out")
        if self.tf32 and not self.device.startswith("cuda"):
            raise ValueError(f"tf32 = {self.tf32}: only CUDA devices have it; leave it out, or use --device cuda")
        if self.precision == "float64" and self.device.startswith("npu"):
            raise ValueError("precision = 'float64': Ascend NPUs have no float64; use --precision float32")
        return self
