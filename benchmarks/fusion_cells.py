"""The models of the efficiency table, how many parameters their fusion has by formula, and what a worker runs."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.measure import cells, open_cell, predict, train
from core.config import build_graph, make_config
from core.data.published import DATASETS
from core.data.specs import InputSpec
from core.models.graph import Graph

DATA = DATASETS["mosi"]
BATCH = 32
FULL, LINEAR = "TFN", "TFN, W Z + b"
MODELS: dict[str, dict[str, Any]] = {
    **{f"LMF, rank {rank}": {"model": "lmf", "rank": rank} for rank in (1, 4, 8, 16)},
    FULL: {"model": "tfn", "post_fusion_dim": 32},  # two ReLU layers, as in Zadeh et al.
    LINEAR: {"model": "tfn", "post_fusion_dim": 0},  # equation 2 of LMF's paper: what LMF factorises
}
WIDTHS = ((4, 4, 16), (8, 8, 32), (16, 16, 32), (32, 32, 64))  # audio, video, text; the last: the paper's claim
GROWING = {"LMF": MODELS["LMF, rank 4"], "TFN": MODELS[FULL]}
GROWING_INPUT = DATA.of("video")
GROWING_WIDTH = 16
COPIES = 8  # of weights and of fused values, at most at a time: gradients, moments, and what loading them takes


def table_values(model: str, widths: tuple[int, int, int], threads: int) -> dict[str, Any]:
    """Configuration of a cell of the table. The text LSTM is twice as wide as what it gives, as in the original."""
    audio, video, text = widths
    return {"dataset": DATA.name, "batch_size": BATCH, "threads": threads, "audio_hidden": audio, "video_hidden": video,
            "text_hidden": 2 * text, "text_out": text, **MODELS[model]}


def growth_values(model: str, threads: int) -> dict[str, Any]:
    """Configuration of a model that fuses several inputs like GROWING_INPUT."""
    return {"dataset": DATA.name, "batch_size": BATCH, "threads": threads,
            f"{GROWING_INPUT.name}_hidden": GROWING_WIDTH, **GROWING[model]}


def copies(one: InputSpec, number: int) -> tuple[InputSpec, ...]:
    """`number` inputs: `one`, and others like it, which take its keys: `video`, `video_2`, ..."""
    return (one, *(replace(one, name=f"{one.name}_{place}", keys=one.name) for place in range(2, number + 1)))


def growth_rows(model: str, number: int) -> int:
    """Training rows of an epoch: fewer where TFN's step takes a hundred times as long."""
    return BATCH * int(max(2, 32 // 4 ** max(0, number - 3)) if model == "TFN" else 32)


def growth_bytes(number: int) -> int:
    """About the memory that TFN of `number` modalities takes in a worker."""
    values = (GROWING_WIDTH + 1) ** number
    weights = fusion_parameters(growth_values("TFN", 1), [GROWING_WIDTH] * number, 1)
    return int(4 * COPIES * (weights + BATCH * values))


def fusion_parameters(values: Mapping[str, Any], widths: Sequence[int], outputs: int) -> int:
    """Trained scalars of a fusion of modalities that are `widths` wide, by formula.

    LMF: R O sum(d + 1) + R + O. TFN, P = prod(d + 1): O P + O, or with layers of width K: K P + K, K K + K, O K + O.
    """
    if values["model"] == "lmf":
        rank = values["rank"]
        return int(rank * outputs * sum(width + 1 for width in widths) + rank + outputs)
    product, hidden = math.prod(width + 1 for width in widths), values["post_fusion_dim"]
    if hidden == 0:
        return outputs * product + outputs
    return int(hidden * product + hidden + hidden * hidden + hidden + outputs * hidden + outputs)


def prepare(backend: str, cell: str, values: dict[str, Any], inputs: tuple[InputSpec, ...], rows: int
            ) -> tuple[int, int]:
    """In a worker: open the session of a cell on random numbers of the shapes of `inputs`, and run it to warm up.

    Returns how many trained scalars it holds, in all and in the fusion, counted in the state that it gives back.
    """
    config = make_config(values)
    session = open_cell(backend, cell, build_graph(config, inputs), config, rows)
    train(cell, min(rows, 2 * BATCH), 0)
    predict(cell, 1)
    return count(cells[cell].graph, {name: array.size for name, array in session.state().weights.items()})


def count(graph: Graph, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Trained scalars in all and in the fusion, of tensors that have `sizes`."""
    statistics = {parameter.name for parameter in graph.group("statistics")}
    trained = {name: size for name, size in sizes.items() if name not in statistics}
    return sum(trained.values()), sum(size for name, size in trained.items() if "_subnet." not in name)


def measure(cell: str, rows: int, epoch: int) -> tuple[float, float]:
    """In a worker: seconds of training on `rows` rows, and of predicting as many in batches."""
    return train(cell, rows, epoch), predict(cell, rows // BATCH)
