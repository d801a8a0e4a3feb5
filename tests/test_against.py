"""What `python -m tests.against` calls a difference, and that it leaves no worktree behind."""
from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from core.common.errors import UserError
from tests.against import ROOT, cells, chosen, worktree
from tests.differences import evaluation_differences, run_differences

OLD = Path(__file__).parent / "old_runs" / "iemocap"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of a run folder."""
    for name in ("old", "new"):
        shutil.copytree(OLD, tmp_path / name)
        np.save(tmp_path / name / "predictions_test.npy", np.eye(2))  # not kept with that run
    return tmp_path / "old", tmp_path / "new"


def only(folders: tuple[Path, Path]) -> tuple[str, float]:
    [found] = run_differences(*folders)
    return found.where, found.relative


def edit_history(folder: Path, epoch: int, **values: object) -> None:
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    rows[epoch - 1] |= values
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def edit_checkpoint(path: Path, name: str, change: object = None) -> None:
    """Without `change`, the tensor goes."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    if callable(change):
        tensors[name] = change(tensors.get(name))
    else:
        del tensors[name]
    save_file(tensors, path, metadata)


def test_equal_runs_have_none_and_what_is_new_is_none(pair: tuple[Path, Path]) -> None:
    edit_history(pair[1], 2, learning_rate=0.1)
    metrics = json.loads((OLD / "metrics.json").read_text())
    (pair[1] / "metrics.json").write_text(json.dumps({**metrics, "notes": ["other words"], "selection": {"loss": 1.0}}))
    edit_checkpoint(pair[1] / "best.safetensors", "range/new", lambda _: np.zeros(2))
    assert run_differences(*pair) == []
    (pair[0] / "test.json").write_text(json.dumps({"metrics": metrics["test"]}))
    np.save(pair[0] / "test.npy", np.eye(2))
    assert evaluation_differences(pair[1], pair[0] / "test") == []


def test_the_last_bit_of_a_loss(pair: tuple[Path, Path]) -> None:
    loss = json.loads((OLD / "history.jsonl").read_text().splitlines()[1])["valid_loss"]
    edit_history(pair[1], 2, valid_loss=float(np.nextafter(loss, 2)))
    where, relative = only(pair)
    assert where == "history.jsonl epoch 2 valid_loss" and 0 < relative < 3e-16


@pytest.mark.parametrize("kind", ["weights", "exp_avg", "exp_avg_sq"])
def test_the_last_bit_of_a_tensor(pair: tuple[Path, Path], kind: str) -> None:
    edit_checkpoint(pair[1] / "last.safetensors", f"{kind}/audio_factor",
                    lambda value: np.where(np.arange(value.size).reshape(value.shape) == 3,
                                           np.nextafter(value, np.float32(1)), value))
    where, relative = only(pair)
    assert where == f"last.safetensors {kind}/audio_factor" and 0 < relative < 2e-7


def test_what_no_number_can_say(pair: tuple[Path, Path]) -> None:
    """A tensor that went, one that came, another dtype; an epoch more; a metric that went; the sign of a zero."""
    edit_checkpoint(pair[1] / "best.safetensors", "weights/audio_factor")
    edit_checkpoint(pair[1] / "best.safetensors", "weights/another", lambda _: np.zeros(2, np.float32))
    edit_checkpoint(pair[1] / "last.safetensors", "exp_avg/text_factor", lambda value: value.astype(np.float64))
    edit_history(pair[1], 3, valid_loss=None)
    with open(pair[1] / "history.jsonl", "a") as file:
        file.write("{}\n")
    metrics = json.loads((OLD / "metrics.json").read_text())
    del metrics["test"]["F1"]
    (pair[1] / "metrics.json").write_text(json.dumps(metrics))
    found = run_differences(*pair)
    assert [difference.where for difference in found] == [
        "history.jsonl epoch 3 valid_loss", "history.jsonl", "last.safetensors exp_avg/text_factor",
        "best.safetensors weights/another", "best.safetensors weights/audio_factor", "metrics.json test F1"]
    assert all(difference.relative == np.inf for difference in found)


def test_the_sign_of_a_zero_in_predictions(pair: tuple[Path, Path]) -> None:
    np.save(pair[1] / "predictions_test.npy", np.array([[1.0, -0.0], [0.0, 1.0]]))
    assert only(pair)[0] == "predictions_test.npy"


def test_cells_and_names() -> None:
    todo = list(cells(["torch"], ["lmf", "tfn"], ["pom", "mosi"], ["float64", "float32"], None))
    assert len(todo) == 8 + 3, "each combination, and three more once"
    assert all(("--rank" in cell.flags) == (cell.model == "lmf") for cell in todo), "its own keys alone"
    with pytest.raises(UserError, match="--backends jax: expected some of torch,paddle"):
        chosen("torch,jax", ["torch", "paddle"], "backends")


def test_no_worktree_is_left(tmp_path: Path) -> None:
    git = ["git", "rev-parse", "--verify", "HEAD"]
    if not shutil.which("git") or subprocess.run(git, cwd=ROOT, capture_output=True).returncode:
        pytest.skip("no git, or not a checkout")

    def listed() -> str:
        return subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    with pytest.raises(KeyboardInterrupt), worktree("HEAD", tmp_path / "tree") as folder:
        assert (folder / "core").is_dir() and str(folder) in listed()
        raise KeyboardInterrupt
    assert not (tmp_path / "tree").exists() and str(tmp_path) not in listed()
    with pytest.raises(UserError, match="no-such-commit"), worktree("no-such-commit", tmp_path / "tree"):
        pass
