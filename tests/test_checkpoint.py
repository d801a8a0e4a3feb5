"""Checkpoints: bit for bit there and back, and a line for every file that is none."""
from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from core.common.arrays import Array
from core.common.errors import UserError
from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.training.state import State, initial_state
from tests.conftest import Run
from tests.running import Refuse

INPUTS = feature_inputs(audio=6, video=5, text=8, steps=7)


def make(precision: str = "float32", **values: object) -> Checkpoint:
    """A checkpoint with random moments, and values that a sloppy format would lose."""
    config = make_config({"dataset": "iemocap", "rank": 2, "precision": precision, **values})
    graph = build_graph(config, INPUTS)
    draw = np.random.default_rng(0)
    start = initial_state(graph, 1, precision)
    moments = [{name: draw.normal(size=value.shape).astype(precision) for name, value in start.exp_avg.items()}
               for _ in range(2)]
    odd = np.array([-0.0, 5e-324, 0.1, 1e-40], precision)
    moments[1] = {name: np.abs(value) for name, value in moments[1].items()}
    moments[0]["audio_subnet.linear_1.bias"][:4] = odd
    progress = {"epoch": 3, "best_loss": 0.1 + 0.2, "best_epoch": 2, "stale": 1, "history": [{"epoch": 1}]}
    state = State(start.weights, moments[0], moments[1], 123456789, 2.0**-3, 17)
    return Checkpoint(config, INPUTS, "torch", "f" * 64, state, progress)


def assert_equal(left: dict[str, Array], right: dict[str, Array]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert (value.dtype, value.shape, value.tobytes()) == (right[name].dtype, right[name].shape,
                                                               right[name].tobytes()), name


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_round_trip_bit_for_bit(tmp_path: Path, precision: str) -> None:
    saved = make(precision)
    save_checkpoint(tmp_path / "a.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    for kind in ("weights", "exp_avg", "exp_avg_sq"):
        assert_equal(dict(getattr(loaded.state, kind)), dict(getattr(saved.state, kind)))
    assert (loaded.state.step, loaded.state.loss_scale, loaded.state.good_steps) == (123456789, 0.125, 17)
    assert dataclasses.replace(loaded, state=saved.state) == saved
    assert loaded.graph == build_graph(saved.config, INPUTS)


def test_weights_alone(tmp_path: Path) -> None:
    """What `best` holds: no moments."""
    saved = make()
    save_checkpoint(tmp_path / "a.safetensors", dataclasses.replace(saved, state=State(saved.state.weights)))
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert_equal(dict(loaded.state.weights), dict(saved.state.weights))
    assert loaded.state.exp_avg == {}


def refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "no such checkpoint file")
    refused(tmp_path, "no such checkpoint file")
    path = tmp_path / "a.safetensors"
    for content in (b"", b"\x80\x04pickle", b"\xff" * 100):
        path.write_bytes(content)
        refused(path, "not a readable safetensors file")
    save_checkpoint(path, make())
    path.write_bytes(path.read_bytes()[:-10])
    refused(path, "not a readable safetensors file")
    save_file({"x": np.zeros(2)}, path)
    refused(path, "format is None", "'lmf-checkpoint-1'")
    save_file({"x": np.zeros(2)}, path, metadata={"format": "lmf-checkpoint-9"})
    refused(path, "format is 'lmf-checkpoint-9'")
    save_file({"x": np.zeros(2)}, path, metadata={"format": "lmf-checkpoint-1"})
    refused(path, "record")
    save_file({"x": np.zeros(2)}, path, metadata={"format": "lmf-checkpoint-1", "record": "{]"})
    refused(path, "record")


def test_files_of_other_programs_are_sent_to_the_conversion(refuse: Refuse, tmp_path: Path) -> None:
    """By name or by content; the command that is named has to be one that a shell takes as it stands."""
    for name, content in (("x.pkl", b"\x80\x02}."), ("a b.pt", b"PK\x03\x04"), ("x.ckpt", b"\n\x01"),
                          ("x.pdparams", b"\x80\x04"), ("weights", b"\x80\x02")):
        path = tmp_path / name
        path.write_bytes(content)
        for command in ("evaluate", "infer", "export"):
            line = refuse(command, "--checkpoint", str(path), words=(str(path), "not a readable safetensors file"))
            words = shlex.split(line.strip().partition("wrote it: ")[2])
            assert words == ["python", "-m", "core.convert", "--input", str(path), "--output",
                             str(path.with_suffix(".safetensors"))]
    path = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(2)}, path)
    refused(path, "format is None", "python -m core.convert")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert "core.convert" not in str(caught.value), "a broken safetensors file is no matter of conversion"


def test_tensors_that_do_not_fit_the_record(tmp_path: Path) -> None:
    path, saved = tmp_path / "a.safetensors", make()
    weights = {**saved.state.weights, "fusion_bias": np.zeros((1, 3), np.float32), "stray": np.zeros(1, np.float32)}
    del weights["video_factor"]
    save_checkpoint(path, dataclasses.replace(saved, state=State(weights)))
    refused(path, "fusion_bias is (1, 3), expected (1, 2)", "video_factor is missing", "stray is not part")


RANGES: dict[str, Array] = {f"{name}_{end}": np.full(width, value, np.float32) for name, width in (
    ("audio", 6), ("video", 5), ("text", 8)) for end, value in (("low", -1), ("high", 2))}


def test_the_training_range_is_kept_and_may_be_missing(tmp_path: Path) -> None:
    path, saved = tmp_path / "a.safetensors", make()
    save_checkpoint(path, dataclasses.replace(saved, ranges=RANGES))
    assert_equal(dict(load_checkpoint(path).ranges), RANGES)
    save_checkpoint(path, saved)  # as before there were ranges
    assert load_checkpoint(path).ranges == {}


@pytest.mark.parametrize(("change", "name"), [
    ({"audio_low": np.zeros(5, np.float32)}, "audio_low"), ({"text_high": np.full(8, np.nan, np.float32)}, "text_high"),
    ({"video_low": np.full(5, 3, np.float32)}, "video_low"), ({"stray_low": np.zeros(1, np.float32)}, "stray_low"),
    ({"audio_low": np.zeros(6, np.int64)}, "audio_low"), ({"audio_high": None}, "audio_high"),
])
def test_a_training_range_that_is_none(tmp_path: Path, change: dict[str, Array], name: str) -> None:
    path = tmp_path / "a.safetensors"
    kept = {key: value for key, value in {**RANGES, **change}.items() if value is not None}
    save_checkpoint(path, dataclasses.replace(make(), ranges=kept))
    refused(path, f"training range {name} does not fit the model", "another checkpoint")


def test_nothing_in_the_file_is_code(tmp_path: Path) -> None:
    """Tensors, and a JSON record: what a reader in any language can check."""
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    assert {name.split("/")[0] for name in load_file(path)} == {"weights", "exp_avg", "exp_avg_sq"}
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8:8 + size])
    assert json.loads(header["__metadata__"]["record"])["config"]["rank"] == 2


@pytest.mark.parametrize("command", ["evaluate", "infer", "export"])
def test_commands_need_a_checkpoint(refuse: Refuse, tmp_path: Path, command: str) -> None:
    refuse(command, words=("--checkpoint is required",))
    refuse(command, "--checkpoint", str(tmp_path / "x"), words=(str(tmp_path / "x"), "no such checkpoint file"))
    refuse(command, "--checkpoint", str(tmp_path), words=(str(tmp_path / "best.safetensors"),))


def test_another_shape_names_the_tensors(refuse: Refuse, classified: Run) -> None:
    refuse("evaluate", "--checkpoint", str(classified.folder), "--audio_hidden", "5", words=(
        "audio_factor is (2, 5, 2), expected (2, 6, 2)", "audio_subnet.linear_1.weight is (4, 6), expected (5, 6)"))
    refuse("evaluate", "--checkpoint", str(classified.folder), "--modalities", "audio,text",
           words=("video_factor is not part of this model",))
