"""Deployment formats of Paddle."""
from __future__ import annotations

import tempfile
from pathlib import Path

import paddle
from paddle import Tensor, nn

from backends.paddle.model import Network
from core.errors import UserError
from core.files import atomic_path
from core.models import ModelSpec

FORMS = ("json",)


class Inference(nn.Layer):
    """The network with one input per modality, text as (B, T, D), returning (B, O). Saving flattens the list."""

    def __init__(self, network: Network, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.modalities = network, modalities

    def forward(self, inputs: list[Tensor]) -> Tensor:
        named = dict(zip(self.modalities, inputs))  # noqa: B905  # Paddle's tracer knows no `strict`
        if "text" in named:
            named["text"] = named["text"].transpose([1, 0, 2])  # (B, T, D) -> (T, B, D)
        output: Tensor = self.network(named, {}, False)[0]
        return output


def export_network(network: Network, spec: ModelSpec, dtype: paddle.dtype, path: Path, form: str) -> list[Path]:
    """Write `path` as a Paddle inference program (`json`) with a free batch size, its weights beside it.

    Load both with `paddle.jit.load(path without .json)` or paddle.inference. Raises UserError for another form.
    """
    if form not in FORMS:
        raise UserError(f"export form {form!r}: the paddle backend writes {', '.join(FORMS)}")
    inputs = [paddle.static.InputSpec([None, *spec.dims.row_shape(m)], dtype, m) for m in spec.modalities]
    layer = Inference(network, spec.modalities)
    layer.eval()
    weights = path.with_suffix(".pdiparams")
    # the program is renamed last, so that it never stands there without its weights
    with (atomic_path(path) as program, atomic_path(weights) as values,
          tempfile.TemporaryDirectory(dir=path.parent) as folder):
        paddle.jit.save(layer, f"{folder}/network", input_spec=[inputs])
        program.write_bytes(Path(folder, "network.json").read_bytes())
        values.write_bytes(Path(folder, "network.pdiparams").read_bytes())
    return [path, weights]
