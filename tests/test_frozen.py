"""Parameters that stay as they were drawn: the key `frozen`, its mistakes, and what a run leaves of them."""
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from core.common.errors import UserError
from core.config import build_graph, changed, changes, make_config, to_values
from core.data.published import feature_inputs
from core.training.checkpoint import load_checkpoint
from core.training.randomness import initial_weights
from tests.conftest import Run, finished
from tests.running import Refuse

INPUTS = feature_inputs(audio=6, video=5, text=8, steps=7)
PAPER = ("fusion_bias", "fusion_weights")


@pytest.fixture(scope="module")
def frozen(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three epochs of MOSI as the original trained at the time of the paper, with weight decay."""
    return finished("mosi", data, tmp_path_factory.mktemp("frozen"), "--epochs", "3", "--weight_decay", "0.01",
                    "--frozen", "fusion_weights,fusion_bias")


@pytest.mark.parametrize("value", ["fusion_weights,fusion_bias", "fusion_bias, fusion_weights",
                                   ["fusion_weights", "fusion_bias"], ["fusion_bias", "fusion_weights", "fusion_bias"]])
def test_one_set_of_names_is_one_configuration(value: object) -> None:
    assert make_config({"dataset": "mosi", "frozen": value}).frozen == PAPER


@pytest.mark.parametrize("value", [None, "", []])
def test_no_names_are_the_default(value: object) -> None:
    assert make_config({"dataset": "mosi", "frozen": value}) == make_config({"dataset": "mosi"})


@pytest.mark.parametrize("value", [0, 3, {"fusion_bias": 1}, [["fusion_bias"]], [1], True])
def test_what_is_no_list_of_names_is_refused(value: object) -> None:
    with pytest.raises(UserError, match="frozen = "):
        make_config({"dataset": "mosi", "frozen": value})


@pytest.mark.parametrize(("values", "words"), [
    ({"frozen": "fusion_weight,fusion_bias"}, "no trained parameter 'fusion_weight' in this model; it has audio_f"),
    ({"frozen": "fusion_bias", "model": "tfn"}, "'fusion_bias' in this model; it has post_fusion_layer_1.weight"),
    ({"frozen": "video_factor", "modalities": "audio,text"}, "no trained parameter 'video_factor'"),
    ({"frozen": "audio_subnet.norm.running_mean"}, "no trained parameter 'audio_subnet.norm.running_mean'"),
])
def test_names_that_the_model_lacks(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_graph(make_config({"dataset": "mosi", **values}), INPUTS)


def test_something_is_left_to_train() -> None:
    every = [p.name for p in build_graph(make_config({"dataset": "mosi"}), INPUTS).trainable]
    with pytest.raises(UserError, match="leaves nothing to train"):
        build_graph(make_config({"dataset": "mosi", "frozen": every}), INPUTS)
    graph = build_graph(make_config({"dataset": "mosi", "frozen": every[1:]}), INPUTS)
    assert [p.name for p in graph.trainable] == every[:1]


def test_they_stay_as_they_were_drawn(frozen: Run) -> None:
    """Their bits, through steps with decay; everything else moves, and only that has moments."""
    start = initial_weights(load_checkpoint(frozen.folder).graph, 0)
    for name in ("best.safetensors", "last.safetensors"):
        weights = load_checkpoint(frozen.folder / name).state.weights
        same = {key for key, value in weights.items() if value.tobytes() == start[key].tobytes()}
        assert same == set(PAPER)
    state = load_checkpoint(frozen.folder / "last.safetensors").state
    assert state.exp_avg.keys() == state.exp_avg_sq.keys() == {
        name for name in state.weights if name not in PAPER and "running" not in name}
    assert np.abs(state.weights["fusion_weights"]).min() > 0 and not state.weights["fusion_bias"].any()


def test_the_count_of_trained_parameters_leaves_them_out(frozen: Run) -> None:
    """Rank 2 and one output: two weights and a bias."""
    config = make_config(json.loads(json.dumps(to_values(load_checkpoint(frozen.folder).config))))
    whole = build_graph(changed(config, {"frozen": ()}), INPUTS)
    counted = json.loads((frozen.folder / "run.json").read_text())["parameters"]
    assert counted == whole.parameter_count - 3


def test_a_run_that_froze_something_else_is_another_run(refuse: Refuse, frozen: Run, classified: Run) -> None:
    refuse("train", "--resume", str(frozen.folder), "--frozen", "fusion_bias", words=(
        'frozen (["fusion_bias", "fusion_weights"] before, ["fusion_bias"] now)', "start a new run"))
    refuse("train", "--resume", str(frozen.folder), "--frozen", "none", words=("frozen (", "[] now)"))
    refuse("train", "--resume", str(classified.folder), "--frozen", "fusion_bias", words=("frozen ([] before",))


def test_a_checkpoint_from_before_the_key(classified: Run, tmp_path: Path) -> None:
    """Its record doesn't name the key: nothing was frozen, and a run goes on from it as the same."""
    source, old = classified.folder / "last.safetensors", tmp_path / "old.safetensors"
    with safe_open(source, framework="numpy") as file:
        metadata = file.metadata()
    record = json.loads(metadata["record"])
    assert record["config"].pop("frozen") == [] and record.pop("tensors")  # nor had it digests
    save_file(load_file(source), old, metadata={"format": metadata["format"], "record": json.dumps(record)})
    assert not changes(load_checkpoint(source).config, load_checkpoint(old).config)
