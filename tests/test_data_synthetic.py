"""Synthetic data: published shapes and scales, the same bytes everywhere, and no signal in one modality."""
from __future__ import annotations

import functools
import hashlib
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV

from core.config import make_config
from core.data import Dataset, load_dataset

SHAPES = {"mosi": ((1284, 229, 686), 5, 20, 1), "pom": ((600, 100, 203), 43, 43, 16),
          "iemocap": ((2717, 798, 938), 74, 35, 2)}
DIGESTS = {
    "mosi": "afe8a04dc1cdcdae2616ad67a8e1fab6db103a4078b3d4eda5b4f462f3b42bf6",
    "pom": "6a9086cd754836b50166c4a0d25f44621196278c85aa87b463ae80d0d68dd9fa",
    "iemocap": "45a7ace228edbba72581ff1d0cc8b9168aaed5bc6d061667e5fbfe9bfdcca852",
}


@functools.cache
def generated(dataset: str, **keys: Any) -> Dataset:
    return load_dataset(make_config({"dataset": dataset, "data": "synthetic", **keys}))


@pytest.mark.parametrize("dataset", SHAPES)
def test_shapes_and_labels(dataset: str) -> None:
    data = generated(dataset)
    rows, audio, video, outputs = SHAPES[dataset]
    assert data.synthetic and "synthetic" in data.title and data.source is None
    assert any("synthetic" in note for note in data.notes) and len(data.task.names) == outputs
    for count, split in zip(rows, data.splits.values(), strict=True):
        shapes = {name: array.shape for name, array in split.arrays.items()}
        label = (count,) if dataset == "iemocap" else (count, outputs)
        assert shapes == {"audio": (count, audio), "video": (count, video), "text": (count, 20, 300),
                          "label": label}
        assert all(array.flags.c_contiguous for array in split.arrays.values())
        values = split.arrays["label"]
        assert values.dtype == (np.int64 if dataset == "iemocap" else np.float32)
        low, high = {"mosi": (-3, 3), "pom": (1, 7), "iemocap": (0, 1)}[dataset]
        assert values.min() >= low and values.max() <= high


@pytest.mark.parametrize(("emotion", "share"),
                         [("happy", 0.15), ("sad", 0.2), ("angry", 0.25), ("neutral", 0.4)])
def test_share_of_an_emotion(emotion: str, share: float) -> None:
    label = generated("iemocap", emotion=emotion, modalities="audio").splits["train"].arrays["label"]
    assert abs(label.mean() - (share * 0.97 + (1 - share) * 0.03)) < 0.02


def test_scales_and_dead_channels() -> None:
    arrays = generated("iemocap").splits["train"].arrays
    audio, video = arrays["audio"], arrays["video"]
    assert list(np.flatnonzero(np.ptp(audio, axis=0) == 0)) == [36, 37, 38, 39]
    assert abs(audio.mean(0)).max() < 0.4 and audio.var(0).max() < 0.08
    assert video.var(0).min() > 0.0005 and video.var(0).max() < 0.027


@pytest.mark.parametrize("dataset", SHAPES)
def test_same_bytes_everywhere(dataset: str) -> None:
    digest = hashlib.sha256()
    for split in generated(dataset).splits.values():
        for name in ("audio", "video", "text", "label"):
            digest.update(np.ascontiguousarray(split.arrays[name]).tobytes())
    assert digest.hexdigest() == DIGESTS[dataset]


def test_what_decides_the_data() -> None:
    base = generated("pom").splits["valid"].arrays
    for keys in ({"seed": 5}, {"rank": 2}):
        other = generated("pom", **keys)
        assert other.fingerprint == generated("pom").fingerprint
        np.testing.assert_array_equal(other.splits["valid"].arrays["text"], base["text"])
    seeded = generated("pom", synthetic_seed=1)
    assert seeded.fingerprint != generated("pom").fingerprint
    assert not np.array_equal(seeded.splits["valid"].arrays["audio"], base["audio"])
    part = generated("pom", modalities="video,text", max_len=3)
    np.testing.assert_array_equal(part.splits["valid"].arrays["video"], base["video"])
    np.testing.assert_array_equal(part.splits["valid"].arrays["text"], base["text"][:, :3])
    assert (part.described.names, part.described.steps) == (("video", "text"), 3) and len(part.notes) == 2


def summary(array: Any) -> Any:
    """(N, D): audio and video as they are, text averaged over its steps."""
    return array.mean(axis=1) if array.ndim == 3 else array


def correlation(model: Any, data: Dataset, modality: str, trait: int) -> float:
    """Of a model's test predictions with the label."""
    inputs = {name: summary(split.arrays[modality]) for name, split in data.splits.items()}
    labels = {name: split.arrays["label"].reshape(split.rows, -1)[:, trait]
              for name, split in data.splits.items()}
    predicted = model.fit(inputs["train"], labels["train"]).predict(inputs["test"])
    return 0.0 if np.ptp(predicted) == 0 else float(np.corrcoef(predicted, labels["test"])[0, 1])


@pytest.mark.parametrize("dataset", SHAPES)
@pytest.mark.parametrize("modality", ["audio", "video", "text"])
def test_one_modality_alone_is_at_chance(dataset: str, modality: str) -> None:
    data = generated(dataset)
    bound = 4 / np.sqrt(data.splits["test"].rows)  # four standard errors of a correlation of 0
    for trait in (0, 1, 2, 3) if dataset == "pom" else (0,):
        assert abs(correlation(RidgeCV(), data, modality, trait)) < bound
    boosted = HistGradientBoostingRegressor(max_iter=30, random_state=0)
    assert abs(correlation(boosted, data, modality, 3 if dataset == "pom" else 0)) < bound


@pytest.mark.parametrize("dataset", ["mosi", "iemocap"])
@pytest.mark.parametrize("pair", [("audio", "video"), ("audio", "text"), ("video", "text")])
def test_two_modalities_are_at_chance_too(dataset: str, pair: tuple[str, str]) -> None:
    signs = hidden_signs(generated(dataset))
    label = generated(dataset).splits["test"].arrays["label"].reshape(-1)
    assert abs(np.corrcoef(signs[pair[0]] * signs[pair[1]], label)[0, 1]) < 4 / np.sqrt(len(label))


@pytest.mark.parametrize(("dataset", "least"), [("mosi", 0.8), ("pom", 0.8), ("iemocap", 0.8)])
def test_the_three_together_tell(dataset: str, least: float) -> None:
    """The planted signal is there, and features show it: the product of three linear readings."""
    signs = hidden_signs(generated(dataset))
    label = generated(dataset).splits["test"].arrays["label"].reshape(len(signs["audio"]), -1)
    label = label[:, 3 if dataset == "pom" else 0]  # trait 3 follows all three modalities
    assert abs(np.corrcoef(signs["audio"] * signs["video"] * signs["text"], label)[0, 1]) > least


def hidden_signs(data: Dataset) -> dict[str, Any]:
    """What the first principal axis of each modality's standardised test features says: +-1 (N,)."""
    signs = {}
    for modality in ("audio", "video", "text"):
        values = summary(data.splits["test"].arrays[modality]).astype(np.float64)
        values = (values - values.mean(0)) / (values.std(0) + 1e-9)
        signs[modality] = np.sign(values @ np.linalg.eigh(values.T @ values)[1][:, -1])
    return signs
