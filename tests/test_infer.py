"""`infer`: rows of a file in, predictions in the same order out."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from core.backend import BACKENDS
from core.data.published import POM_TRAITS
from core.randomness import Array
from tests.conftest import Run
from tests.running import AUDIO, ROWS, STEPS, VIDEO, WORD, Refuse, content_of, needs, run

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
