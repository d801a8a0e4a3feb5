"""What of aligned sequences is unusual and works, what is said of it, and what is refused."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.errors import UserError
from core.config import build_graph, make_config
from core.data import Dataset, load_dataset
from core.data.provenance import LEAKING, digest
from core.data.sequences import keep_steps, mean_of_steps, padding_of
from core.data.unlabelled import read_unlabelled
from core.models import MODELS
from tests.data_samples import config_for, one_line
from tests.test_data_aligned import ROWS, STEPS, WIDTHS, content_of, write

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture
def sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes all sequences as they are."""
    monkeypatch.setitem(MODELS, "lmf", replace(MODELS["lmf"], sequences=True))


def load(folder: Path, change: Change = lambda content: None, steps: int = STEPS, **keys: Any) -> Dataset:
    content = content_of(steps)
    change(content)
    write(folder / "mosi_raw.pkl", content)
    return load_dataset(config_for(folder, "mosi_aligned", **keys))


def each(key: str, value: Callable[[Any], Any]) -> Change:
    """`value` of what every split has under `key`; None: without the key."""
    def change(content: dict[str, Any]) -> None:
        for split in content.values():
            made = value(split.pop(key))
            split.update({} if made is None else {key: made})
    return change


def said(data: Dataset, start: str) -> str:
    """The one note that begins so; nothing where none does."""
    found = [note for note in data.notes if note.startswith(start)]
    assert len(found) <= 1, found
    return "".join(found)


@pytest.mark.parametrize(("name", "change"), [
    ("no id", each("id", lambda names: None)),
    ("ids as objects", each("id", lambda names: np.array(names.tolist(), object))),
    ("ids as a list", each("id", lambda names: [f"{video}$_$1" for video, _, _ in names.tolist()])),
    ("ids in lists", each("id", lambda names: names.tolist())),
    ("ids as bytes", each("id", lambda names: names.astype("S"))),
    ("text as float64", each("text", lambda values: values.astype(np.float64))),
    ("labels as float64", each("labels", lambda values: values.astype(np.float64))),
])
def test_as_good_as_any(tmp_path: Path, sequences: None, name: str, change: Change) -> None:
    found, plain = load(tmp_path, change), load(tmp_path)
    for split, content in plain.splits.items():
        assert {key: (value.dtype, value.tobytes()) for key, value in found.splits[split].arrays.items()} == {
            key: (value.dtype, value.tobytes()) for key, value in content.arrays.items()}


def test_not_finite_numbers_become_zero_and_are_counted(tmp_path: Path, sequences: None) -> None:
    def change(content: dict[str, Any]) -> None:
        content["train"]["audio"][0, -1, :3] = np.nan, np.inf, -np.inf

    data = load(tmp_path, change)
    assert data.cleaning["train"]["audio"] == {"nan": 1, "posinf": 1, "neginf": 1}
    assert not data.splits["train"].arrays["audio"][0, -1, :3].any()


@pytest.mark.parametrize("steps", [7, 60])
def test_another_number_of_steps_is_said(tmp_path: Path, sequences: None, steps: int) -> None:
    data = load(tmp_path, steps=steps)
    assert [one.shape[0] for one in data.inputs] == [steps] * 3
    assert f"vision {steps}x3, text {steps}x6, audio {steps}x4; published: vision 50x35" in said(data, "steps x width")
    assert "published: 1284, 229, 686" in said(data, "rows of train, valid, test: 9, 4, 5")


def test_inputs_of_different_length_are_kept_as_they_are(tmp_path: Path, sequences: None) -> None:
    change = each("audio", lambda values: np.repeat(values, 2, axis=1))
    for _ in range(2):  # converted, then out of the store
        data = load(tmp_path, change)
        assert [one.shape[0] for one in data.inputs] == [50, 50, 100]
    short = load(tmp_path, change, max_len=3)
    assert [one.shape[0] for one in short.inputs] == [3, 3, 3] and short.fingerprint != data.fingerprint


def test_rows_of_zeros_are_counted(tmp_path: Path, sequences: None) -> None:
    def change(content: dict[str, Any]) -> None:
        content["train"]["text"][[2, 5]] = 0
        content["test"]["vision"][1] = 0

    note = said(load(tmp_path, change), "rows that are zero at every step")
    assert note.endswith(": 2 of 9 of train text, 1 of 5 of test vision")
    assert not said(load(tmp_path), "rows that are zero at every step")


def test_a_vector_that_is_written_at_every_step_is_said(tmp_path: Path, sequences: None) -> None:
    """Not where one row of one input is another in a step; padding is no step."""
    def repeated(values: Array) -> Array:
        return np.where(values.any(axis=2, keepdims=True), values[:, -1:], 0)

    def change(content: dict[str, Any]) -> None:
        for name in ("vision", "text"):
            each(name, repeated)(content)
        content["train"]["text"][-1, -1, 0] += 1

    assert said(load(tmp_path, change), "vision: one vector per row of train, written at every real step")
    assert not [note for note in load(tmp_path).notes if "one vector per row" in note]


def test_padding_at_the_end_is_seen_and_said_once(tmp_path: Path, sequences: None) -> None:
    def change(content: dict[str, Any]) -> None:
        for split in content.values():
            split.update({name: split[name][:, ::-1].copy() for name in WIDTHS})

    data = load(tmp_path, change, max_len=2)
    assert said(data, "padding is") == ("padding is at the end of the sequences, described is in front; max_len keeps "
                                        "their first steps")
    for name in WIDTHS:
        np.testing.assert_array_equal(data.splits["test"].arrays[name], content_of()["test"][name][:, :-3:-1])
    assert not said(load(tmp_path), "padding is")
    content = content_of()
    change(content)
    np.savez(tmp_path / "rows.npz", **{name: content["test"][name] for name in WIDTHS})
    found, _ = read_unlabelled(tmp_path / "rows.npz", data.inputs, 2, "front")
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in data.splits["test"].inputs.items()}


@pytest.mark.parametrize(("real", "described", "found"), [
    ([[0, 1, 1], [0, 0, 1], [1, 1, 0]], "end", "front"), ([[1, 1, 0], [1, 0, 0], [1, 1, 1]], "front", "end"),
    ([[1, 1, 1], [1, 0, 1]], "front", "front"), ([[1, 1, 1]], "end", "end"), ([[0, 1, 1], [1, 1, 0]], "front", "front"),
    ([[1, 1, 0]], None, None)])
def test_where_padding_is(real: Sequence[Sequence[int]], described: Any, found: str | None) -> None:
    assert padding_of([np.array(real, np.float32)[:, :, None]], described) == found


def test_steps_and_means() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    assert keep_steps(values, 9, "front").shape == (2, 4, 3) and keep_steps(values, None, None).flags.c_contiguous
    np.testing.assert_array_equal(keep_steps(values, 1, "front"), values[:, 3:])
    np.testing.assert_array_equal(keep_steps(values, 1, "end"), values[:, :1])
    np.testing.assert_array_equal(keep_steps(values, 1, None), values[:, :1])
    values[0, :2], values[1] = 0, 0
    np.testing.assert_array_equal(mean_of_steps(values), [[7.5, 8.5, 9.5], [0, 0, 0]])
    same = np.repeat(np.float32([[[0.1, -3.7e5]]]), 49, axis=1)
    np.testing.assert_array_equal(mean_of_steps(same), same[:, 0])  # so that what leaks is known from its mean, too


@pytest.mark.parametrize(("change", "words"), [
    (lambda content: content["test"].pop("vision"), ("test: no key 'vision'", "in all splits or in none")),
    (lambda content: content["valid"]["labels"].__setitem__(2, 3.5), ("valid labels: 3.5 in row 2", "-3 to 3")),
    (lambda content: content["train"].pop("labels"), ("no key 'regression_labels' or 'labels' or 'label'", "'id'")),
    (lambda content: content["train"].update(text=np.ones((9, 6))), ("train text: shape (9, 6)", "steps")),
    (lambda content: content["test"].update(text=np.ones((5, 40, 6))),
     ("test text: shape (5, 40, 6)", "(rows, 50, 6)")),
    (lambda content: content["test"].update(audio=np.ones((4, 50, 4))), ("differing numbers of rows", "audio 4")),
    (lambda content: content["train"]["text"].fill(0), ("train text", "constant", "--modalities vision,audio")),
])
def test_refused(tmp_path: Path, sequences: None, change: Change, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, change)
    one_line(error, str(tmp_path / "mosi_raw.pkl"), *words)


def test_a_model_of_rows_gets_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(tmp_path)
    assert [one.shape for one in data.inputs] == [(3,), (50, 6), (4,)]
    assert said(data, "vision and audio: means over the steps that are not all zero")
    for split, rows in ROWS.items():
        values = content_of()[split]["audio"]
        real = values.any(axis=2).sum(axis=1)[:, None]
        expected = values.sum(axis=1, dtype=np.float64) / real
        # sums of 50 in another order, in float64, and then one rounding to float32
        np.testing.assert_allclose(data.splits[split].arrays["audio"], expected, rtol=2**-23, atol=2**-40)
        assert data.splits[split].arrays["audio"].shape == (rows, 4)
    graph = build_graph(make_config({"dataset": "mosi_aligned"}), data.inputs)
    assert [node.kind for node in graph.nodes if node.inputs[0] < 3] == ["batch_norm", "lstm", "batch_norm"]
    monkeypatch.setitem(MODELS, "lmf", replace(MODELS["lmf"], sequences=True))
    other = load(tmp_path)
    assert other.fingerprint != data.fingerprint and not said(other, "vision and audio")
    assert {one.layout for one in other.inputs} == {"sequence"}


@pytest.mark.parametrize("sequence", [False, True])
def test_what_leaks_is_known_as_mean_and_as_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sequence: bool
                                                     ) -> None:
    monkeypatch.setitem(MODELS, "lmf", replace(MODELS["lmf"], sequences=sequence))
    rows = {name: np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32)
            for name, count in ROWS.items()}
    monkeypatch.setitem(LEAKING, digest(rows["train"]), "LEAKING: because")

    def change(content: dict[str, Any]) -> None:
        for name, split in content.items():
            split["vision"] = rows[name][:, None] * split["vision"].any(axis=2, keepdims=True)

    assert "LEAKING: because" in load(tmp_path, change).notes
    assert "LEAKING: because" not in load(tmp_path, change, modalities="text,audio").notes
