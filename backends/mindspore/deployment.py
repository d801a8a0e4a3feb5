"""Deployment formats of MindSpore."""
from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mindspore
from mindspore import Tensor

from backends.mindspore.model import Network
from core.common.arrays import Array
from core.common.errors import UserError
from core.common.files import atomic_path
from core.models.graph import Graph

FORMS = ("mindir",)


def export_network(graph: Graph, weights: Mapping[str, Array], dtype: mindspore.dtype, path: Path,
                   form: str) -> list[Path]:
    """Write `path` as a MindIR program (`mindir`) with a free batch size: one input per modality, text (B, T, D).

    Load it with `nn.GraphCell(mindspore.load(path))`. Raises UserError for another form, and for float64.
    """
    if form not in FORMS:
        raise UserError(f"export form {form!r}: the mindspore backend writes {', '.join(FORMS)}")
    if dtype != mindspore.float32:
        raise UserError("precision = 'float64': MindSpore's LSTM kernel, which the exported program uses, has float32 "
                        "only; export with --precision float32")
    network = Network(graph, dtype)  # its own: what is compiled once would keep its first weights
    for flats in network.flats.values():
        for flat in flats:
            flat.write(weights)
    network.set_train(False)
    inputs = [Tensor(shape=[None, *one.shape], dtype=dtype) for one in graph.inputs]
    with tempfile.TemporaryDirectory() as folder, atomic_path(path) as temporary:
        mindspore.export(network, *inputs, file_name=f"{folder}/network", file_format="MINDIR")
        shutil.copyfile(f"{folder}/network.mindir", temporary)
    return [path]
