"""Deployment formats of MindSpore."""
from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from backends.mindspore.model import Network
from backends.mindspore.state import read_weights
from core.errors import UserError
from core.files import atomic_path
from core.models import BATCHNORM_EPS, ModelSpec
from core.randomness import Array

FORMS = ("mindir",)


class Inference(nn.Cell):
    """The network of MindSpore's own layers, one input per modality, text as (B, T, D), returning (B, O)."""

    def __init__(self, spec: ModelSpec, weights: dict[str, Array]) -> None:
        super().__init__()
        subnets = []
        for modality in spec.modalities:
            part = {name.removeprefix(f"{modality}_subnet."): value for name, value in weights.items()
                    if name.startswith(f"{modality}_subnet.")}
            subnets.append(TextInference(part) if modality == "text" else DenseInference(part))
        self.subnets = nn.CellList(subnets)
        self.fusion = FUSIONS[spec.model](spec, weights)

    def construct(self, *inputs: Tensor) -> Tensor:
        hidden = ()
        for place, subnet in enumerate(self.subnets):
            hidden = (*hidden, subnet(inputs[place]))  # (B, H)
        return self.fusion(*hidden)


class LMFInference(nn.Cell):
    """Low-rank fusion: one (B, H) per modality -> (B, O)."""

    def __init__(self, spec: ModelSpec, weights: dict[str, Array]) -> None:
        super().__init__()
        factors = []
        for modality in spec.modalities:
            factor = weights[f"{modality}_factor"].transpose(1, 0, 2)  # (R, 1 + H, O) -> (1 + H, R, O)
            factors.append(named(f"{modality}_factor", factor.reshape(len(factor), -1)))
        self.factors = mindspore.ParameterTuple(factors)
        self.fusion_weights = named("fusion_weights", weights["fusion_weights"].reshape(1, -1, 1))  # (1, R, 1)
        self.fusion_bias = named("fusion_bias", weights["fusion_bias"])  # (1, O)
        self.shape = -1, spec.rank, spec.output_dim

    def construct(self, *hidden: Tensor) -> Tensor:
        terms = 1.0
        for place, h in enumerate(hidden):
            factor = self.factors[place]  # (1 + H, R O)
            terms = terms * (ops.matmul(h, factor[1:]) + factor[0])  # (B, R O)
        return (terms.reshape(self.shape) * self.fusion_weights).sum(1) + self.fusion_bias  # (B, R, O) -> (B, O)


class TFNInference(nn.Cell):
    """Tensor fusion: one (B, H) per modality -> (B, O)."""

    def __init__(self, spec: ModelSpec, weights: dict[str, Array]) -> None:
        super().__init__()
        *inner, last = [name.removesuffix(".weight") for name in weights
                        if name.startswith("post_fusion_layer_") and name.endswith(".weight")]
        self.inner = nn.CellList([make_linear(weights, name) for name in inner])
        self.last = make_linear(weights, last)

    def construct(self, *hidden: Tensor) -> Tensor:
        y = prepend_one(hidden[0])  # (B, 1 + H)
        for h in hidden[1:]:
            y = (y.expand_dims(2) * prepend_one(h).expand_dims(1)).flatten(start_dim=1)  # (B, P) -> (B, P (1 + H))
        for linear in self.inner:
            y = ops.relu(linear(y))  # (B, K)
        return self.last(y)  # (B, O)


class DenseInference(nn.Cell):
    """Audio or video: (B, A) -> (B, H)."""

    def __init__(self, part: dict[str, Array]) -> None:
        super().__init__()
        # evaluation only: BatchNorm is a factor and an offset
        scale = part["norm.weight"] / np.sqrt(part["norm.running_var"].astype(np.float64) + BATCHNORM_EPS)
        self.scale = named("scale", scale.astype(np.float32))
        self.offset = named("offset", (part["norm.bias"] - part["norm.running_mean"] * scale).astype(np.float32))
        self.linears = nn.CellList([make_linear(part, f"linear_{place}") for place in (1, 2, 3)])

    def construct(self, x: Tensor) -> Tensor:
        y = x * self.scale + self.offset  # (B, A)
        for linear in self.linears:
            y = ops.relu(linear(y))  # (B, H)
        return y


class TextInference(nn.Cell):
    """Text: (B, T, D) -> (B, O)."""

    def __init__(self, part: dict[str, Array]) -> None:
        super().__init__()
        hidden, width = part["rnn.weight_hh_l0"].shape[1], part["rnn.weight_ih_l0"].shape[1]
        self.rnn = nn.LSTM(width, hidden, batch_first=True)
        for parameter in self.rnn.get_parameters():
            parameter.set_data(Tensor(part["rnn." + parameter.name.rsplit(".", 1)[-1]]))
        self.linear_1 = make_linear(part, "linear_1")

    def construct(self, x: Tensor) -> Tensor:
        last = self.rnn(x)[1][0]  # (1, B, H)
        return self.linear_1(last[0])


FUSIONS = {"lmf": LMFInference, "tfn": TFNInference}


def prepend_one(h: Tensor) -> Tensor:
    """(B, H) -> (B, 1 + H), with a one in front, as an exported program can have it."""
    return ops.concat((ops.ones_like(h[:, :1]), h), 1)


def named(name: str, array: Array) -> Parameter:
    """A fixed parameter."""
    return Parameter(Tensor(np.ascontiguousarray(array)), name=name, requires_grad=False)


def make_linear(part: dict[str, Array], name: str) -> nn.Dense:
    """A linear layer with the weights of `name`."""
    weight, bias = part[f"{name}.weight"], part[f"{name}.bias"]
    return nn.Dense(weight.shape[1], weight.shape[0], Tensor(weight), Tensor(bias))


def export_network(network: Network, spec: ModelSpec, dtype: mindspore.dtype, path: Path, form: str) -> list[Path]:
    """Write `path` as a MindIR program (`mindir`) with a free batch size.

    Load it with `nn.GraphCell(mindspore.load(path))`. Raises UserError for another form, and for float64.
    """
    if form not in FORMS:
        raise UserError(f"export form {form!r}: the mindspore backend writes {', '.join(FORMS)}")
    if dtype != mindspore.float32:
        raise UserError("precision = 'float64': MindSpore's LSTM layer, which the exported program uses, has float32 "
                        "only; export with --precision float32")
    cell = Inference(spec, read_weights(network, spec))
    cell.set_train(False)
    inputs = [Tensor(shape=[None, *spec.dims.row_shape(m)], dtype=dtype) for m in spec.modalities]
    with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
        mindspore.export(cell, *inputs, file_name=f"{folder}/network", file_format="MINDIR")
        shutil.copyfile(f"{folder}/network.mindir", temporary)
    return [path]
