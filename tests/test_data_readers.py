"""Every way in which a published file can be wrong is one line that names it."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.errors import UserError
from core.data import load_dataset
from core.data.published import DATASETS, REPAIR, feature_inputs
from tests.data_samples import config_for, content_of, one_line, split_of, to_bytes_keys, write

Change = Callable[[dict[str, Any]], Any]


def put(split: str, key: str, value: Any) -> Change:
    """Set content[split][key]; a function is applied to the old value."""
    def change(content: dict[str, Any]) -> None:
        old = content[split][key]
        content[split][key] = value(old) if callable(value) else value
    return change


def drop(*path: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]
    return change


def at(row: int, value: Any) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[row] = value
        return array
    return change


def everywhere(key: str, value: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        for split in ("train", "valid", "test"):
            content[split][key] = value(content[split][key])
    return change


BAD: list[tuple[str, str, Change, list[str]]] = [
    ("split missing", "mosi", drop("valid"), ["no split 'valid'", "'train', 'test'"]),
    ("split no dict", "mosi", lambda c: c.update(test=3), ["test: is a int", "expected a dict"]),
    ("label key missing", "mosi", drop("test", "label"), ["test: no key 'label'", "'covarep'"]),
    ("feature key missing once", "mosi", drop("valid", "facet"), ["valid: no key 'facet'", "in all splits"]),
    ("feature key only there", "mosi", drop("train", "facet"), ["train: no key 'facet'", "in all splits"]),
    ("rows differ", "mosi", put("train", "glove", lambda x: x[:-1]), ["train: differing", "text 6, label 7"]),
    ("audio rank", "mosi", put("train", "covarep", np.zeros((7, 2, 4))),
     ["train covarep", "(7, 2, 4)", "a sequence of 2 steps", "LMF and TFN take one vector per row, (rows, width)",
      "this data set has no sequences of audio", "array.mean(axis=1)"]),
    ("audio axes", "mosi", put("train", "covarep", np.zeros((7, 2, 2, 4))), ["(7, 2, 2, 4)", "(rows, width)", REPAIR]),
    ("no steps", "mosi", put("train", "facet", np.zeros((7, 0, 3))), ["train facet", "(7, 0, 3)", "none of them 0"]),
    ("text rank", "pom", put("valid", "glove", np.zeros((3, 6))),
     ["valid glove", "(3, 6)", "(rows, steps, width)"]),
    ("zero rows", "mosi", put("test", "covarep", np.zeros((0, 4))), ["test covarep", "(0, 4)"]),
    ("zero labels", "mosi", put("test", "label", np.zeros((0, 1))), ["test label", "(0, 1)"]),
    ("list", "mosi", put("test", "covarep", [[1.0]]), ["test covarep", "is a list"]),
    ("objects", "mosi", put("test", "covarep", np.array([[{}]], object)), ["test covarep", "'O8'"]),
    ("strings", "mosi", put("test", "covarep", np.array([["a"]])), ["test covarep", "dtype <U1"]),
    ("flags", "mosi", put("test", "facet", np.ones((4, 3), bool)), ["test facet", "dtype bool"]),
    ("records", "mosi", put("test", "facet", np.zeros(4, [("a", "f4")])), ["test facet", "no plain numbers"]),
    ("audio width", "mosi", put("test", "covarep", np.ones((4, 9))), ["test audio", "(4, 9)", "(rows, 4)"]),
    ("text steps", "mosi", put("valid", "glove", np.ones((3, 2, 6))),
     ["valid text", "(3, 2, 6)", "(rows, 5, 6)"]),
    ("label NaN", "mosi", put("train", "label", at(2, np.nan)), ["train label", "nan in row 2", "1 such"]),
    ("label inf", "pom", put("train", "label", at(2, np.inf)), ["train label", "inf in row 2", "finite"]),
    ("label low", "mosi", put("test", "label", at(1, -3.5)), ["test label", "-3.5 in row 1", "-3 to 3"]),
    ("label high", "pom", put("valid", "label", at(1, 7.5)), ["valid label", "7.5 in row 1", "0 to 7"]),
    ("label below 0", "pom", put("valid", "label", at(0, -0.1)), ["valid label", "-0.1 in row 0", "0 to 7"]),
    ("17 traits", "pom", put("train", "label", np.ones((7, 17))), ["train label", "(7, 17)", "(rows, 16)"]),
    ("flat traits", "pom", put("train", "label", np.ones(7)), ["train label", "(7,)", "(rows, 16)"]),
    ("constant", "mosi", put("train", "facet", np.ones((7, 3))),
     ["train facet", "constant", "--modalities audio,text"]),
    ("all NaN", "mosi", put("train", "glove", np.full((7, 5, 6), np.nan)),
     ["train glove", "NaN or infinite", "--modalities audio,video"]),
    ("modality absent", "mosi", lambda c: [c[s].pop("glove") for s in c],
     ["no key 'glove'", "--modalities audio,video"]),
    ("no emotion", "iemocap", lambda c: [c.pop("happy"), c.pop("sad")],
     ["has nothing", "happy, sad, angry, neutral"]),
    ("emotion missing", "iemocap", drop("happy"), ["happy: no such emotion", "sad", "--emotion"]),
    ("not one-hot", "iemocap", lambda c: put("train", "label", at(3, 1))(c["happy"]),
     ["happy: train label", "[1 1] in row 3"]),
    ("one-hot of 0", "iemocap", lambda c: put("train", "label", at(0, 0))(c["sad"]),
     ["sad: train label", "[0 0] in row 0"]),
    ("half", "iemocap", lambda c: put("train", "label", at(0, 0.5))(c["happy"]),
     ["[0.5 0.5] in row 0", "one-hot"]),
    ("one and a half", "iemocap", lambda c: put("train", "label", at(0, [1, 0.5]))(c["happy"]),
     ["[1 0.5] in row 0", "one-hot"]),
    ("three classes", "iemocap", lambda c: put("test", "label", np.eye(3)[[0, 1, 2, 0]])(c["happy"]),
     ["happy: test label", "(4, 3)", "(rows, 2)"]),
    ("label rank", "iemocap", lambda c: put("test", "label", np.zeros((4, 2, 2)))(c["happy"]),
     ["(4, 2, 2)", "(rows, 2)"]),
    ("no class", "iemocap", lambda c: put("test", "label", np.array([0, 1, 2, 1]))(c["happy"]),
     ["happy: test label: 2 in row 2 (1 such rows)", "whole number from 0 to 1"]),
]


@pytest.mark.parametrize(("dataset", "change", "words"), [row[1:] for row in BAD],
                         ids=[row[0] for row in BAD])
def test_bad_input(tmp_path: Path, dataset: str, change: Change, words: list[str]) -> None:
    content = content_of(dataset)
    change(content)
    path = write(tmp_path, dataset, to_bytes_keys(content))
    with pytest.raises(UserError) as error:
        load_dataset(config_for(tmp_path, dataset))
    text = one_line(error, str(path), *words)
    assert any(way_out in text for way_out in (REPAIR, "mean(axis=1)", "--modalities", "--emotion"))
    assert "sha256" not in text, "nobody is sent to the published file whose own data this is"
    assert not list(tmp_path.rglob("*.tmp"))
    if not {"constant", "NaN or infinite", "--modalities audio,video", "--emotion"} & set(words):
        assert list(tmp_path.iterdir()) == [path], "nothing may be stored of a file that is refused"


def test_not_a_dict(tmp_path: Path) -> None:
    path = write(tmp_path, "mosi", [1])
    with pytest.raises(UserError) as error:
        load_dataset(config_for(tmp_path, "mosi"))
    assert "published" not in one_line(error, str(path), "is a list", "expected a dict", REPAIR)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: b"", lambda raw: b"version https://git-lfs\n"])
def test_only_damage_under_its_name_speaks_of_the_published_file(tmp_path: Path,
                                                                 damage: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path, "mosi", content_of("mosi"))
    path.write_bytes(damage(path.read_bytes()))
    own = tmp_path / "mine.pkl"
    own.write_bytes(path.read_bytes())
    for source, published in ((path, True), (own, False)):
        with pytest.raises(UserError) as error:
            load_dataset(config_for(source, "mosi"))
        text = one_line(error, str(source), "write it again with pickle.dump")
        assert (DATASETS["mosi"].published.sha256 in text) is published and ("published" in text) is published


def test_a_whole_pickle_of_other_things_is_the_users_own(tmp_path: Path) -> None:
    path = write(tmp_path, "mosi", {"train": Path("x")})
    with pytest.raises(UserError) as error:
        load_dataset(config_for(tmp_path, "mosi"))
    assert "published" not in one_line(error, str(path), "refused", "PosixPath", REPAIR)


def test_missing_file_names_what_to_get(tmp_path: Path) -> None:
    for dataset, described in DATASETS.items():
        known = described.published
        with pytest.raises(UserError) as error:
            load_dataset(config_for(tmp_path, dataset))
        digest = (known.sha256, str(known.file_bytes)) if known.sha256 else ()
        text = one_line(error, str(tmp_path), *described.file_names, *digest, "--data synthetic")
        assert ("sha256" in text) is bool(known.sha256) and "(0 bytes" not in text


@pytest.mark.parametrize("dataset", ["mosi", "pom", "iemocap"])
@pytest.mark.parametrize("prepare", [lambda c: c, to_bytes_keys], ids=["str", "bytes"])
def test_good_files(tmp_path: Path, dataset: str, prepare: Callable[[Any], Any]) -> None:
    content = content_of(dataset)
    write(tmp_path, dataset, prepare(content))
    data = load_dataset(config_for(tmp_path, dataset))
    part = content["happy"] if dataset == "iemocap" else content
    for split in ("train", "valid", "test"):
        arrays = data.splits[split].arrays
        for key, name in (("covarep", "audio"), ("facet", "video"), ("glove", "text")):
            np.testing.assert_array_equal(arrays[name], part[split][key].astype(np.float32))
            assert arrays[name].dtype == np.float32 and arrays[name].flags.c_contiguous
        label = part[split]["label"]
        if dataset == "iemocap":
            assert arrays["label"].dtype == np.int64
            np.testing.assert_array_equal(arrays["label"], label[:, 1])
        else:
            np.testing.assert_array_equal(arrays["label"], label.astype(np.float32))
        assert data.splits[split].rows == len(label)
    assert data.inputs == feature_inputs(audio=4, video=3, text=6, steps=5)
    assert not data.synthetic and "synthetic" not in data.title
    assert len(data.task.names) == {"mosi": 1, "pom": 16, "iemocap": 2}[dataset]


@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 1, 1)])
def test_accepted_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = content_of("mosi")
    label = content["train"]["label"].copy()
    content["train"]["label"] = label.reshape(shape)
    audio = content["train"]["covarep"]
    content["train"]["covarep"] = audio[:, None]
    everywhere("label", np.asarray)(content)
    write(tmp_path, "mosi", content)
    arrays = load_dataset(config_for(tmp_path, "mosi")).splits["train"].arrays
    np.testing.assert_array_equal(arrays["label"], label.astype(np.float32))
    np.testing.assert_array_equal(arrays["audio"], audio.astype(np.float32))


def test_plain_keys_and_unused_ones(tmp_path: Path) -> None:
    content = content_of("mosi")
    for split in content.values():
        for old, new in (("covarep", "audio"), ("facet", "video"), ("glove", "text")):
            split[new] = split.pop(old)
        split["id"] = np.array([{}], object)
    write(tmp_path, "mosi", content)
    assert load_dataset(config_for(tmp_path, "mosi")).described.of("text").width == 6


def test_a_useless_modality_may_be_left_out(tmp_path: Path) -> None:
    content = content_of("mosi")
    content["train"]["glove"][:] = 0
    write(tmp_path, "mosi", content)
    data = load_dataset(config_for(tmp_path, "mosi", modalities="audio,video"))
    assert set(data.splits["train"].arrays) == {"audio", "video", "label"}
    assert data.described.names == ("audio", "video") and data.described.steps == 0


def test_max_len_keeps_the_first_steps(tmp_path: Path) -> None:
    content = content_of("mosi")
    write(tmp_path, "mosi", content)
    text = load_dataset(config_for(tmp_path, "mosi", max_len=2)).splits["test"].arrays["text"]
    np.testing.assert_array_equal(text, content["test"]["glove"][:, :2].astype(np.float32))
    assert text.flags.c_contiguous


def test_cleaning_counts(tmp_path: Path) -> None:
    content = content_of("mosi")
    content["train"]["covarep"][0] = [np.nan, np.inf, -np.inf, 1e39]  # 1e39 is beyond float32
    content["valid"]["glove"][1, 2, :3] = np.nan
    write(tmp_path, "mosi", content)
    data = load_dataset(config_for(tmp_path, "mosi"))
    assert data.cleaning["train"]["audio"] == {"nan": 1, "posinf": 2, "neginf": 1}
    assert data.cleaning["valid"]["text"] == {"nan": 3, "posinf": 0, "neginf": 0}
    assert sum(data.cleaning["test"]["video"].values()) == 0
    np.testing.assert_array_equal(data.splits["train"].arrays["audio"][0], 0)
    for split in data.splits.values():
        assert all(np.isfinite(array).all() for array in split.inputs.values())
    assert any("train audio: 1 NaN, 2 +inf, 1 -inf" in note for note in data.notes)


def test_one_training_row_is_not_called_constant(tmp_path: Path) -> None:
    content = content_of("mosi")
    content["train"] = split_of("mosi", 1, 5)
    write(tmp_path, "mosi", content)
    assert load_dataset(config_for(tmp_path, "mosi")).splits["train"].rows == 1
