"""The course's LSTM fusion model as students save it: names of its tensors, and what shapes tell."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from core.common.constants import LAYERNORM_EPS
from core.common.errors import UserError
from core.config import Config, build_graph, make_config
from core.convert.network import Inputs, PublishedNetwork, Shapes, Tensors
from core.data.published import DATASETS
from core.models.msa import MSAKeys

MODEL = "msa"
INPUTS = DATASETS["mosi_aligned"].inputs
GRAPH = build_graph(make_config({"dataset": "mosi_aligned", "model": MODEL}))
TITLE = "the course's model"


def detect(tensors: Tensors, path: Path) -> tuple[dict[str, Any], Inputs]:
    """Keys of the configuration, and inputs, that the shapes tell."""
    shapes = Shapes(tensors, path, TITLE)
    chosen = shapes.inputs(INPUTS)
    hidden, joined = shapes.size("mm_lstm.weight_hh_l0", 1), shapes.size("mm_lstm.weight_ih_l0", 1)
    fusions = {hidden * len(chosen): "concat_lstm", hidden: "sum_lstm"}  # of one modality both are the same
    if joined not in fusions:
        raise UserError(f"{path}: mm_lstm.weight_ih_l0 takes {joined} numbers a step, expected {hidden} (modalities "
                        f"added) or {hidden * len(chosen)} ({len(chosen)} side by side); {shapes.way_out}")
    found: dict[str, Any] = {"modalities": tuple(one.name for one in chosen), "hidden_dim": hidden,
                             "layer_norm": any("_norm." in name for name in tensors), "fusion": fusions[joined],
                             "encoder": "lstm", "output_dim": shapes.size("fc.bias", 0)}
    return found, tuple(replace(one, shape=(1, shapes.width(f"{one.name}_fc.weight"))) for one in chosen)


def shown(config: Config, inputs: Inputs) -> str:
    """`vision 35, text 300, audio 74 -> 128, sum_lstm`."""
    assert isinstance(config, MSAKeys)
    norm = "" if config.layer_norm else ", no LayerNorm"
    return f"{', '.join(f'{one.name} {one.width}' for one in inputs)} -> {config.hidden_dim}, {config.fusion}{norm}"


MSA = PublishedNetwork(
    title=TITLE, model=MODEL, classes=(), inputs=INPUTS,
    axes={p.name: len(p.shape) for p in GRAPH.parameters}, anchor="mm_lstm.weight_ih_l0", head="fc.bias",
    renamed={
        "torch": {},
        "paddle": {r"lstm\.0\.cell\.(weight|bias)_(ih|hh)$": r"lstm.\1_\2_l0"},  # it stores an LSTM under two names
        "mindspore": {r"_norm\.gamma$": "_norm.weight", r"_norm\.beta$": "_norm.bias"},
    },
    transposed={"torch": "", "mindspore": "", "paddle": r"(^|_)fc\.weight$"},  # Paddle has (in, out)
    reasons={
        "an LSTM is bidirectional": r"_reverse$|cell_[fb]w\.",
        "an LSTM has more than one layer": r"_l[1-9]\d*$|lstm\.[1-9]\d*\.cell",
        "attention, whose names differ from program to program": r"attn|attention|transformer|in_proj",
    },
    kind="with one-layer, one-directional LSTMs",
    dropouts={}, norms={node.name: LAYERNORM_EPS for node in GRAPH.nodes if node.kind == "layer_norm"}, softmax="",
    detect=detect, shown=shown,
)
