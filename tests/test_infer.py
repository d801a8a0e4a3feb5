"""`infer`: rows of a file in, predictions in the same order out."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.common.arrays import Array
from core.config import build_graph, make_config
from core.data.published import POM_TRAITS
from core.data.specs import InputSpec
from core.models.reference import measured
from core.runtime.backend import BACKENDS
from core.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.training.plan import Batch
from core.training.state import State, initial_state
from tests.conftest import Run
from tests.running import (
    AUDIO,
    ROWS,
    STEPS,
    VIDEO,
    WORD,
    Refuse,
    content_of,
    needs,
    only_error,
    run,
    train_flags,
)

NAMES = {"audio": b"covarep", "video": b"facet", "text": b"glove"}


def test_rows_of(dataset: str) -> dict[str, Array]:
    content = content_of(dataset)
    split = (content[b"happy"] if dataset == "iemocap" else content)[b"test"]
    return {name: split[key] for name, key in NAMES.items()}


test_rows_of.__test__ = False  # type: ignore[attr-defined]


def test_probabilities_in_row_order(classified: Run, tmp_path: Path) -> None:
    """The same rows as the run's own test split; a label in the file is ignored, even a wrong one."""
    np.savez(tmp_path / "rows.npz", **test_rows_of("iemocap"), label=np.full((3, 1), np.nan))
    done = run(tmp_path, "torch", "infer", "--checkpoint", str(classified.folder), "--input", "rows.npz")
    assert done.stderr == "" and f"{ROWS['test']} rows" in done.stdout
    got = np.load(tmp_path / "predictions.npy", allow_pickle=False)
    assert got.tobytes() == np.load(classified.folder / "predictions_test.npy").tobytes()
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-6)
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    want = (classified.folder / "predictions_test.csv").read_text().splitlines()
    assert lines == [line.rsplit(",", 1)[0] for line in want]  # the same without the label


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_in_every_backend(scored: Run, tmp_path: Path, backend: str) -> None:
    """A checkpoint of torch in each backend; one row less or in another order changes no other row."""
    needs(backend)
    rows = test_rows_of("pom")
    order = np.random.default_rng(0).permutation(ROWS["test"])[:-1]
    save_file({name: np.ascontiguousarray(value[order]) for name, value in rows.items()}, tmp_path / "rows.safetensors")
    run(tmp_path, backend, "infer", "--checkpoint", str(scored.folder), "--input", "rows.safetensors",
        "--output", "out/scores")
    got = np.load(tmp_path / "out" / "scores.npy", allow_pickle=False)
    want = np.load(scored.folder / "predictions_test.npy")[order]
    assert got.shape == (11, 16) and got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert not np.allclose(want, want[:1], rtol=1e-3), "all rows are alike: their order can't be seen"
    header, *lines = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert header == "row," + ",".join(POM_TRAITS)
    assert [[float(x) for x in line.split(",")] for line in lines] == [[i, *row.tolist()] for i, row in enumerate(got)]


def test_unusable_input_gets_one_line(refuse: Refuse, classified: Run, tmp_path: Path) -> None:
    given, rows = ("--checkpoint", str(classified.folder)), test_rows_of("iemocap")
    path = tmp_path / "rows.npz"

    def check(*words: str, **arrays: Array) -> None:
        np.savez(path, **arrays)
        refuse("infer", *given, "--input", str(path), words=(str(path), *words))

    refuse("infer", *given, words=("--input is required",))
    refuse("infer", *given, "--input", str(path), words=(str(path), "no such file"))
    check("audio", "width 7", f"expected {AUDIO}", **{**rows, "audio": np.zeros((12, 7))})
    check("video", "width 4", f"expected {VIDEO}", **{**rows, "video": np.zeros((12, 4))})
    check("text", "width 9", f"expected {WORD}", **{**rows, "text": np.zeros((12, STEPS, 9))})
    check("text", "(12, 8)", "(rows, steps, width)", **{**rows, "text": np.zeros((12, 8))})
    check("no array 'video'", "found 'audio', 'text'", audio=rows["audio"], text=rows["text"])
    check("rows (audio 11, video 12, text 12)", **{**rows, "audio": rows["audio"][:11]})
    (tmp_path / "rows.txt").write_text("")
    refuse("infer", *given, "--input", str(tmp_path / "rows.txt"), words=("'.txt'", ".npz, .safetensors or .pkl"))
    assert not list(Path.cwd().glob("predictions.*"))


def test_rows_and_predictions_beyond_what_was_taught_are_said(scored: Run, tmp_path: Path) -> None:
    """The unit of one modality is another; the other two are the very rows that the model was trained on."""
    content = content_of("pom")
    rows = {name: content[b"train"][key] for name, key in NAMES.items()}
    given = ("--checkpoint", str(scored.folder), "--input", "rows.npz")
    np.savez(tmp_path / "rows.npz", **rows)
    assert "training range" not in run(tmp_path, "torch", "infer", *given).stdout
    np.savez(tmp_path / "rows.npz", **{**rows, "video": rows["video"] * 1000})
    done = run(tmp_path, "torch", "infer", *given)
    [line] = [line for line in done.stdout.splitlines() if "training range" in line]
    assert line.startswith("note: video: ") and f"in {ROWS['train']} of {ROWS['train']} rows" in line
    got = np.load(tmp_path / "predictions.npy")
    beyond = int(((got < 0) | (got > 7)).sum())
    assert beyond > 0 and f"note: {beyond} of {got.size} predictions, in " in done.stdout


def test_a_row_without_a_finite_prediction_ends_it(scored: Run, tmp_path: Path) -> None:
    """As `evaluate` does: NaN is no prediction."""
    rows = test_rows_of("pom")
    rows["audio"][[4, 7]] = 3e38
    np.savez(tmp_path / "rows.npz", **rows)
    done = run(tmp_path, "torch", "infer", "--checkpoint", str(scored.folder), "--input", "rows.npz", code=1)
    only_error(done.stderr, "rows.npz: row 4 has no finite prediction (2 of 12 rows)",
               "; audio row 4, column ", "is 3e+38, trained on", "nothing was written")
    assert not (tmp_path / "predictions.npy").exists()


def test_an_older_checkpoint_says_that_it_has_no_range(scored: Run, tmp_path: Path) -> None:
    """One line; `evaluate` says the same."""
    best = load_checkpoint(scored.folder / "best.safetensors")
    save_checkpoint(tmp_path / "old.safetensors", replace(best, ranges={}))
    np.savez(tmp_path / "rows.npz", **test_rows_of("pom"))
    for command, flags in (("infer", ("--input", "rows.npz")), ("evaluate", ("--split", "train"))):
        done = run(tmp_path, "torch", command, "--checkpoint", "old.safetensors", *flags)
        assert done.stdout.count("this checkpoint holds no training range") == 1


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "torch"])
def test_every_backend_keeps_the_same_range(data: Path, scored: Run, tmp_path: Path, backend: str) -> None:
    needs(backend)
    run(tmp_path, backend, "train", *train_flags("pom", data, tmp_path / "runs", "--epochs", "1"))
    want, got = (load_checkpoint(folder).ranges for folder in (scored.folder, tmp_path / "runs" / f"pom-{backend}-1"))
    assert len(want) == 6 and {name: value.tobytes() for name, value in got.items()} == {
        name: value.tobytes() for name, value in want.items()}


@pytest.mark.parametrize("backend", BACKENDS)
def test_sequences_of_another_length(tmp_path: Path, backend: str) -> None:
    """A model of sequences takes the steps that a file has, also more than it was trained on, and all of them count."""
    needs(backend)
    config = make_config({"dataset": "mosi_aligned", "model": "msa", "encoder": "transformer", "hidden_dim": 4,
                          "fusion": "self_attention", "feed_forward_dim": 5, "attention_heads": 2,
                          "modalities": "text"})
    trained = (InputSpec("text", (6, 3), "sequence"),)
    state = initial_state(build_graph(config, trained), 0, "float32")
    checkpoint = Checkpoint(config, trained, "torch", "", State(state.weights), {})
    save_checkpoint(tmp_path / "model.safetensors", checkpoint)
    rows = np.random.default_rng(0).normal(size=(5, 9, 3)).astype("float32")
    np.savez(tmp_path / "rows.npz", text=rows)
    run(tmp_path, backend, "infer", "--checkpoint", "model.safetensors", "--input", "rows.npz", "--output", "all")
    graph = build_graph(config, (InputSpec("text", (9, 3), "sequence"),))
    want = measured(graph, state.weights, Batch({"text": rows}, np.zeros((5, 1)), {}))["output"].value
    np.testing.assert_allclose(np.load(tmp_path / "all.npy"), want, rtol=1e-5, atol=1e-5)
    first = measured(build_graph(config, trained), state.weights, Batch({"text": rows[:, :6]}, np.zeros((5, 1)), {}))
    assert (np.abs(first["output"].value - want) > 1e-3).all(), "the last steps change nothing: nothing is shown"
