"""Initial weights, batch order and dropout masks: the same for ever, and distributed as they claim."""
from __future__ import annotations

import hashlib
import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from core.common.arrays import Array
from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.models.graph import DropoutSite, Graph
from core.training.randomness import Masks, batch_order, initial_weights
from tests.running import ROOT, environment

INPUTS = feature_inputs(audio=74, video=35, text=300, steps=20)
FRAMEWORKS = ("torch", "mindspore", "paddle")
PINNED_WEIGHTS = {
    "audio_factor": "090c680b8fc7cbae",
    "fusion_weights": "25f33cbf6159f3cd",
    "audio_subnet.linear_1.weight": "f1b9efa2e0facb6f",
    "video_subnet.linear_3.bias": "58381943d106ced9",
    "text_subnet.rnn.weight_hh_l0": "64444ac8264fabd1",
}
PINNED_ORDER = [7, 8, 9, 2, 5, 3, 4, 0, 1, 6]
PINNED_MASKS = {
    "audio_subnet": "66f64cf1656c964e",
    "video_subnet": "60c00a96e0b9b41e",
    "text_subnet": "e785a4325459fe95",
    "fusion": "625e0a37c8080ff3",
}


def graph_of(**values: object) -> Graph:
    return build_graph(make_config({"dataset": "iemocap", **values}), INPUTS)


def masks_of(graph: Graph, seed: int, epoch: int, rows: int) -> dict[str, Array]:
    """Those of a whole epoch."""
    return Masks(graph.dropout_sites, seed, epoch, "float32").rows(0, rows)


def digest(array: Array) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def sigmas(sample: Array, mean: float, deviation: float) -> float:
    """How many standard errors the sample's mean is off."""
    return abs(float(sample.mean(dtype=np.float64)) - mean) / (deviation / math.sqrt(sample.size))


def test_pinned_weights() -> None:
    """A change of any of these makes every published result irreproducible."""
    weights = initial_weights(graph_of(), 7)
    assert {name: digest(weights[name]) for name in PINNED_WEIGHTS} == PINNED_WEIGHTS


def test_pinned_order_and_masks() -> None:
    assert batch_order(7, 3, 10).tolist() == PINNED_ORDER
    assert digest(batch_order(7, 3, 1000)) == "e75d998ab8253729"
    masks = masks_of(graph_of(apply_post_fusion_dropout=True), 7, 3, 33)
    assert {name: digest(mask) for name, mask in masks.items()} == PINNED_MASKS


def test_no_draw_depends_on_another() -> None:
    """Any order of calls; any other modality, parameter, mask or width elsewhere."""
    first = initial_weights(graph_of(), 1)
    batch_order(1, 0, 50)
    np.random.seed(3)
    assert all(np.array_equal(value, first[name]) for name, value in initial_weights(graph_of(), 1).items())
    alone = initial_weights(graph_of(modalities="video"), 1)
    assert all(np.array_equal(value, first[name]) for name, value in alone.items())
    other = initial_weights(graph_of(audio_hidden=5), 1)
    assert np.array_equal(other["text_subnet.rnn.weight_ih_l0"], first["text_subnet.rnn.weight_ih_l0"])
    both, one = masks_of(graph_of(), 1, 2, 9), masks_of(graph_of(modalities="text"), 1, 2, 9)
    assert list(one) == ["text_subnet"] and np.array_equal(one["text_subnet"], both["text_subnet"])
    assert np.array_equal(masks_of(graph_of(audio_dropout=0), 1, 2, 9)["video_subnet"], both["video_subnet"])


def test_seed_epoch_and_name_all_matter() -> None:
    seeds = [initial_weights(graph_of(audio_hidden=16, video_hidden=16), seed) for seed in (0, 1)]
    drawn = [w[name] for w in seeds for name in ("audio_subnet.linear_2.weight", "audio_subnet.linear_3.weight",
                                                 "video_subnet.linear_2.weight")]
    orders = [batch_order(seed, epoch, 99) for seed in (0, 1) for epoch in (0, 1, 2)]
    graph = graph_of(audio_dropout=0.5)
    masks = [masks_of(graph, seed, epoch, 20)["audio_subnet"] for seed in (0, 1) for epoch in (0, 1, 2)]
    for group in (drawn, orders, masks):
        assert not any(np.array_equal(a, b) for a, b in itertools.combinations(group, 2))
    # seed 1, epoch 11 and seed 11, epoch 1 must not share a stream
    assert not np.array_equal(batch_order(1, 11, 99), batch_order(11, 1, 99))


@pytest.mark.parametrize("rows", [0, 1, 2, 600, 2717])
def test_order_is_a_permutation(rows: int) -> None:
    order = batch_order(4, 9, rows)
    assert order.dtype == np.int64 and np.array_equal(np.sort(order), np.arange(rows))


def test_every_place_is_as_likely() -> None:
    """Where row 0 of 5 ends up over 4000 epochs: chi-square, 4 degrees of freedom."""
    places = [int(np.flatnonzero(batch_order(0, epoch, 5) == 0)[0]) for epoch in range(4000)]
    assert stats.chisquare(np.bincount(places, minlength=5)).pvalue > 1e-4


def test_uniform_weights_keep_torch_s_bounds() -> None:
    """nn.Linear: +-1/sqrt(in); nn.LSTM: +-1/sqrt(hidden). Kolmogorov and Smirnov judge the shape."""
    weights = initial_weights(graph_of(), 5)
    for name, bound in {"audio_subnet.linear_1.weight": 1 / math.sqrt(74), "audio_subnet.linear_1.bias":
                        1 / math.sqrt(74), "audio_subnet.linear_2.weight": 1 / 4, "text_subnet.linear_1.weight": 1 / 8,
                        "text_subnet.rnn.weight_ih_l0": 1 / 8, "text_subnet.rnn.bias_hh_l0": 1 / 8}.items():
        sample = weights[name].ravel()
        assert np.abs(sample).max() <= np.float32(bound), name
        assert np.abs(sample).max() > bound * (1 - 12 / sample.size), name
        assert stats.kstest(sample, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-4, name


def test_normal_weights_follow_torch_s_xavier_rule() -> None:
    """xavier_normal_ of a (R, 1 + H, O) tensor: std = sqrt(2 / ((R + 1 + H) O))."""
    graph = graph_of(rank=16, audio_hidden=64)
    for seed in range(3):
        weights = initial_weights(graph, seed, "float64")
        for name in ("audio_factor", "text_factor"):
            ranks, width, outputs = weights[name].shape
            deviation = math.sqrt(2 / ((ranks + width) * outputs))
            sample = weights[name].ravel()
            assert sigmas(sample, 0, deviation) < 4, name
            # the standard error of a standard deviation is sd / sqrt(2 n)
            assert abs(sample.std() / deviation - 1) < 4 / math.sqrt(2 * sample.size), name
            assert stats.kstest(sample / deviation, "norm").pvalue > 1e-4, name
        assert weights["fusion_weights"].shape == (1, 16)


def test_constants() -> None:
    weights = initial_weights(graph_of(), 0)
    for name, value in {"audio_subnet.norm.weight": 1, "audio_subnet.norm.bias": 0, "fusion_bias": 0,
                        "video_subnet.norm.running_mean": 0, "video_subnet.norm.running_var": 1}.items():
        assert (weights[name] == value).all(), name


def test_float32_is_float64_rounded_once() -> None:
    single, double = (initial_weights(graph_of(), 3, dtype) for dtype in ("float32", "float64"))
    for name, value in double.items():
        assert value.dtype == np.float64 and np.array_equal(value.astype(np.float32), single[name]), name


@pytest.mark.parametrize("rate", [0.1, 0.15, 0.3, 0.5, 0.9, 1 - 2.0**-40])
def test_masks_keep_their_share_and_scale(rate: float) -> None:
    graph = graph_of(audio_dropout=rate, video_dropout=0)
    rows = 2000
    masks = masks_of(graph, 0, 0, rows)
    assert "video_subnet" not in masks
    mask = masks["audio_subnet"]
    assert mask.shape == (rows, 74) and mask.dtype == np.float32
    kept = mask != 0
    assert set(np.unique(mask[kept])) <= {np.float32(1 / (1 - rate))}
    assert sigmas(kept, 1 - rate, math.sqrt(rate * (1 - rate))) < 4
    columns = kept.mean(axis=0)  # no column is privileged: 74 binomial draws
    assert np.abs(columns - (1 - rate)).max() < 5 * math.sqrt(rate * (1 - rate) / rows) + 1e-9


def test_sites_of_a_mask() -> None:
    graph = graph_of(apply_post_fusion_dropout=True, rank=3)
    assert graph.dropout_sites == (
        DropoutSite("audio_subnet", (74,), 0.3), DropoutSite("video_subnet", (35,), 0.5),
        DropoutSite("text_subnet", (64,), 0.2), DropoutSite("fusion", (3, 2), 0.5, "terms"))
    assert [site.width for site in graph.dropout_sites] == [74, 35, 64, 6]


def test_core_imports_no_framework(tmp_path: Path) -> None:
    """Nor does writing curves and the picture of a model: tensorboardX would load PyTorch beside another framework."""
    code = f"""
import pkgutil, sys, importlib, core
from pathlib import Path
for module in pkgutil.walk_packages(core.__path__, "core."):
    importlib.import_module(module.name)
from core.config import build_graph, make_config
from core.training.curves import Curves
curves = Curves(Path("curves"))
curves.draw(build_graph(make_config({{"dataset": "pom"}})))
curves.add({{"epoch": 1, "train_loss": 1.0, "valid_loss": 1.0}})
curves.close()
loaded = {{name.split(".")[0] for name in sys.modules}} & set({FRAMEWORKS!r})
sys.exit(f"loaded: {{loaded}}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path, {}),
                          stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_core_names_no_framework_in_an_import() -> None:
    """Not even within a function, where the test above could miss it."""
    for path in (ROOT / "core").rglob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.strip().startswith(tuple(f"{word} {name}" for word in ("import", "from")
                                                     for name in FRAMEWORKS)), f"{path}: {line}"
