"""LMF as it was published, in PyTorch by its authors and in the ports: names of its tensors, and what shapes tell."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from core.common.constants import BATCHNORM_EPS
from core.config import Config, build_graph, make_config
from core.convert.network import Dropout, Inputs, PublishedNetwork, Shapes, Tensors
from core.data.published import DATASETS, feature_inputs
from core.models.lmf import LMFKeys

MODEL = "lmf"
INPUTS = feature_inputs(1, 1, 1, 1)
GRAPH = build_graph(make_config({"dataset": next(iter(DATASETS)), "model": MODEL}), INPUTS)
TITLE = "LMF"


def detect(tensors: Tensors, path: Path) -> tuple[dict[str, Any], Inputs]:
    """Keys of the configuration, and inputs, that the shapes tell."""
    shapes = Shapes(tensors, path, TITLE)
    chosen = shapes.inputs(INPUTS)
    found: dict[str, Any] = {"modalities": tuple(one.name for one in chosen), "rank": shapes.size("fusion_weights", 1),
                             "output_dim": shapes.size("fusion_bias", 1)}
    inputs = []
    for one in chosen:
        out, subnet = shapes.size(f"{one.name}_factor", 1) - 1, f"{one.name}_subnet"
        if one.layout == "sequence":
            found[f"{one.name}_out"], found[f"{one.name}_hidden"] = out, shapes.size(f"{subnet}.rnn.weight_hh_l0", 1)
            first = f"{subnet}.rnn.weight_ih_l0"
        else:
            found[f"{one.name}_hidden"] = out
            first = f"{subnet}.linear_1.weight"
        inputs.append(replace(one, shape=(*one.shape[:-1], shapes.width(first))))
    return found, tuple(inputs)


def shown(config: Config, inputs: Inputs) -> str:
    """`audio 74 -> 4, text 300 -> 128 -> 64, rank 1`."""
    assert isinstance(config, LMFKeys)
    parts = []
    for one in inputs:
        net = config.subnet(one)
        widths = [one.width, *([net.hidden] if one.layout == "sequence" else []), net.out]
        parts.append(f"{one.name} {' -> '.join(map(str, widths))}")
    return f"{', '.join(parts)}, rank {config.rank}"


LMF = PublishedNetwork(
    title=TITLE, model=MODEL, classes=("LMF", "SubNet", "TextSubNet"), inputs=INPUTS,
    axes={p.name: len(p.shape) for p in GRAPH.parameters}, anchor="fusion_bias", head="fusion_bias",
    renamed={
        "torch": {},
        "paddle": {r"\.norm\._mean$": ".norm.running_mean", r"\.norm\._variance$": ".norm.running_var",
                   r"\.rnn\.0\.cell\.(weight|bias)_(ih|hh)$": r".rnn.\1_\2_l0"},  # it stores the LSTM under two names
        "mindspore": {r"\.norm\.gamma$": ".norm.weight", r"\.norm\.beta$": ".norm.bias",
                      r"\.norm\.moving_mean$": ".norm.running_mean", r"\.norm\.moving_variance$": ".norm.running_var"},
    },
    transposed={"torch": "", "mindspore": "", "paddle": r"\.linear_[123]\.weight$"},  # Paddle has (in, out)
    reasons={
        "the LSTM is bidirectional": r"_reverse$|cell_[fb]w\.",
        "the LSTM has more than one layer": r"_l[1-9]\d*$|\.rnn\.[1-9]\d*\.cell",
        "one flat LSTM weight, whose order of gates older MindSpore versions don't record": r"\.rnn\.weight$",
    },
    kind="with a one-layer, one-directional LSTM",
    dropouts={
        **{f"{one.name}_dropout": Dropout(
            f"{one.name}_subnet.{'dropout' if one.layout == 'sequence' else 'drop'}", f"{one.name}_prob", one.name)
            for one in INPUTS},
        "post_fusion_dropout": Dropout("post_fusion_dropout", "post_fusion_prob"),
    },
    norms={node.name: BATCHNORM_EPS for node in GRAPH.nodes if node.kind == "batch_norm"}, softmax="use_softmax",
    detect=detect, shown=shown,
)
