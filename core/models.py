"""What a model is, for every backend: parameter names, shapes, initialisers, groups, dropout sites.

Names and layouts are those of the original PyTorch state dicts of LMF (Liu & Shen et al., ACL 2018) and TFN (Zadeh et
al., EMNLP 2017). Both share the subnets of the modalities; a model is what fuses them.
"""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from core.config import Config
from core.errors import UserError

Initialiser = Literal["normal", "uniform", "ones", "zeros"]
Group = Literal["factors", "others", "frozen", "statistics"]
TRAINED: tuple[Group, ...] = ("factors", "others")

BATCHNORM_EPS = 1e-5
BATCHNORM_MOMENTUM = 0.1  # torch's sense: the weight of the new batch
ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8


@dataclass(frozen=True)
class InputDims:
    """Widths of one row: audio (audio,), video (video,), text (steps, text). 0 where left out."""

    audio: int
    video: int
    text: int
    steps: int

    def of(self, modality: str) -> int:
        return int(getattr(self, modality))

    def row_shape(self, modality: str) -> tuple[int, ...]:
        return (self.steps, self.text) if modality == "text" else (self.of(modality),)


@dataclass(frozen=True)
class ParameterSpec:
    """One named tensor. `scale` is the standard deviation (normal) or the bound (uniform).

    Group `factors` and `others` are trained, each with its own rate. No optimizer may touch `frozen`, which the
    configuration names and which stay as they were drawn, and `statistics`, BatchNorm's running mean and variance.
    """

    name: str
    shape: tuple[int, ...]
    init: Initialiser
    scale: float
    group: Group

    @property
    def trainable(self) -> bool:
        return self.group in TRAINED


@dataclass(frozen=True)
class DropoutSite:
    """A place where a mask is multiplied in: (batch, width), kept units scaled by 1 / (1 - rate)."""

    name: str
    width: int
    rate: float


@dataclass(frozen=True)
class ModelSpec:
    """Everything that a backend needs to build the network."""

    model: str
    task: str
    dims: InputDims
    modalities: tuple[str, ...]
    rank: int
    post_fusion_dim: int
    output_dim: int
    text_hidden: int
    parameters: tuple[ParameterSpec, ...]
    dropout_sites: tuple[DropoutSite, ...]

    def group(self, name: Group) -> tuple[ParameterSpec, ...]:
        return tuple(p for p in self.parameters if p.group == name)

    @property
    def trainable(self) -> tuple[ParameterSpec, ...]:
        return tuple(p for p in self.parameters if p.trainable)

    @property
    def parameter_count(self) -> int:
        """Number of trained scalars."""
        return sum(math.prod(p.shape) for p in self.trainable)


def build_spec(config: Config, dims: InputDims) -> ModelSpec:
    """The specification of `config.model` for rows of widths `dims`. Raises UserError for a wrong name in `frozen`."""
    widths: dict[str, int] = {
        m: (config.text_out or 1) if m == "text" else int(getattr(config, f"{m}_hidden"))
        for m in config.modalities}
    parameters, fused = MODELS[config.model](config, widths)
    sites = []
    for modality, hidden in widths.items():
        name, width = f"{modality}_subnet", dims.of(modality)
        if modality == "text":
            parameters += _text_subnet(name, width, config.text_hidden, hidden)
        else:
            parameters += _subnet(name, width, hidden)
        rate = float(getattr(config, f"{modality}_dropout"))
        sites.append(DropoutSite(name, config.text_hidden if modality == "text" else width, rate))
    if config.apply_post_fusion_dropout:
        sites.append(DropoutSite("fusion", fused, config.post_fusion_dropout))
    return ModelSpec(config.model, config.task, dims, config.modalities, config.rank, config.post_fusion_dim,
                     config.output_dim or 1, config.text_hidden, _freeze(parameters, config.frozen),
                     tuple(site for site in sites if site.rate > 0))


def _freeze(parameters: list[ParameterSpec], names: tuple[str, ...]) -> tuple[ParameterSpec, ...]:
    """`parameters` with those called `names` in group `frozen`."""
    trained = [p.name for p in parameters if p.trainable]
    unknown = [name for name in names if name not in trained]
    if unknown:
        raise UserError(f"frozen: no trained parameter {', '.join(map(repr, unknown))} in this model; it has "
                        f"{', '.join(trained)}")
    if len(names) == len(trained):
        raise UserError("frozen: names every parameter, which leaves nothing to train; leave some out")
    return tuple(replace(p, group="frozen") if p.name in names else p for p in parameters)


def _linear(name: str, fan_in: int, fan_out: int) -> Iterator[ParameterSpec]:
    """torch.nn.Linear: weight (out, in), both uniform in +-1/sqrt(in)."""
    bound = 1 / math.sqrt(fan_in)
    yield ParameterSpec(f"{name}.weight", (fan_out, fan_in), "uniform", bound, "others")
    yield ParameterSpec(f"{name}.bias", (fan_out,), "uniform", bound, "others")


def _subnet(name: str, width: int, hidden: int) -> Iterator[ParameterSpec]:
    """Audio or video: BatchNorm1d, then three linear layers."""
    yield ParameterSpec(f"{name}.norm.weight", (width,), "ones", 1.0, "others")
    yield ParameterSpec(f"{name}.norm.bias", (width,), "zeros", 0.0, "others")
    yield ParameterSpec(f"{name}.norm.running_mean", (width,), "zeros", 0.0, "statistics")
    yield ParameterSpec(f"{name}.norm.running_var", (width,), "ones", 1.0, "statistics")
    yield from _linear(f"{name}.linear_1", width, hidden)
    yield from _linear(f"{name}.linear_2", hidden, hidden)
    yield from _linear(f"{name}.linear_3", hidden, hidden)


def _text_subnet(name: str, width: int, hidden: int, out: int) -> Iterator[ParameterSpec]:
    """One-layer LSTM (gates i, f, g, o; two biases), then a linear layer on its last state."""
    bound = 1 / math.sqrt(hidden)
    yield ParameterSpec(f"{name}.rnn.weight_ih_l0", (4 * hidden, width), "uniform", bound, "others")
    yield ParameterSpec(f"{name}.rnn.weight_hh_l0", (4 * hidden, hidden), "uniform", bound, "others")
    yield ParameterSpec(f"{name}.rnn.bias_ih_l0", (4 * hidden,), "uniform", bound, "others")
    yield ParameterSpec(f"{name}.rnn.bias_hh_l0", (4 * hidden,), "uniform", bound, "others")
    yield from _linear(f"{name}.linear_1", hidden, out)


def _xavier(name: str, shape: tuple[int, ...], group: Group) -> ParameterSpec:
    """torch's xavier_normal_ rule: fan_in = shape[1], fan_out = shape[0], both times the rest."""
    receptive = math.prod(shape[2:])
    std = math.sqrt(2 / ((shape[0] + shape[1]) * receptive))
    return ParameterSpec(name, shape, "normal", std, group)


def _lmf(config: Config, widths: Mapping[str, int]) -> Fusion:
    """LMF as published: per-modality factors (rank, width + 1, outputs), contracted term by term."""
    output_dim = config.output_dim or 1
    return [
        *(_xavier(f"{m}_factor", (config.rank, width + 1, output_dim), "factors") for m, width in widths.items()),
        _xavier("fusion_weights", (1, config.rank), "others"),
        ParameterSpec("fusion_bias", (1, output_dim), "zeros", 0.0, "others"),
    ], config.rank * output_dim


def _tfn(config: Config, widths: Mapping[str, int]) -> Fusion:
    """TFN: the outer product of all modalities, each with a one in front, then linear layers with ReLU between.

    The first layer's weight (K, P) is the full fusion tensor, row-major over audio, video, text; LMF's factors
    approximate it, so it trains at their rate. Without the scaled sigmoid that the original ends in: LMF's paper
    compares the fusion, and its subnets and losses serve both.
    """
    product = math.prod(width + 1 for width in widths.values())
    hidden, output_dim = config.post_fusion_dim, config.output_dim or 1
    sizes = [product, *([hidden, hidden] if hidden else []), output_dim]
    layers = [p for place, (fan_in, fan_out) in enumerate(pairwise(sizes), 1)
              for p in _linear(f"post_fusion_layer_{place}", fan_in, fan_out)]
    return [replace(layers[0], group="factors"), *layers[1:]], product


Fusion = tuple[list[ParameterSpec], int]  # the parameters of a fusion, and how many values it fuses per row
MODELS = {"lmf": _lmf, "tfn": _tfn}
