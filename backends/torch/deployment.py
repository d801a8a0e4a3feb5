"""Deployment formats of PyTorch."""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from backends.torch.model import Network
from core.errors import UserError
from core.files import atomic_path
from core.models import ModelSpec

FORMS = ("pt2",)


class Inference(nn.Module):
    """The network with one positional input per modality, text as (B, T, D), returning (B, O)."""

    def __init__(self, network: Network, modalities: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.modalities = network, modalities

    def forward(self, *inputs: Tensor) -> Tensor:
        named = dict(zip(self.modalities, inputs, strict=True))
        if "text" in named:
            named["text"] = named["text"].transpose(0, 1)  # (B, T, D) -> (T, B, D)
        output: Tensor = self.network(named, {}, False)[0]
        return output


def export_network(network: Network, spec: ModelSpec, dtype: torch.dtype, path: Path, form: str) -> list[Path]:
    """Write `path` as a torch.export program (`pt2`) with a free batch size.

    Load it with `torch.export.load(path).module()`. Raises UserError for another form.
    """
    if form not in FORMS:
        raise UserError(f"export form {form!r}: the torch backend writes {', '.join(FORMS)}")
    device = next(network.parameters()).device
    example = tuple(torch.zeros(2, *spec.dims.row_shape(m), dtype=dtype, device=device) for m in spec.modalities)
    batch = torch.export.Dim("batch")
    program = torch.export.export(Inference(network, spec.modalities).eval(), example,
                                  dynamic_shapes=(tuple({0: batch} for _ in example),))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.export.save(program, file)
    return [path]
