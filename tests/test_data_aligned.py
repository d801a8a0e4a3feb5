"""Aligned sequences: found under several names, read as they are, cut at the end that is padding, generated alike."""
from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.errors import UserError
from core.config import build_graph, make_config
from core.data import load_dataset
from core.models import MODELS
from core.studies.search_space import search_space
from tests.data_samples import config_for, one_line
from tests.running import needs, run

pytestmark = pytest.mark.usefixtures("sequences")
WIDTHS = {"vision": 3, "text": 6, "audio": 4}
ROWS = {"train": 9, "valid": 4, "test": 5}
STEPS = 50


@pytest.fixture
def sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes all sequences as they are."""
    monkeypatch.setitem(MODELS, "lmf", replace(MODELS["lmf"], sequences=True))


def split_of(rows: int, seed: int, steps: int = STEPS) -> dict[str, Any]:
    """Sequences of 1 to `steps` words with zeros in front."""
    draw = np.random.default_rng(seed)
    real = np.arange(steps) >= steps - draw.integers(1, steps + 1, rows)[:, None]  # (N, T)
    values = {name: draw.normal(size=(rows, steps, width)).astype(np.float32) * real[:, :, None]
              for name, width in WIDTHS.items()}
    names = np.array([[f"video {row}", "0.000", "1.500"] for row in range(rows)])
    return {**values, "labels": draw.uniform(-3, 3, (rows, 1, 1)).astype(np.float32), "id": names}


def content_of(steps: int = STEPS) -> dict[str, Any]:
    return {name: split_of(rows, rows, steps) for name, rows in ROWS.items()}


def write(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


@pytest.mark.parametrize("dataset", ["mosi_aligned", "mosei_aligned"])
def test_read_as_it_is(tmp_path: Path, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    content = content_of()
    write(tmp_path / "aligned_50.pkl", content)
    data = load_dataset(config_for(tmp_path, dataset))
    assert data.described.names == ("vision", "text", "audio")
    assert [(one.shape, one.layout) for one in data.inputs] == [((50, width), "sequence") for width in WIDTHS.values()]
    for name, split in data.splits.items():
        for key in WIDTHS:
            np.testing.assert_array_equal(split.arrays[key], content[name][key])
        np.testing.assert_array_equal(split.arrays["label"], content[name]["labels"][:, 0])
    assert load_dataset(config_for(tmp_path / "aligned_50.pkl", dataset)).fingerprint == data.fingerprint
    assert capsys.readouterr().err == "", "converted once"


def test_mmsa_calls_its_labels_otherwise(tmp_path: Path) -> None:
    content = content_of()
    for split in content.values():
        split["regression_labels"] = split.pop("labels")[:, 0, 0]
        split["classification_labels"] = np.ones(len(split["id"]), np.float32)
    write(tmp_path / "aligned_50.pkl", content)
    label = load_dataset(config_for(tmp_path, "mosi_aligned")).splits["test"].arrays["label"]
    np.testing.assert_array_equal(label[:, 0], content["test"]["regression_labels"])


def test_of_two_files_none_is_guessed(tmp_path: Path) -> None:
    for name in ("mosi_raw.pkl", "aligned_50.pkl"):
        write(tmp_path / name, content_of())
    with pytest.raises(UserError) as error:
        load_dataset(config_for(tmp_path, "mosi_aligned"))
    one_line(error, f"{tmp_path}: holds mosi_raw.pkl and aligned_50.pkl", f"--data_dir {tmp_path / 'mosi_raw.pkl'}")
    assert load_dataset(config_for(tmp_path / "mosi_raw.pkl", "mosi_aligned")).source == str(tmp_path / "mosi_raw.pkl")


def test_padding_in_front_is_what_max_len_cuts_off(tmp_path: Path) -> None:
    content = content_of(7)
    write(tmp_path / "mosi_data.pkl", content)
    arrays = load_dataset(config_for(tmp_path, "mosi_aligned", max_len=2)).splits["train"].arrays
    for name in WIDTHS:
        np.testing.assert_array_equal(arrays[name], content["train"][name][:, -2:])
        assert arrays[name].flags.c_contiguous
    assert load_dataset(config_for(tmp_path, "mosi_aligned")).splits["train"].arrays["text"].shape[1] == 7, "all steps"


def test_inputs_are_those_of_the_data_set() -> None:
    chosen = {name: make_config({"dataset": name}).modalities for name in ("mosi", "pom", "iemocap", "mosi_aligned")}
    assert chosen == {**dict.fromkeys(("mosi", "pom", "iemocap"), ("audio", "video", "text")),
                      "mosi_aligned": ("vision", "text", "audio")}
    assert make_config({"dataset": "mosi_aligned", "modalities": "audio,video"}).modalities == ("vision", "audio")
    assert make_config({"dataset": "mosi", "modalities": "vision,audio"}).modalities == ("audio", "video")
    assert [make_config({"dataset": name}).max_len for name in ("mosi", "mosi_aligned")] == [20, None]
    config = make_config({"dataset": "mosi_aligned", "modalities": "vision"})
    assert [one.name for one in build_graph(config, config.known.inputs).inputs] == ["vision"]
    space = search_space(config, {})
    assert "video_hidden" in space and not {"audio_hidden", "text_hidden"} & set(space)


def test_the_twin() -> None:
    """Published shapes; zeros in front of sequences of all lengths, at the same steps in all inputs."""
    data = load_dataset(make_config({"dataset": "mosi_aligned", "data": "synthetic"}))
    assert [one.shape for one in data.inputs] == [(50, 35), (50, 300), (50, 74)]
    assert [split.rows for split in data.splits.values()] == [1284, 229, 686]
    for split in data.splits.values():
        real = {name: array.any(axis=2) for name, array in split.inputs.items()}  # (N, T)
        assert all((real[name] == real["text"]).all() for name in real)
        lengths = real["text"].sum(axis=1)
        assert (real["text"] == (np.arange(50) >= 50 - lengths[:, None])).all(), "in front alone"
        assert lengths.min() == 3 and lengths.max() > 45 and 15 < lengths.mean() < 23
        assert all(array.dtype == np.float32 for array in split.arrays.values())
        assert np.abs(split.arrays["label"]).max() <= 3


def test_every_input_of_the_twin_says_something_and_all_say_more() -> None:
    split = load_dataset(make_config({"dataset": "mosi_aligned", "data": "synthetic"})).splits["test"]
    label, signs = split.arrays["label"][:, 0], {}
    for name, array in split.inputs.items():
        mean = array.sum(axis=1, dtype=np.float64) / array.any(axis=2).sum(axis=1)[:, None]  # (N, D)
        axis = np.linalg.eigh(mean.T @ mean)[1][:, -1]
        signs[name] = np.sign(mean @ axis)
        signs[name] *= np.sign(np.corrcoef(signs[name], label)[0, 1])
        assert np.corrcoef(signs[name], label)[0, 1] > 0.3, name
    joined = sum(signs.values()) / 3 + np.prod(list(signs.values()), axis=0)
    assert np.corrcoef(joined, label)[0, 1] > 0.9


@pytest.mark.parametrize("flags", [("--modalities", "text"), ("--data", "synthetic", "--max_len", "4")])
def test_a_run(tmp_path: Path, flags: tuple[str, ...]) -> None:
    needs("torch")
    write(tmp_path / "mosi_raw.pkl", content_of())
    done = run(tmp_path, "torch", "train", "--dataset", "mosi_aligned", "--model", "lmf", "--data_dir", str(tmp_path),
               "--epochs", "1", "--text_hidden", "4", "--batch_size", "256", *flags)
    assert "mosi_aligned" in done.stdout and "MAE" in done.stdout
