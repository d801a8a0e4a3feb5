"""Flags of the original and its ports: the same meaning, or one line that says what to use."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.config import Config, make_config
from core.config.flags import make_parser, read_values
from tests.running import HANG, Refuse, needs, only_error, start, train_flags

SAME: list[tuple[list[str], str, Any]] = [
    (["--run_id", "19260817"], "run_id", 19260817),
    (["--epochs", "7"], "epochs", 7),
    (["--train_epochs", "7"], "epochs", 7),
    (["--patience", "9"], "patience", 9),
    (["--output_dim", "2"], "output_dim", 2),
    (["--signiture", "mine"], "signature", "mine"),
    (["--data_path", "./data/"], "data_dir", Path("data")),
    (["--data_url", "./data/"], "data_dir", Path("data")),
    (["--model_path", "models"], "model_path", Path("models")),
    (["--output_path", "results"], "output_path", Path("results")),
    (["--train_url", "results"], "output_path", Path("results")),
    (["--max_len", "15"], "max_len", 15),
    (["--emotion", "angry"], "emotion", "angry"),
    (["--emotion", "b'angry'"], "emotion", "angry"),
    (["--emotion", 'b"angry"'], "emotion", "angry"),
    (["--pationce", "9"], "patience", 9),
    (["--audio_hidden", "8"], "audio_hidden", 8),
    (["--video_hidden", "8"], "video_hidden", 8),
    (["--text_hidden", "128"], "text_hidden", 128),
    (["--audio_dropout", "0.1"], "audio_dropout", 0.1),
    (["--video_dropout", "0.1"], "video_dropout", 0.1),
    (["--text_dropout", "0.1"], "text_dropout", 0.1),
    (["--factor_learning_rate", "0.003"], "factor_learning_rate", 0.003),
    (["--learning_rate", "0.003"], "learning_rate", 0.003),
    (["--rank", "16"], "rank", 16),
    (["--batch_size", "128"], "batch_size", 128),
    (["--weight_decay", "0.002"], "weight_decay", 0.002),
]
WARNED: list[tuple[list[str], str | None, str]] = [
    (["--cuda", "False"], "cpu", "warning: --cuda is old; use --device cpu"),
    (["--cuda", "false"], "cpu", "warning: --cuda is old; use --device cpu"),
    (["--cuda", "0"], "cpu", "warning: --cuda is old; use --device cpu"),
    (["--cuda", "True"], "cuda", "warning: --cuda is old; use --device cuda"),
    (["--cuda"], "cuda", "warning: --cuda is old; use --device cuda"),
    (["--device_target", "CPU"], "cpu", "warning: --device_target is old; use --device cpu"),
    (["--device_target", "GPU"], "cuda", "warning: --device_target is old; use --device cuda"),
    (["--device_target", "Ascend"], "npu", "warning: --device_target is old; use --device npu"),
    (["--num_workers", "4"], "cpu", "warning: --num_workers has no effect: the data is put on the device once; "
                                    "leave it out"),
    (["--para_path", "x.yaml"], "cpu", "warning: --para_path has no effect: give parameters as YAML with "
                                       "--config FILE.yaml"),
    (["--train_time", "100"], "cpu", "warning: --train_time has no effect: a command trains once, and nothing is "
                                     "chosen by its test score"),
    (["--train_steps", "10"], "cpu", "warning: --train_steps has no effect: a run is counted in epochs; use --epochs"),
]


def read(*flags: str) -> Config:
    return make_config(*read_values(make_parser("train", "").parse(["--dataset", "iemocap", *flags])))


@pytest.mark.parametrize(("flags", "key", "value"), SAME, ids=lambda value: str(value))
def test_same_meaning(capsys: pytest.CaptureFixture[str], flags: list[str], key: str, value: object) -> None:
    assert getattr(read(*flags), key) == value
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("flags", "device", "line"), WARNED, ids=lambda value: str(value))
def test_one_warning(capsys: pytest.CaptureFixture[str], flags: list[str], device: str, line: str) -> None:
    assert read(*flags).device == device
    assert capsys.readouterr().err == line + "\n"


def test_original_defaults() -> None:
    """What the original does when only the data set is given."""
    config = read()
    assert (config.emotion, config.epochs, config.patience, config.max_len) == ("happy", 100, 20, 20)
    assert (read("--emotion", "sad").epochs, make_config({"dataset": "pom"}).epochs) == (100, 500)


def test_contradictions_and_nonsense(refuse: Refuse) -> None:
    refuse("train", "--dataset", "mosi", "--signature", "a", "--signiture", "b", words=("--signature a", "(b)"))
    refuse("train", "--dataset", "mosi", "--device_target", "TPU", words=("--device_target TPU", "CPU, GPU or Ascend"))
    refuse("train", "--dataset", "mosi", "--cuda", "maybe", words=("--cuda maybe", "true or false"))


def test_cuda_true_asks_for_cuda(data: Path, tmp_path: Path) -> None:
    """On a machine without CUDA that is an error with the way out; on one with it, it works."""
    needs("torch")
    process = start(tmp_path, "torch", "train", *train_flags("mosi", data, tmp_path, "--cuda", "True", "--epochs", "1"))
    _, err = process.communicate(timeout=HANG)
    warning, *rest = err.splitlines(keepends=True)
    assert warning == "warning: --cuda is old; use --device cuda\n"
    if process.returncode == 0:
        probe = "import sys, torch; sys.exit(not torch.cuda.is_available())"
        assert subprocess.run([sys.executable, "-c", probe]).returncode == 0, "there is no CUDA: where did it run?"
        assert not rest and list(tmp_path.glob("mosi-torch-1"))
        return
    assert process.returncode == 2
    only_error("".join(rest), "device = 'cuda'", "--device cpu")
    assert not list(tmp_path.glob("mosi-*")), "a run folder was made for a run that never began"
