"""What the LMF of each backend's lmf.py makes of rows, inside a worker process: NumPy in, NumPy and neutral names out.

The three files have the same functions. Each differentiates with its framework's own means.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import Config
from core.convert.names import to_neutral
from core.convert.readers import Source
from core.models import ModelSpec
from core.randomness import Array

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


def sizes_of(spec: ModelSpec, config: Config) -> Sizes:
    """What makes an LMF of the same shape."""
    shapes = {p.name: p.shape for p in spec.parameters}
    sizes: Sizes = {"rank": spec.rank, "output_dim": spec.output_dim}
    for m in spec.modalities:
        hidden = shapes[f"{m}_subnet.linear_1.weight"][0]
        lstm = (spec.text_hidden,) if m == "text" else ()
        sizes[m] = (spec.dims.of(m), *lstm, hidden, getattr(config, f"{m}_dropout"))
    return sizes


def neutral(framework: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Tensors under a framework's own names, as converted checkpoints are."""
    return to_neutral(Source("a network", framework, tensors), Path(f"of {framework}"))
