"""Features without labels, from three kinds of files."""
from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.common.errors import UserError
from core.data.published import feature_inputs
from core.data.unlabelled import read_unlabelled
from tests.data_samples import one_line

INPUTS = feature_inputs(audio=4, video=3, text=6, steps=5)


def sample(**changes: Any) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    arrays = {"audio": draw.normal(size=(2, 4)), "video": draw.normal(size=(2, 3)),
              "text": draw.normal(size=(2, 5, 6)), **changes}
    return {name: value for name, value in arrays.items() if value is not None}


def save(folder: Path, suffix: str, arrays: dict[str, Any]) -> Path:
    path = folder / f"x{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".safetensors":
        save_file(arrays, path)
    else:
        path.write_bytes(pickle.dumps(arrays))
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pkl"])
@pytest.mark.parametrize("label", [None, np.zeros(9)])
def test_reads(tmp_path: Path, suffix: str, label: Any) -> None:
    arrays = sample(label=label)
    arrays["audio"][0, 0] = np.inf
    arrays["covarep" if suffix == ".pkl" else "audio"] = arrays.pop("audio")
    found, cleaning = read_unlabelled(save(tmp_path, suffix, arrays), INPUTS, 3)
    assert set(found) == {"audio", "video", "text"} and found["audio"].dtype == np.float32
    np.testing.assert_array_equal(found["text"], arrays["text"][:, :3].astype(np.float32))
    assert found["text"].flags.c_contiguous and found["audio"][0, 0] == 0
    assert cleaning["audio"] == {"nan": 0, "posinf": 1, "neginf": 0}


def test_unused_modalities_may_be_anything(tmp_path: Path) -> None:
    found, _ = read_unlabelled(save(tmp_path, ".npz", sample(video=np.array(["x"]))), INPUTS[:1], 20)
    assert set(found) == {"audio"}


@pytest.mark.parametrize(("suffix", "changes", "words"), [
    (".npz", {"video": None}, ["no array 'video'", "'audio', 'text'"]),
    (".npz", {"audio": np.zeros((2, 9))}, ["audio", "width 9", "(2, 9)", "expected 4"]),
    (".safetensors", {"text": np.zeros((2, 5, 7))}, ["text", "width 7", "expected 6"]),
    (".pkl", {"text": np.zeros((2, 6))}, ["text", "(2, 6)", "(rows, steps, width)"]),
    (".pkl", {"audio": np.zeros((3, 4))}, ["differing numbers of rows", "audio 3", "video 2"]),
    (".npz", {"audio": np.zeros((0, 4))}, ["audio", "(0, 4)"]),
    (".npz", {"audio": np.zeros((2, 7, 4))}, ["audio", "(2, 7, 4)", "7 steps", "has no sequences of audio"]),
    (".npz", {"audio": np.array([["a"] * 4] * 2)}, ["audio", "dtype <U1"]),
    (".npz", {"audio": np.array([{}], object)}, ["not a readable .npz", "allow_pickle"]),
    (".pkl", {"audio": [1.0]}, ["audio", "is a list"]),
])
def test_bad_arrays(tmp_path: Path, suffix: str, changes: dict[str, Any], words: list[str]) -> None:
    path = save(tmp_path, suffix, sample(**changes))
    with pytest.raises(UserError) as error:
        read_unlabelled(path, INPUTS, 20)
    one_line(error, str(path), *words)


@pytest.mark.parametrize(("name", "raw", "words"), [
    ("x.npz", b"garbage", ["not a readable .npz"]),
    ("x.npz", b"", ["not a readable .npz"]),
    ("x.safetensors", b"garbage", ["not a readable .safetensors"]),
    ("x.pkl", b"garbage", ["not a readable pickle"]),
    ("x.pkl", pickle.dumps([1]), ["is a list", "expected a dict"]),
    ("x.csv", b"1,2", ["suffix '.csv'"]),
    ("x.npz", None, ["no such file"]),
])
def test_bad_files(tmp_path: Path, name: str, raw: bytes | None, words: list[str]) -> None:
    path = tmp_path / name
    if raw is not None:
        path.write_bytes(raw)
    with pytest.raises(UserError) as error:
        read_unlabelled(path, INPUTS, 20)
    one_line(error, str(path), *words)


def test_npy_called_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    path = (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(UserError) as error:
        read_unlabelled(path, INPUTS, 20)
    one_line(error, str(path), ".npy")
