"""`ports/ascend`: the scripts, flags and lines of Ascend's ModelZoo, as its users call and read them."""
from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from core.common.errors import UserError
from core.config import Config, to_values
from core.config.flags import read_yaml
from core.data.parameter_file import COLUMNS, ROWS, read_parameters
from core.modelzoo import Epoch, case_name, main, parser, read_config, result_lines
from tests.data_samples import one_line
from tests.running import (
    HANG,
    ROOT,
    environment,
    heed_signals,
    history,
    needs,
    only_error,
    split_of,
    wait_for,
    write_pickle,
)
from tests.running import ROWS as SPLITS

PORT = ROOT / "ports" / "ascend"
SETTINGS = ROOT / "configs" / "iemocap" / "ascend"
CSV = """8,4,6,0.3,0.1,0.15,0.003,0.0005,3,8,0.001
4,3,6,0.3,0,0,0.0005,0.003,2,12,0.002
4,5,8,0.3,0.1,0.5,0.003,0.001,1,24,0.002
5,3,6,0.2,0.5,0.2,0.003,0.0005,4,10,0.002
"""
LEVEL = "O2"  # the port's
BACKENDS = ("torch", "mindspore", "paddle")
COMPILED = "has been compiled on the Ascend"


def script(name: str) -> list[str]:
    path = PORT / name
    return ["bash", str(path)] if path.suffix == ".sh" else [sys.executable, str(path)]


def begin(here: Path, name: str, *flags: str, **extra: str) -> subprocess.Popen[str]:
    """Start a script of the port, which finds the project by itself, on a machine that names no NPU."""
    surroundings = environment(here, {"PYTHON": sys.executable, **extra})
    del surroundings["PYTHONPATH"]
    if "ASCEND_DEVICE_ID" not in extra:
        surroundings.pop("ASCEND_DEVICE_ID", None)
    return subprocess.Popen([*script(name), *flags], cwd=here, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=surroundings, start_new_session=True,
                            preexec_fn=heed_signals)


def call(here: Path, name: str, *flags: str, code: int = 0, **extra: str) -> tuple[str, str]:
    """Run a script of the port to its end; it has to exit with `code`. Returns what it printed."""
    process = begin(here, name, *flags, **extra)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == code, f"exit {process.returncode}, expected {code}\n{out}\n{err}"
    return out, err


def told(text: str, between: str) -> dict[str, str]:
    """The `name : value` or `name = value` lines."""
    pairs = [line.split(between, 1) for line in text.splitlines() if between in line and not line.startswith("#")]
    return {name: value for name, value in pairs}


def saved(folder: Path) -> dict[str, Any]:
    """The configuration of a run."""
    return read_yaml(folder / "config.yaml")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """iemocap.pkl with four emotions in the published schema, which differ, and param_data.csv."""
    folder = tmp_path_factory.mktemp("port")
    write_pickle(folder, "iemocap", {emotion.encode(): {
        split.encode(): split_of("iemocap", rows, 100 * index + rows) for split, rows in SPLITS.items()}
        for index, emotion in enumerate(ROWS)})
    (folder / "param_data.csv").write_text(CSV)
    return folder


def test_a_full_training(files: Path, tmp_path: Path) -> None:
    """All numbers are those of the run folder, and the port's precision is the default."""
    needs("torch")
    out, err = call(tmp_path, "test/train_full_1p.sh", f"--data_path={files}/", "--output_path=out",
                    "--train_epochs=3", f"--para_path={files / 'param_data.csv'}")
    assert err == ""
    output = tmp_path / "out"
    folder = output / "iemocap-neutral-torch-1"
    assert {path.name for path in output.iterdir()} == {
        "iemocap-neutral-torch-1", "train_0.log", "LMF_for_PyTorch_bs10_1p_acc.log",
        "LMF_for_PyTorch_bs10_1p_acc_loss.txt"}
    assert (output / "train_0.log").read_text() == out and COMPILED not in out
    metrics, rows = json.loads((folder / "metrics.json").read_text()), history(folder)
    shown = told(out[out.index("- Final result -"):], " : ")
    assert list(shown) == ["Final Performance images/sec", "Final Performance sec/step", "E2E Training Duration sec",
                           "Final Train Accuracy"]
    log = (output / "LMF_for_PyTorch_bs10_1p_acc.log").read_text()
    logged = told(log, " = ")
    assert list(logged.items())[:7] == [
        ("Network", "LMF_for_PyTorch"), ("Emotion", "neutral"), ("Data", "iemocap neutral"), ("RankSize", "1"),
        ("BatchSize", "10"), ("DeviceType", "cpu"), ("CaseName", "LMF_for_PyTorch_bs10_1p_acc")]
    assert list(logged)[7:] == ["ActualFPS", "TrainingTime", "ActualLoss", "E2ETrainingTime", "TrainAccuracy"]
    assert [logged[name] for name in ("ActualFPS", "TrainingTime", "E2ETrainingTime", "TrainAccuracy")] == list(
        shown.values())
    timing = json.loads((folder / "timing.json").read_text())
    assert 6 * (float(logged["TrainingTime"]) - 1e-6) < timing["train_seconds"], "6 steps of 9 are timed"
    assert shown["Final Train Accuracy"] == f"{metrics['test']['F1']:.4f}"
    assert logged["ActualLoss"] == f"{rows[-1]['train_loss']:.6f}"
    losses = (output / "LMF_for_PyTorch_bs10_1p_acc_loss.txt").read_text().split()
    assert [float(loss) for loss in losses] == [row["train_loss"] for row in rows] and len(rows) == 3
    assert "is not the published file" in log
    for said in (f"weighted F1 on the test split of iemocap neutral, of epoch {metrics['best_epoch']} of 3, chosen by "
                 "lowest validation loss; one run, seed 0", "optimizer step", "training loss per row"):
        assert said in log
    assert f"computed: {LEVEL}, float16, emulated on cpu" in log
    keys = saved(folder)
    assert (keys["amp_level"], keys["loss_scale"], keys["epochs"], keys["emotion"]) == (LEVEL, 128, 3, "neutral")
    assert [keys[key] for key in COLUMNS] == [float(text) for text in CSV.splitlines()[3].split(",")]


def test_the_speed_is_of_whole_epochs_without_the_first() -> None:
    """24 rows are 3 steps of 10; the first epoch took 10 s, the other two 1 s each."""
    trainer: Any = SimpleNamespace(
        dataset=SimpleNamespace(title="iemocap sad", splits={"train": SimpleNamespace(rows=24)}),
        selection=SimpleNamespace(extreme="lowest validation loss"))
    metrics = {"epochs": 3, "best_epoch": 2, "test": {"F1": 0.75}}
    config = resolved("--batch_size", "10", "--seed", "4")
    epochs = [Epoch(0.5, 10.0), Epoch(0.4, 11.0), Epoch(0.25, 12.0)]
    found = {line.logged: line for line in result_lines(config, trainer, metrics, epochs, 20)}
    assert {name: line.value for name, line in found.items()} == {
        "ActualFPS": "24.00", "TrainingTime": "0.333333", "ActualLoss": "0.250000", "E2ETrainingTime": "20.00",
        "TrainAccuracy": "0.7500"}
    assert "all whole epochs but the first" in found["ActualFPS"].meaning
    assert "6 in all" in found["TrainingTime"].meaning
    assert "of epoch 2 of 3" in found["TrainAccuracy"].meaning and "seed 4" in found["TrainAccuracy"].meaning
    alone = {line.logged: line for line in result_lines(config, trainer, metrics, epochs[:1], 20)}
    assert alone["ActualFPS"].value == "2.40" and "warm up" in alone["ActualFPS"].meaning


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_by_the_entry_for_modelarts(backend: str, files: Path, tmp_path: Path) -> None:
    """A short training has no TrainAccuracy in its log; the emotion is the one that was asked for."""
    needs(backend)
    out, _ = call(tmp_path, "modelarts_entry_perf.py", "--data_url", str(files), "--train_url", "out", "--backend",
                  backend, "--para_path", str(files / "param_data.csv"), "--emotion", "b'sad'", "--pationce", "7")
    folder = tmp_path / "out" / f"iemocap-sad-{backend}-1"
    keys = saved(folder)
    assert (keys["emotion"], keys["batch_size"], keys["patience"], keys["epochs"]) == ("sad", 12, 7, 2)
    assert (keys["amp_level"], keys["loss_scale"]) == (LEVEL, 128.0)
    with safe_open(str(folder / "best.safetensors"), "numpy") as file:
        assert file.get_tensor("weights/text_factor").shape[0] == 2, "the rank of the row of sad"
    found = [path.name for path in (tmp_path / "out").glob("LMF_for_*_bs12_1p_perf.log")]
    assert len(found) == 1
    log = told((tmp_path / "out" / found[0]).read_text(), " = ")
    assert log["Network"].lower() == {"torch": "lmf_for_pytorch"}.get(backend, f"lmf_for_{backend}")
    assert "TrainAccuracy" not in log and log["DeviceType"] == "cpu" and log["Emotion"] == "sad"
    assert "Final Train Accuracy : " in out and COMPILED not in out


def test_synthetic_data_says_so(files: Path, tmp_path: Path) -> None:
    needs("torch")
    out, _ = call(tmp_path, "test/train_performance_1p.sh", "--data", "synthetic", "--output_path=out",
                  f"--para_path={files / 'param_data.csv'}", "--emotion=happy", "--modalities=audio,video",
                  "--batch_size=256", "--train_epochs=1")
    log = tmp_path / "out" / "LMF_for_PyTorch_synthetic_bs256_1p_perf.log"
    assert told(log.read_text(), " = ")["Data"] == "iemocap happy (synthetic)"
    assert told(log.read_text(), " = ")["CaseName"] == log.stem
    assert "on the test split of iemocap happy (synthetic)" in out and "the one epoch, in which" in out


def result_of_before(output: Path) -> list[Path]:
    """What an earlier training left: files that look like success."""
    output.mkdir()
    found = [output / f"LMF_for_PyTorch_bs10_1p_acc{end}" for end in (".log", "_loss.txt")]
    for path in found:
        path.write_text("TrainAccuracy = 0.9938\n")
    return found


def test_a_training_that_fails(files: Path, tmp_path: Path) -> None:
    """Validation features of 1e37 are infinite in half: exit 1 out of bash, one line, and no result."""
    needs("torch")
    content = {emotion: {split: split_of("iemocap", rows, rows) for split, rows in SPLITS.items()} for emotion in ROWS}
    content["neutral"]["valid"][b"covarep"] *= 1e37
    data = write_pickle(tmp_path / "data", "iemocap", {
        emotion.encode(): {split.encode(): found for split, found in splits.items()}
        for emotion, splits in content.items()}).parent
    left = result_of_before(tmp_path / "out")
    out, err = call(tmp_path, "test/train_full_1p.sh", f"--data_path={data}", "--output_path=out",
                    f"--para_path={files / 'param_data.csv'}", "--train_epochs=3", code=1)
    only_error(err, "validation loss after step 3 is nan", "expected a finite number")
    assert "Final" not in out and not any(path.exists() for path in left)
    log = (tmp_path / "out" / "train_0.log").read_text()
    assert log == out + err


def test_a_training_that_is_ended(files: Path, tmp_path: Path) -> None:
    """SIGTERM reaches Python through the script: it ends as by that signal, and the log says how to go on."""
    needs("torch")
    left = result_of_before(tmp_path / "out")
    process = begin(tmp_path, "test/train_full_1p.sh", f"--data_path={files}", "--output_path=out",
                    f"--para_path={files / 'param_data.csv'}", "--train_epochs=1000000", "--patience=1000000")
    log = tmp_path / "out" / "train_0.log"
    try:
        wait_for(lambda: log.is_file() and "epoch   2" in log.read_text(), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=HANG) == -signal.SIGTERM
    finally:
        with contextlib.suppress(ProcessLookupError):  # a training that the signal did not reach
            os.killpg(process.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=HANG)
    only_error(err, "--resume out/iemocap-neutral-torch-1")
    assert log.read_text().endswith(err) and not any(path.exists() for path in left)


def test_a_script_without_python(tmp_path: Path) -> None:
    _, err = call(tmp_path, "test/train_full_1p.sh", "--data_path=x", code=127, PYTHON=str(tmp_path / "no_python"))
    assert "no_python" in err and not list(tmp_path.iterdir())


def test_help(tmp_path: Path) -> None:
    for name in ("test/train_full_1p.sh", "test/train_performance_1p.sh"):
        out, _ = call(tmp_path, name, "--help")
        for flag in ("--data_path", "--output_path", "--train_epochs", "--batch_size", "--para_path", "--data_url",
                     "--train_url", "--pationce", "--emotion"):
            assert flag in out
        assert "old: parameters come from" not in out


def test_an_npu_that_is_not_there(files: Path, tmp_path: Path) -> None:
    """ModelZoo's variable names the NPU; without one nothing falls back."""
    needs("torch")
    if importlib.util.find_spec("torch_npu"):
        pytest.skip("torch_npu is installed here")
    out, err = call(tmp_path, "test/train_full_1p.sh", f"--data_path={files}", "--output_path=out", code=2,
                    ASCEND_DEVICE_ID="1")
    only_error(err, "device = 'npu:1'", "--device cpu")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train_1.log"] and "Final" not in out


def resolved(*flags: str, case: str = "acc") -> Config:
    return read_config(parser().parse([case, "--settings", str(SETTINGS), *flags]))


@pytest.fixture(autouse=True)
def no_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASCEND_DEVICE_ID", raising=False)


@pytest.mark.parametrize("emotion", ROWS)
def test_without_a_parameter_file_the_settings_of_the_table_hold(emotion: str) -> None:
    config = resolved("--emotion", emotion)
    expected: Mapping[str, Any] = {**read_yaml(SETTINGS / f"{emotion}.yaml"), "epochs": 500}
    assert {key: to_values(config)[key] for key in expected} == expected
    assert (config.amp_level, config.loss_scale, config.patience, config.device) == ("O2", 128.0, 20, "cpu")


def test_what_wins(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table's settings, the row, --config, flags: each over the one before."""
    row = ("--para_path", str(files / "param_data.csv"))
    (tmp_path / "own.yaml").write_text("rank: 7\nbatch_size: 9\n")
    own = ("--config", str(tmp_path / "own.yaml"))
    values = [to_values(resolved(*flags)) for flags in ((), row, (*row, *own), (*row, *own, "--batch_size=6"))]
    assert [(found["rank"], found["batch_size"], found["audio_hidden"]) for found in values] == [
        (16, 256, 32), (4, 10, 5), (7, 9, 5), (7, 6, 5)]
    assert resolved().emotion == "neutral" and resolved("--emotion", 'b"angry"').emotion == "angry"
    assert resolved(case="perf").epochs == 2 and resolved("--epochs", "9", case="perf").epochs == 9
    assert (resolved("--amp_level", "O0").loss_scale, resolved("--amp_level", "O1").loss_scale) == (1.0, 128.0)
    assert resolved("--loss_scale", "dynamic").loss_scale == "dynamic"
    assert resolved().output_path == Path("test/output/0")
    monkeypatch.setenv("ASCEND_DEVICE_ID", "3")
    assert (resolved().device, resolved().output_path) == ("npu:3", Path("test/output/3"))
    assert resolved("--device", "cpu").device == "cpu"
    assert case_name("torch", resolved("--data", "synthetic", "--model", "lmf"), "acc") \
        == "LMF_for_PyTorch_synthetic_bs256_1p_acc"


def test_rows_of_the_parameter_file(files: Path) -> None:
    """As numpy.loadtxt, which the port reads it with, sees it."""
    path = files / "param_data.csv"
    table = np.loadtxt(path, delimiter=",")
    assert {emotion: list(row.values()) for emotion, row in read_parameters(path).items()} == dict(
        zip(ROWS, table.tolist(), strict=True))
    assert ROWS == ("angry", "sad", "happy", "neutral") and COLUMNS[8:] == ("rank", "batch_size", "weight_decay")


LINES = CSV.splitlines()
NO_FILES = {
    "header": (",".join(COLUMNS) + "\n" + CSV, ("row 1, column 1 (audio_hidden)", "'audio_hidden'", "no header")),
    "row missing": ("\n".join(LINES[1:]), ("has 3 rows", "4 rows (angry, sad, happy, neutral)")),
    "row too many": (CSV + LINES[0], ("has 5 rows",)),
    "column missing": (CSV.replace(LINES[1], LINES[1].rsplit(",", 1)[0]), ("row 2 has 10 columns", "11 numbers")),
    "no number": (CSV.replace("0.15", "nan"), ("row 1, column 6 (text_dropout)", "'nan'")),
    "empty": ("", ("has 0 rows",)),
    "too long": (CSV * 100, ("can't be read", "bytes")),
}


@pytest.mark.parametrize("case", NO_FILES)
def test_what_is_no_parameter_file(case: str, tmp_path: Path) -> None:
    text, words = NO_FILES[case]
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_parameters(path)
    one_line(error, f"--para_path {path}", *words)


MISTAKES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("--emotion", "angrry"), ("emotion = 'angrry'", "angry, sad, happy, neutral")),
    (("--para_path", "nowhere.csv"), ("--para_path nowhere.csv", "can't be read")),
    (("--backend", "jax"), ("--backend", "'jax'", "mindspore")),
    (("--dataset", "mosi"), ("emotion = 'neutral'", "only dataset iemocap")),
    (("--data_path", "a", "--data_url", "b", "--data_dir", "c"), ("--data_dir c", "old spelling")),
    (("--data_path", "nowhere"), ("nowhere/iemocap.pkl", "no such file")),
    (("--amp_level", "O0", "--loss_scale", "128"), ("loss_scale = 128.0 (from --loss_scale)", "amp_level")),
    (("--precision", "float64"), ("amp_level = 'O2' (from ", "neutral.yaml)", "amp_level O0")),
]


@pytest.mark.parametrize(("flags", "words"), MISTAKES, ids=lambda value: " ".join(value))
def test_mistakes_are_one_line(flags: tuple[str, ...], words: tuple[str, ...], tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("core.modelzoo.missing_reason", lambda backend: None)
    monkeypatch.chdir(tmp_path)
    assert main(["acc", "--settings", str(SETTINGS), *flags]) == 2
    captured = capsys.readouterr()
    only_error(captured.err, *words)
    assert "Final" not in captured.out and not list(tmp_path.rglob("*_1p_*"))


def test_a_device_that_is_no_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ASCEND_DEVICE_ID", "../../x")
    assert main(["acc", "--settings", str(SETTINGS), "--device", "cpu"]) == 2
    only_error(capsys.readouterr().err, "ASCEND_DEVICE_ID = '../../x'", "such as 0")


def test_the_scripts_hold_no_logic() -> None:
    """They hand on flags and exit code: what they do is in core."""
    for name in ("test/train_full_1p.sh", "test/train_performance_1p.sh"):
        code = [line for line in (PORT / name).read_text().splitlines() if line and not line.startswith("#")]
        assert len(code) == 1 and code[0].startswith("exec ") and code[0].endswith(' "$@"')
    for case in ("acc", "perf"):
        text = (PORT / f"modelarts_entry_{case}.py").read_text()
        assert not re.search(r"\b(if|for|while|def|try)\b", text.split('"""')[2]) and "core.modelzoo" in text
