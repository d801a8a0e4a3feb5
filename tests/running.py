"""Running the commands as a user does, in a process of their own, on tiny data in the published schema."""
from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from core.commands import main
from core.common.arrays import Array
from core.common.signals import ENDING
from core.data.published import POM_TRAITS
from core.runtime.backend import missing_reason
from core.runtime.worker import Worker

ROOT = Path(__file__).resolve().parents[1]
HANG = 900  # seconds, ten times what anything takes on a machine that is ten times too busy: a test that hangs ends
ROWS = {"train": 24, "valid": 10, "test": 12}
AUDIO, VIDEO, STEPS, WORD = 6, 5, 7, 8
SMALL = ("--audio_hidden", "4", "--video_hidden", "3", "--text_hidden", "5", "--batch_size", "10")
RANK = ("--rank", "2")  # of LMF alone


def split_of(dataset: str, rows: int, seed: int) -> dict[bytes, Array]:
    """One split as published: byte keys, float64; batches of 10 leave a ragged last one of 4."""
    draw = np.random.default_rng(seed)
    label = {"mosi": draw.uniform(-3, 3, (rows, 1)), "pom": draw.uniform(1, 7, (rows, len(POM_TRAITS))),
             "iemocap": np.eye(2)[draw.permutation(np.arange(rows) % 2)]}[dataset]
    shift = 0.3 * (label - label.mean(axis=0))[:, :1]  # (N, 1): there is something to learn, with noise
    return {b"covarep": draw.normal(0.2, 0.5, (rows, AUDIO)) + shift, b"facet": draw.normal(0.1, 0.4, (rows, VIDEO)),
            b"glove": draw.normal(0, 0.4, (rows, STEPS, WORD)) + shift[:, :, None], b"label": label}


def content_of(dataset: str, seed: int = 0) -> dict[bytes, Any]:
    """What a published pickle holds; IEMOCAP with one emotion."""
    splits = {name.encode(): split_of(dataset, rows, seed + rows) for name, rows in ROWS.items()}
    return {b"happy": splits} if dataset == "iemocap" else splits


def write_pickle(folder: Path, dataset: str, content: dict[bytes, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dataset}.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    return path


def needs(backend: str) -> None:
    """Skip, with the way to change that, where the framework is not installed."""
    reason = missing_reason(backend)
    if reason:
        pytest.skip(reason)
    if not (ROOT / "backends" / backend / "session.py").is_file():
        pytest.skip(f"backends/{backend}/session.py does not exist")


def environment(folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """The user's environment, with this project importable from `folder`, where frameworks leave their files."""
    path = os.pathsep.join([*([extra["PYTHONPATH"]] if "PYTHONPATH" in extra else []), str(ROOT)])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "120",
            **extra, "PYTHONPATH": path}


def heed_signals() -> None:
    """In a process that is about to begin: heed signals that are ignored where the tests run in the background."""
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)


def start(folder: Path, backend: str, command: str, *flags: str, file_limit: int | None = None,
          **extra: str) -> subprocess.Popen[str]:
    """Start `python -m backends.<backend>.<command>` in `folder`; no file may grow beyond `file_limit` bytes."""

    def prepare() -> None:
        heed_signals()
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.Popen([sys.executable, "-m", f"backends.{backend}.{command}", *flags], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(folder, extra),
                            preexec_fn=prepare)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until `condition()` holds, however slow the machine is; fails when `process` ends before."""
    deadline = time.monotonic() + HANG
    while not condition():
        if process and process.poll() is not None and not condition():
            out, err = process.communicate()
            raise AssertionError(f"exit {process.returncode}, too early\n{out}\n{err}")
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def run(folder: Path, backend: str, command: str, *flags: str, code: int = 0, **more: Any
        ) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it has to exit with `code`."""
    process = start(folder, backend, command, *flags, **more)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == code, f"exit {process.returncode}, expected {code}\n{out}\n{err}"
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def in_worker(command: str, backend: str, flags: list[str]) -> tuple[int, str]:
    """In a worker: the command's exit code, and all that it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        return main(command, backend, flags), printed.getvalue()


def run_in(worker: Worker, command: str, *flags: str, code: int = 0) -> str:
    """What a command prints that runs in `worker`; it has to exit with `code`."""
    found, printed = worker.run("tests.running:in_worker", command, worker.backend, list(flags))
    assert found == code, printed
    return str(printed)


def train_flags(dataset: str, data: Path, output: Path, *flags: str) -> list[str]:
    return ["--dataset", dataset, "--data_dir", str(data), "--output_path", str(output), *SMALL,
            *([] if "tfn" in flags else RANK), *flags]


def only_error(stderr: str, *words: str) -> str:
    """The one line that an error prints, holding all `words`."""
    assert len(stderr.splitlines()) == 1 and stderr.startswith("error: "), stderr
    for word in words:
        assert word in stderr, f"{word!r} not in {stderr!r}"
    return stderr


Refuse = Callable[..., str]


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """refuse(command, *flags, words=(...)): the command must exit with 2 and one line, before any framework."""
    monkeypatch.setattr("core.commands.missing_reason", lambda backend: None)

    def check(command: str, *flags: str, words: tuple[str, ...] = ()) -> str:
        assert main(command, "torch", flags) == 2
        return only_error(capsys.readouterr().err, *words)

    return check


def run_folder(stdout: str) -> Path:
    """The path that a training prints last."""
    found = re.findall(r"^run folder: (.*)$", stdout, re.MULTILINE)
    return Path(found[-1])


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def assert_same_run(one: Path, other: Path) -> None:
    """What two runs of one configuration leave: the same bytes, and the same tensors in their checkpoints."""
    for name in ("history.jsonl", "metrics.json", "predictions_test.npy", "predictions_test.csv",
                 "predictions_valid.npy"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("best.safetensors", "last.safetensors"):
        left, right = load_file(one / name), load_file(other / name)
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert value.tobytes() == right[key].tobytes(), f"{name}: {key}"
