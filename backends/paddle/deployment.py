"""Deployment formats of Paddle."""
from __future__ import annotations

import tempfile
from pathlib import Path

import paddle

from backends.paddle.model import Network
from core.common.errors import UserError
from core.common.files import atomic_path
from core.models.graph import Graph

FORMS = ("json",)


def export_network(network: Network, graph: Graph, dtype: paddle.dtype, path: Path, form: str) -> list[Path]:
    """Write `path` as a Paddle inference program (`json`) with a free batch size, its weights beside it.

    Load both with `paddle.jit.load(path without .json)` or paddle.inference. Raises UserError for another form.
    """
    if form not in FORMS:
        raise UserError(f"export form {form!r}: the paddle backend writes {', '.join(FORMS)}")
    inputs = [paddle.static.InputSpec([None, *one.shape], dtype, one.name) for one in graph.inputs]
    network.eval()
    weights = path.with_suffix(".pdiparams")
    # the program is renamed last, so that it never stands there without its weights
    with (atomic_path(path) as program, atomic_path(weights) as values,
          tempfile.TemporaryDirectory(dir=path.parent) as folder):
        paddle.jit.save(network, f"{folder}/network", input_spec=[inputs])
        program.write_bytes(Path(folder, "network.json").read_bytes())
        values.write_bytes(Path(folder, "network.pdiparams").read_bytes())
    return [path, weights]
