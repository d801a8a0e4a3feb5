"""`train` as a user runs it: what it leaves, what it says, and how it ends when something is wrong."""
from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from core.commands import main
from core.common.errors import UserError
from core.config import changed, make_config
from core.runtime.backend import BACKENDS
from core.training.checkpoint import load_checkpoint
from core.training.curves import Curves
from core.training.losses import softmax
from core.training.plan import Batch
from core.training.run_folder import new_run_folder, newest_run
from parity import oracle
from tests.conftest import Run
from tests.running import (
    HANG,
    ROWS,
    assert_same_run,
    content_of,
    history,
    needs,
    only_error,
    run,
    run_folder,
    start,
    train_flags,
    wait_for,
    write_pickle,
)
from tests.test_curves import assert_drawn, drawn, losses, records

FILES = ["best.safetensors", "config.yaml", "history.jsonl", "last.safetensors", "metrics.json",
         "predictions_test.csv", "predictions_test.npy", "predictions_valid.csv", "predictions_valid.npy",
         "run.json", "tensorboard", "timing.json"]


def test_what_a_run_leaves(classified: Run, data: Path) -> None:
    folder = classified.folder
    assert folder == classified.here / "runs" / "iemocap-happy-torch-1"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert classified.stderr == ""
    config = make_config(yaml.safe_load((folder / "config.yaml").read_text()))
    assert (config.rank, config.epochs, config.data_dir) == (2, 12, data)
    about = json.loads((folder / "run.json").read_text())
    assert (about["backend"], about["synthetic"], about["data"]) == ("torch", False, "iemocap happy")
    assert about["versions"]["torch"] and len(about["data_fingerprint"]) == 64
    assert about["notes"] == [note for note in about["notes"] if "is not the published file" in note]
    rows = history(folder)
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert list(rows[0]) == ["epoch", "train_loss", "valid_loss", "best", "skipped_steps"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["synthetic"] is False and metrics["epochs"] == 12 and metrics["parameters"] > 0
    assert list(metrics["test"]) == ["loss", "F1", "Acc-2"] == list(metrics["valid"])
    assert metrics["best_valid_loss"] == min(row["valid_loss"] for row in rows) == metrics["valid"]["loss"]
    timing = json.loads((folder / "timing.json").read_text())
    assert timing["train_rows"] == 12 * ROWS["train"] and timing["train_seconds"] > 0


def test_predictions_are_probabilities_in_row_order(classified: Run) -> None:
    values = np.load(classified.folder / "predictions_test.npy", allow_pickle=False)
    assert values.shape == (ROWS["test"], 2) and values.dtype == np.float32
    np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-6)
    lines = (classified.folder / "predictions_test.csv").read_text().splitlines()
    assert lines[0] == "row,p_not_happy,p_happy,predicted,label" and len(lines) == 1 + ROWS["test"]
    one_hot = content_of("iemocap")[b"happy"][b"test"][b"label"]
    for index, line in enumerate(lines[1:]):
        row, no, yes, predicted, label = line.split(",")
        assert int(row) == index and int(label) == one_hot[index].argmax()
        assert (np.float32(no), np.float32(yes)) == tuple(values[index])
        assert predicted == ("happy" if values[index, 1] > values[index, 0] else "not_happy")


def test_evaluate_says_the_same(classified: Run, tmp_path: Path) -> None:
    done = run(tmp_path, "torch", "evaluate", "--checkpoint", str(classified.folder), "--output", "again")
    assert "iemocap happy test" in done.stdout and done.stderr == ""
    for suffix in ("npy", "csv"):
        assert (tmp_path / f"again.{suffix}").read_bytes() == (
            classified.folder / f"predictions_test.{suffix}").read_bytes()
    result = json.loads((tmp_path / "again.json").read_text())
    assert result["metrics"] == json.loads((classified.folder / "metrics.json").read_text())["test"]


def test_predictions_are_the_best_model_s(classified: Run, scored: Run) -> None:
    """Row by row what the float64 reference computes from the best checkpoint and the pickle's own rows."""
    for done, dataset in ((classified, "iemocap"), (scored, "pom")):
        best = load_checkpoint(done.folder / "best.safetensors")
        content = content_of(dataset)
        rows = (content[b"happy"] if dataset == "iemocap" else content)[b"test"]
        inputs = {"audio": rows[b"covarep"], "video": rows[b"facet"], "text": rows[b"glove"]}
        output = oracle.forward(best.graph, best.state.weights, Batch(inputs, rows[b"label"], {}))["output"]
        want = softmax(output) if dataset == "iemocap" else output
        np.testing.assert_allclose(np.load(done.folder / "predictions_test.npy"), want, rtol=1e-4, atol=1e-5)
        assert np.abs(want - want[::-1]).max() > 0.1, "the order can't be seen"


def test_tensorboard_can_read_the_curves_and_the_model(classified: Run, tmp_path: Path) -> None:
    want = [(row["epoch"], key, np.float32(row[key])) for row in history(classified.folder)
            for key in ("train_loss", "valid_loss")]
    events = records(classified.folder / "tensorboard")
    assert losses(events) == want
    assert_drawn(drawn(events), load_checkpoint(classified.folder).graph)
    curves = Curves(tmp_path / "curves")
    curves.add({"epoch": 1, "train_loss": 2.0, "valid_loss": 3.0})  # to be seen at once, before the run ends
    assert losses(records(tmp_path / "curves")) == [(1, "train_loss", 2.0), (1, "valid_loss", 3.0)]
    curves.close()


def test_synthetic_data_is_called_so_everywhere(tmp_path: Path) -> None:
    needs("torch")
    done = run(tmp_path, "torch", "train", "--dataset", "pom", "--data", "synthetic", "--epochs", "1",
               "--modalities", "audio,video", "--output_path", "out", "--batch_size", "128")
    folder = tmp_path / run_folder(done.stdout)
    assert folder.name == "pom-synthetic-torch-1"
    assert "pom (synthetic)" in done.stdout and "note: synthetic data" in done.stdout
    assert "pom (synthetic) test" in done.stdout
    for name in ("run.json", "metrics.json"):
        content = json.loads((folder / name).read_text())
        assert content["synthetic"] is True and "synthetic" in content["data"], name


def test_early_stopping_keeps_the_best_epoch(scored: Run, tmp_path: Path) -> None:
    """Stops `patience` epochs after the best one, and reports that one, not the last (as the original did)."""
    rows = history(scored.folder)
    losses = [row["valid_loss"] for row in rows]
    best = int(np.argmin(losses))
    assert best > 0 and len(rows) == best + 1 + 3 < 200
    assert [row["best"] for row in rows] == [loss < min([np.inf, *losses[:i]]) for i, loss in enumerate(losses)]
    metrics = json.loads((scored.folder / "metrics.json").read_text())
    assert (metrics["best_epoch"], metrics["best_valid_loss"], metrics["epochs"]) == (best + 1, losses[best], len(rows))
    run(tmp_path, "torch", "evaluate", "--checkpoint", str(scored.folder / "best.safetensors"), "--split", "valid",
        "--output", "valid")
    assert json.loads((tmp_path / "valid.json").read_text())["metrics"]["loss"] == losses[best]
    best_state, last_state = (load_file(scored.folder / f"{name}.safetensors") for name in ("best", "last"))
    assert not np.array_equal(best_state["weights/audio_factor"], last_state["weights/audio_factor"])


def test_run_folders_are_numbered(tmp_path: Path) -> None:
    config = make_config({"dataset": "mosi", "output_path": tmp_path / "new"})
    assert [new_run_folder(config, "torch").name for _ in range(3)] == ["mosi-torch-1", "mosi-torch-2", "mosi-torch-3"]
    assert new_run_folder(config, "paddle").name == "mosi-paddle-1"
    assert new_run_folder(changed(config, {"model": "tfn"}), "torch").name == "mosi-tfn-torch-1"
    named = changed(config, {"signature": "mine", "run_id": 7})
    assert new_run_folder(named, "torch").name == "mine-torch-7"
    with pytest.raises(UserError, match=r"mine-torch-7: this run exists; continue it with --resume"):
        new_run_folder(named, "torch")


def test_bare_resume_means_the_newest_that_began(tmp_path: Path) -> None:
    config = make_config({"dataset": "mosi", "output_path": tmp_path})
    with pytest.raises(UserError, match="no run folder"):
        newest_run(config, "torch")
    folders = [new_run_folder(config, "torch") for _ in range(11)]
    for folder in folders[:10]:
        (folder / "config.yaml").write_text("dataset: mosi\n")
    assert newest_run(config, "torch") == folders[9]  # 10 is newer than 9; 11 was killed before it began
    assert newest_run(changed(config, {"run_id": 3}), "torch") == folders[2]


def test_an_output_path_that_can_t_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        for run_id in (None, 3):
            config = make_config({"dataset": "mosi", "output_path": path, "run_id": run_id})
            with pytest.raises(UserError, match=r"output_path = .*file.*: can't make a run folder there"):
                new_run_folder(config, "torch")


def test_mistakes_before_the_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Backend not installed, and no data: one line with the way out, no run folder."""
    monkeypatch.setitem(BACKENDS, "torch", "a_framework_that_nobody_has")
    assert main("train", "torch", train_flags("mosi", data, tmp_path / "runs")) == 2
    only_error(capsys.readouterr().err, "torch is not installed", "pip install -c constraints.txt -e '.[torch]'")
    monkeypatch.setattr("core.commands.missing_reason", lambda backend: None)
    assert main("train", "torch", train_flags("mosi", tmp_path / "empty", tmp_path / "runs")) == 2
    only_error(capsys.readouterr().err, str(tmp_path / "empty" / "mosi.pkl"), "--data synthetic", "sha256")
    assert not (tmp_path / "runs").exists()


def test_a_loss_that_stops_being_finite(tmp_path: Path) -> None:
    """Validation features of 1e37 overflow when the factors have grown: in the second epoch. No rate is at fault."""
    needs("torch")
    content = content_of("mosi")
    content[b"valid"][b"covarep"] *= 1e37
    data = write_pickle(tmp_path / "data", "mosi", content).parent
    done = run(tmp_path, "torch", "train", *train_flags("mosi", data, tmp_path, "--factor_learning_rate", "10"), code=1)
    folder = tmp_path / "mosi-torch-1"
    finished = len(history(folder))
    assert finished >= 1
    only_error(done.stderr, f"epoch {finished + 1}: validation loss after step 3 is ", "expected a finite number",
               f"the best model so far (epoch {finished}) is in {folder / 'best.safetensors'}",
               "the validation data is at fault", "valid audio row", "e+37, trained on")
    assert "learning_rate" not in done.stderr
    assert np.isfinite(load_file(folder / "best.safetensors")["weights/audio_factor"]).all()
    assert not (folder / "metrics.json").exists()


def test_a_full_disk(data: Path, tmp_path: Path, classified: Run) -> None:
    """No file may grow beyond the limit: the first checkpoint of weights fits, that with Adam's moments doesn't."""
    sizes = [(classified.folder / f"{name}.safetensors").stat().st_size for name in ("best", "last")]
    done = run(tmp_path, "torch", "train", *train_flags("iemocap", data, tmp_path), code=1, file_limit=sum(sizes) // 2)
    folder = tmp_path / "iemocap-happy-torch-1"
    only_error(done.stderr, str(folder / "last.safetensors"), "can't be written", "free space")
    left = {path.name for path in folder.iterdir()}
    assert "best.safetensors" in left and "last.safetensors" not in left
    assert not [name for name in left if name.endswith(".tmp")]


def interrupt(process: subprocess.Popen[str], folder: Path, rows: int, number: signal.Signals) -> tuple[str, str]:
    """Send a signal once the history has `rows` lines; what the process then printed."""
    wait_for(lambda: (folder / "history.jsonl").exists() and len(history(folder)) >= rows, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == -number, err
    return out, err


@pytest.mark.parametrize(("backend", "second"), [("torch", signal.SIGHUP), ("mindspore", signal.SIGTERM),
                                                 ("paddle", signal.SIGTERM)])
def test_a_signal_keeps_the_epochs_and_says_how_to_go_on(data: Path, tmp_path: Path, backend: str,
                                                         second: signal.Signals) -> None:
    """Left to themselves, MindSpore ends the process without a word at SIGINT, and Paddle shows a stack at SIGTERM."""
    needs(backend)
    flags = train_flags("iemocap", data, tmp_path, "--epochs", "1000000", "--patience", "1000000")
    folder = tmp_path / f"iemocap-happy-{backend}-1"
    _, err = interrupt(start(tmp_path, backend, "train", *flags), folder, 2, signal.SIGINT)
    rows = history(folder)
    match = re.search(r"finished epochs: (\d+), kept in", only_error(err, "interrupted;"))
    assert match
    _, command = err.strip().split(f"continue with: python -m backends.{backend}.")
    assert command == f"train --resume {folder}"
    out, err = interrupt(start(tmp_path, backend, *command.split()), folder, len(rows) + 2, second)
    assert f"going on after epoch {match[1]}" in out
    assert history(folder)[:len(rows)] == rows
    only_error(err, f"interrupted by {second.name}; finished epochs: ", command)


def test_a_run_s_own_configuration_repeats_it(classified: Run, tmp_path: Path) -> None:
    """config.yaml of a run, given to --config, makes the same run again, bit for bit."""
    done = run(tmp_path, "torch", "train", "--config", str(classified.folder / "config.yaml"),
               "--output_path", "again", "--model_path", "weights")
    folder = tmp_path / run_folder(done.stdout)
    stored = tmp_path / "weights" / folder.name
    assert sorted(path.name for path in stored.iterdir()) == ["best.safetensors", "last.safetensors"]
    for path in list(stored.iterdir()):
        path.rename(folder / path.name)
    assert_same_run(folder, classified.folder)
