"""What the LMF of each backend's lmf.py makes of rows, inside a worker process: NumPy in, NumPy and neutral names out.

The three files have the same functions. Each differentiates with its framework's own means.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.common.arrays import Array
from core.convert.lmf import LMF
from core.convert.names import to_neutral
from core.convert.readers import Source
from core.models.graph import Graph

Sizes = dict[str, Any]  # the arguments of LMF, those of its subnets in a tuple


@dataclass(frozen=True)
class Seen:
    """Outputs (B, O) in evaluation and in train mode, and of that pass the summed loss, its gradients, and BatchNorm's
    running statistics after it.
    """

    evaluation: Array
    training: Array
    loss: float
    gradients: dict[str, Array]
    statistics: dict[str, Array]


def sizes_of(graph: Graph) -> Sizes:
    """What makes an LMF of the same shape."""
    shapes = {p.name: p.shape for p in graph.parameters}
    rates = {site.name: site.rate for site in graph.dropout_sites}
    sizes: Sizes = {"rank": shapes["fusion_weights"][1], "output_dim": graph.task.outputs}
    for one in graph.inputs:
        name = f"{one.name}_subnet"
        lstm = (shapes[f"{name}.rnn.weight_hh_l0"][1],) if one.layout == "sequence" else ()
        sizes[one.name] = (one.width, *lstm, shapes[f"{name}.linear_1.weight"][0], rates.get(name, 0.0))
    return sizes


def neutral(framework: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Tensors under a framework's own names, as converted checkpoints are."""
    return to_neutral(Source("a network", framework, tensors), Path(f"of {framework}"), LMF)
