"""Deployment formats of PyTorch."""
from __future__ import annotations

from pathlib import Path

import torch

from backends.torch.model import Network
from core.common.errors import UserError
from core.common.files import atomic_path
from core.models.graph import Graph

FORMS = ("pt2",)


def export_network(network: Network, graph: Graph, dtype: torch.dtype, path: Path, form: str) -> list[Path]:
    """Write `path` as a torch.export program (`pt2`) with a free batch size: one input per modality, text (B, T, D).

    Load it with `torch.export.load(path).module()`. Raises UserError for another form.
    """
    if form not in FORMS:
        raise UserError(f"export form {form!r}: the torch backend writes {', '.join(FORMS)}")
    device = next(network.parameters()).device
    example = tuple(torch.zeros(2, *one.shape, dtype=dtype, device=device) for one in graph.inputs)
    batch = torch.export.Dim("batch")
    program = torch.export.export(network.eval(), example, dynamic_shapes=(tuple({0: batch} for _ in example),))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.export.save(program, file)
    return [path]
