"""A data set of one's own: described in a file, kept with the run, read and checked like the published ones."""
from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from core.common.errors import UserError
from core.config import build_graph, make_config, to_values
from core.config.flags import read_yaml
from core.config.schema import changes
from core.data import load_dataset
from core.data.sequences import mean_of_steps
from core.data.specs import InputSpec
from core.data.unlabelled import read_unlabelled
from core.studies.defaults import plain
from core.studies.search_space import default_setting, search_space
from core.training.metrics import evaluate
from tests.data_samples import one_line
from tests.running import needs, run, run_folder

ROWS = {"train": 12, "valid": 6, "test": 5}
SCORES: dict[str, Any] = {
    "name": "own", "file": "mine.pkl", "label": "y", "columns": [0, 2], "outputs": ["calm", "loud"], "range": [1, 5],
    "inputs": [{"name": "eeg", "shape": [6, 3], "key": "brain", "keys": "audio", "pooled": "mean"},
               {"name": "face", "shape": [4], "keys": "video"}],
    "metrics": ["MAE", "Acc"], "synthetic_rows": [40, 9, 8]}
CLASSES: dict[str, Any] = {"name": "own", "file": "mine.pkl", "label": "y", "classes": ["no", "maybe", "yes"],
                           "inputs": [{"name": "text", "shape": [6, 3]}]}


def described(folder: Path, content: dict[str, Any], name: str = "own.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(content))
    return path


def content_of(**changes: Any) -> dict[str, Any]:
    """Three columns of labels; `changes`: what a split has instead, made of its number of rows."""
    made = {}
    for split, rows in ROWS.items():
        draw = np.random.default_rng(rows)
        arrays = {"brain": draw.normal(size=(rows, 6, 3)), "face": draw.normal(size=(rows, 4)),
                  "text": draw.normal(size=(rows, 6, 3)), "y": draw.uniform(1, 5, (rows, 3))}
        made[split] = {**arrays, **{key: make(rows) for key, make in changes.items()}}
    return made


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "mine.pkl"
    path.write_bytes(pickle.dumps(content))
    return path


def load(folder: Path, description: dict[str, Any], **keys: Any) -> Any:
    return load_dataset(make_config({"dataset": str(described(folder, description)), "data_dir": folder, **keys}))


def test_scores(tmp_path: Path) -> None:
    """The chosen columns and inputs, under their own names; means for a model that takes rows."""
    content = content_of()
    content["train"]["brain"][2, :4] = 0
    write(tmp_path, content)
    data = load(tmp_path, SCORES)
    assert data.inputs == (InputSpec("eeg", (3,), "rows", "audio", "mean", ("brain",)),
                           InputSpec("face", (4,), "rows", "video"))
    train = data.splits["train"].arrays
    np.testing.assert_array_equal(train["label"], content["train"]["y"][:, [0, 2]].astype(np.float32))
    np.testing.assert_array_equal(train["face"], content["train"]["face"].astype(np.float32))
    brain = content["train"]["brain"].astype(np.float32)
    expected = brain.mean(axis=1, dtype=np.float64)
    expected[2] = brain[2, 4:].mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(train["eeg"], expected, rtol=2**-23)  # rounded once to float32, sums in float64
    assert any(note.startswith("eeg: means over the steps") for note in data.notes)
    assert list(data.task.metrics) == ["MAE", "Acc", "MAE calm", "Acc calm", "MAE loud", "Acc loud"]
    assert list(evaluate(data.task, train["label"], train["label"])) == list(data.task.metrics)


@pytest.mark.parametrize("form", [lambda rows: np.arange(rows) % 3, lambda rows: (np.arange(rows) % 3).reshape(-1, 1),
                                  lambda rows: np.eye(3)[np.arange(rows) % 3]])
def test_classes(tmp_path: Path, form: Callable[[int], Any]) -> None:
    """Numbers from 0 or one-hot rows; any number of classes."""
    write(tmp_path, content_of(y=form))
    data = load(tmp_path, CLASSES)
    label = data.splits["test"].arrays["label"]
    assert label.dtype == np.int64 and label.tolist() == [0, 1, 2, 0, 1]
    assert list(data.task.metrics) == ["F1", "Acc-3"] and data.task.outputs == 3
    assert evaluate(data.task, np.eye(3)[label], label) == {"F1": 1.0, "Acc-3": 1.0}


@pytest.mark.parametrize("mark", ["/", "_"])
def test_an_archive_of_arrays(tmp_path: Path, mark: str) -> None:
    content = content_of()
    np.savez(tmp_path / "mine.npz", **{f"{split}{mark}{key}": array for split, arrays in content.items()
                                       for key, array in arrays.items()})
    write(tmp_path, content)
    one, other = load(tmp_path, SCORES), load(tmp_path, {**SCORES, "file": "mine.npz"})
    for split in ROWS:
        for name, array in one.splits[split].arrays.items():
            np.testing.assert_array_equal(other.splits[split].arrays[name], array)
    (tmp_path / "mine.npz").write_bytes(b"PK")
    with pytest.raises(UserError) as error:
        load(tmp_path, {**SCORES, "file": "mine.npz"})
    one_line(error, "mine.npz: not a readable .npz file", "numpy.savez")


WRONG: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("no name", {"name": None}, ("name = None", "string")),
    ("a published name", {"name": "mosi"}, ("name = 'mosi'", "a published data set")),
    ("a name for no file", {"name": "Own data"}, ("name = 'Own data'", "pattern")),
    ("unknown", {"lables": "y"}, ("lables: is no key", "docs/data.md")),
    ("a path", {"file": "../mine.pkl"}, ("file = '../mine.pkl'", "pattern")),
    ("another kind", {"file": "mine.csv"}, ("file = 'mine.csv'", "pkl|npz")),
    ("no inputs", {"inputs": []}, ("inputs = []", "at least 1")),
    ("an input twice", {"inputs": [{"name": "a", "shape": [2]}, {"name": "a", "shape": [3]}]}, ("inputs", "'a' twice")),
    ("the label's name", {"inputs": [{"name": "label", "shape": [2]}]}, ("inputs.0.name = 'label'", "another name")),
    ("a width of 0", {"inputs": [{"name": "a", "shape": [0]}]}, ("inputs.0.shape.0 = 0", "greater than or equal to 1")),
    ("a width of yes", {"inputs": [{"name": "a", "shape": [True]}]}, ("inputs.0.shape.0 = True", "integer")),
    ("an image", {"inputs": [{"name": "a", "shape": [3, 4, 5]}]}, ("inputs.0.shape", "at most 2")),
    ("another layout", {"inputs": [{"name": "a", "shape": [3], "layout": "sequence"}]},
     ("inputs.0: layout = sequence", "[3] is rows")),
    ("pooled rows", {"inputs": [{"name": "a", "shape": [3], "pooled": "mean"}]},
     ("inputs.0: pooled = mean", "no steps")),
    ("two tasks", {"classes": ["a", "b"]}, ("outputs: expected either", "found both")),
    ("no task", {"outputs": [], "range": None}, ("outputs: expected either", "found neither")),
    ("no range", {"range": None}, ("range: expected the lowest and the highest",)),
    ("a range turned round", {"range": [5, 1]}, ("range = [5.0, 1.0]", "low below high")),
    ("a range without end", {"range": [0, float("inf")]}, ("range.1 = inf", "finite")),
    ("one class", {"classes": ["a"], "outputs": [], "range": None, "columns": [], "metrics": []},
     ("classes: names one",)),
    ("too few columns", {"columns": [0]}, ("columns: 1 of them for 2 outputs",)),
    ("a column twice", {"columns": [1, 1]}, ("columns", "1 twice")),
    ("another task's metric", {"metrics": ["F1"]}, ("metrics: 'F1' is none of this task", "MAE, Corr, Acc")),
    ("half a data set", {"synthetic_rows": [3, 3]}, ("synthetic_rows",)),
]


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_description_gets_one_line_that_names_file_and_key(tmp_path: Path, change: dict[str, Any],
                                                                   words: tuple[str, ...]) -> None:
    path = described(tmp_path, {**SCORES, **change})
    with pytest.raises(UserError) as error:
        make_config({"dataset": str(path)}, {"dataset": "--dataset"})
    assert len(one_line(error, f"--dataset {path}: ", *words)) < 500
    values = to_values(make_config({"dataset": str(described(tmp_path, SCORES))}))
    values["description"] = {**values["description"], **change}
    with pytest.raises(UserError) as error:  # the same in a run's configuration or a checkpoint
        make_config({**values, "dataset": "own"}, {"description": "x.yaml"})
    one_line(error, "x.yaml: description: ")


def test_no_description(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        make_config({"dataset": "none.yaml"}, {"dataset": "--dataset"})
    one_line(error, "--dataset none.yaml: can't be read")
    (tmp_path / "list.yaml").write_text("- name")
    with pytest.raises(UserError) as error:
        make_config({"dataset": str(tmp_path / "list.yaml")})
    one_line(error, "list.yaml: holds a list")
    missing = {key: value for key, value in SCORES.items() if key != "inputs"}
    with pytest.raises(UserError) as error:
        make_config({"dataset": str(described(tmp_path, missing))})
    one_line(error, "inputs: is missing")
    with pytest.raises(UserError) as error:
        make_config({"dataset": "other", "description": SCORES})
    one_line(error, "dataset = 'other'", "data description")
    path = described(tmp_path, SCORES)
    with pytest.raises(UserError) as error:
        make_config({"dataset": "mosi", "description": str(path)}, {"description": "--description"})
    one_line(error, f"dataset = mosi: --description {path} describes own", "leave dataset out")
    assert make_config({"description": str(path)}) == make_config({"dataset": str(path)})


BAD: list[tuple[str, dict[str, Callable[[int], Any]], tuple[str, ...]]] = [
    ("width", {"face": lambda rows: np.ones((rows, 5))},
     ("train face: shape (12, 5)", "width 4 of the data description")),
    ("columns", {"y": lambda rows: np.ones((rows, 2))}, ("train y: shape (12, 2)", "a column 2")),
    ("range", {"y": lambda rows: np.full((rows, 3), 7.0)}, ("train y: 7 in row 0, column 0", "expected 1 to 5")),
    ("rows for a sequence", {"brain": lambda rows: np.ones((rows, 3))}, ("train brain", "(rows, steps, width)")),
    ("a sequence for rows", {"face": lambda rows: np.ones((rows, 2, 4))}, ("train face", "describe the data")),
]


@pytest.mark.parametrize(("change", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_file_that_is_not_as_described(tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]) -> None:
    path = write(tmp_path, content_of(**change))
    with pytest.raises(UserError) as error:
        load(tmp_path, SCORES)
    one_line(error, str(path), *words)


@pytest.mark.parametrize(("labels", "words"), [
    (lambda rows: np.full(rows, 3), "3 in row 0 (12 such rows), expected a class as a whole number from 0 to 2"),
    (lambda rows: np.full(rows, 0.5), "0.5 in row 0"), (lambda rows: np.full(rows, -1), "-1 in row 0"),
    (lambda rows: np.ones((rows, 3)), "[1 1 1] in row 0"),
])
def test_labels_that_are_no_classes(tmp_path: Path, labels: Callable[[int], Any], words: str) -> None:
    write(tmp_path, content_of(y=labels))
    with pytest.raises(UserError) as error:
        load(tmp_path, CLASSES)
    one_line(error, "train y: ", words)


def test_another_description_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    """The store is made anew, the fingerprint is another, and so is what a run is."""
    write(tmp_path, content_of())
    other = {**SCORES, "columns": [1, 2], "range": [0, 5]}
    one, two = load(tmp_path, SCORES), load(tmp_path, other)
    assert one.fingerprint != two.fingerprint
    assert not np.array_equal(one.splits["train"].arrays["label"], two.splits["train"].arrays["label"])
    configs = [make_config({"dataset": str(described(tmp_path, content))}) for content in (SCORES, other)]
    assert changes(configs[1], configs[0]) == {"description.columns": ([0, 2], [1, 2]),
                                               "description.range": ([1.0, 5.0], [0.0, 5.0])}
    assert make_config(to_values(configs[0])) == configs[0], "the description comes with the configuration"
    again = make_config({**to_values(configs[0]), "dataset": str(described(tmp_path, other))})
    assert again == configs[1], "a file that is named wins"
    assert make_config({**to_values(plain(configs[0])), "dataset": "mosi", "modalities": None, "output_dim": None}
                       ).description is None


@pytest.mark.parametrize("content", [SCORES, CLASSES])
def test_the_twin(tmp_path: Path, content: dict[str, Any]) -> None:
    data = load(tmp_path, content, data="synthetic")
    rows = content.get("synthetic_rows", [600, 100, 200])
    assert [split.rows for split in data.splits.values()] == rows and data.synthetic
    label = data.splits["train"].arrays["label"]
    if data.task.kind == "classification":
        counts = np.bincount(label, minlength=3)
        assert counts.sum() == 600 and abs(counts - 200).max() < 20  # 3 % of the rows are in the next class
    else:
        assert label.shape == (40, 2) and label.min() >= 1 and label.max() <= 5
    first = data.splits["train"].arrays[data.inputs[0].name]
    rows_of = first if first.ndim == 2 else mean_of_steps(first)
    reading = np.linalg.svd(rows_of - rows_of.mean(0), full_matrices=False)[0][:, 0]
    followed = label if label.ndim == 1 else label[:, 1]  # the second score follows the first input
    assert abs(np.corrcoef(reading, followed)[0, 1]) > 0.6, "there is something to be learned"


def test_keys_of_a_search_are_those_of_its_inputs(tmp_path: Path) -> None:
    fixed = {"dataset": str(described(tmp_path, SCORES))}
    config = make_config(fixed)
    space = search_space(config, fixed)
    assert {"audio_hidden", "video_dropout"} <= set(space) and "text_hidden" not in space
    assert default_setting(space, fixed)["audio_hidden"] == config.audio_hidden  # type: ignore[attr-defined]


def test_an_input_without_keys_is_refused_by_the_models_that_need_them(tmp_path: Path) -> None:
    content = {**SCORES, "inputs": [{"name": "eeg", "shape": [6, 3]}]}
    for model in ("lmf", "tfn"):
        config = make_config({"dataset": str(described(tmp_path, content)), "model": model})
        with pytest.raises(UserError) as error:
            build_graph(config)
        one_line(error, "input eeg: this model has keys for audio, video, text alone", "keys: audio", "--model")


def test_a_run_needs_its_description_no_more(tmp_path: Path) -> None:
    """Evaluate and infer go by what the checkpoint holds."""
    needs("torch")
    content = content_of()
    write(tmp_path, content)
    path = described(tmp_path, SCORES)
    flags = ("--data_dir", str(tmp_path), "--batch_size", "6", "--audio_hidden", "3", "--video_hidden", "2")
    done = run(tmp_path, "torch", "train", "--dataset", str(path), "--epochs", "2", *flags)
    folder = tmp_path / run_folder(done.stdout)
    assert folder.name == "own-torch-1" and "note: eeg: means over the steps" in done.stdout
    path.unlink()
    scores = run(tmp_path, "torch", "evaluate", "--checkpoint", str(folder), "--output", "scores")
    assert "Acc" in scores.stdout
    np.savez(tmp_path / "rows.npz", brain=content["test"]["brain"], face=content["test"]["face"])
    said = run(tmp_path, "torch", "infer", "--checkpoint", str(folder), "--input", "rows.npz", "--output", "again")
    assert "note: eeg: means over the steps" in said.stdout
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), np.load(tmp_path / "scores.npy"))
    assert make_config(read_yaml(folder / "config.yaml")).description == make_config(
        {"dataset": str(described(tmp_path, SCORES))}).description


def test_rows_without_labels_are_pooled_as_in_training(tmp_path: Path) -> None:
    """From sequences, and taken as they are where a file holds means already."""
    content = content_of()
    write(tmp_path, content)
    data, test = load(tmp_path, SCORES), content["test"]
    pooled = data.splits["test"].inputs
    for name, brain in (("steps", test["brain"]), ("means", pooled["eeg"])):
        np.savez(tmp_path / f"{name}.npz", brain=brain, face=test["face"])
        found, _ = read_unlabelled(tmp_path / f"{name}.npz", data.inputs, None, "front")
        assert {key: value.tobytes() for key, value in found.items()} == {
            key: value.tobytes() for key, value in pooled.items()}
    np.savez(tmp_path / "none.npz", face=test["face"])
    with pytest.raises(UserError) as error:
        read_unlabelled(tmp_path / "none.npz", data.inputs, None, "front")
    one_line(error, "no array 'eeg'", "with the arrays eeg and face")


def test_three_classes_are_trained_on(tmp_path: Path) -> None:
    needs("torch")
    write(tmp_path, content_of(y=lambda rows: np.arange(rows) % 3))
    done = run(tmp_path, "torch", "train", "--dataset", str(described(tmp_path, CLASSES)), "--data_dir", str(tmp_path),
               "--epochs", "1", "--text_hidden", "3", "--selection", "Acc-3")
    assert "Acc-3" in done.stdout and "F1" in done.stdout
    header = (tmp_path / run_folder(done.stdout) / "predictions_test.csv").read_text().splitlines()[0]
    assert header == "row,p_no,p_maybe,p_yes,predicted,label"
