"""A run that was killed, wherever it was, ends as the run that was not: the same bytes."""
from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from core.runtime.backend import BACKENDS
from tests.conftest import TWELVE, Run
from tests.running import (
    HANG,
    Refuse,
    assert_same_run,
    content_of,
    history,
    needs,
    run,
    run_folder,
    start,
    train_flags,
    wait_for,
    write_pickle,
)
from tests.test_trainer import Scripted

# Python imports this by itself. The process kills itself, as kill -9 would, when it is about to give the n-th
# file of a name its place: a temporary file is written and synced then, and the old one still there.
KILL = """
import os, signal
from pathlib import Path
name, count = os.environ["KILL_BEFORE"].split(":")
left, replace = [int(count)], os.replace
def dying(source, target, **more):
    left[0] -= Path(target).name == name
    if left[0] == 0 and Path(target).name == name:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target, **more)
os.replace = dying
"""
# Each continues the run of the one before.
MOMENTS = ["best.safetensors:3", "last.safetensors:2", "history.jsonl:3", "metrics.json:1"]


def kill_at(moment: str, here: Path, backend: str, *flags: str) -> None:
    """Run `train` until it kills itself at `moment`."""
    (here / "hook").mkdir(exist_ok=True)
    (here / "hook" / "sitecustomize.py").write_text(KILL)
    process = start(here, backend, "train", *flags, PYTHONPATH=str(here / "hook"), KILL_BEFORE=moment)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == -signal.SIGKILL, f"{moment}: exit {process.returncode}\n{out}\n{err}"


def test_killed_at_every_kind_of_moment(classified: Run, data: Path, tmp_path: Path) -> None:
    flags = train_flags("iemocap", data, tmp_path, *TWELVE)
    folder = tmp_path / "iemocap-happy-torch-1"
    kill_at(MOMENTS[0], tmp_path, "torch", *flags)
    for moment in MOMENTS[1:]:
        kill_at(moment, tmp_path, "torch", *flags, "--resume")
    assert len(history(folder)) == 12 and not (folder / "metrics.json").exists()
    assert len(list(folder.glob(".*.tmp"))) == 1, "the last kill's: a resumed run removes what was left before it"
    done = run(tmp_path, "torch", "train", *flags, "--resume")
    assert run_folder(done.stdout) == folder and "going on after epoch 12" in done.stdout
    assert not list(folder.glob(".*")), "neither temporary files nor the lock"
    assert_same_run(folder, classified.folder)


def test_killed_from_outside(classified: Run, data: Path, tmp_path: Path) -> None:
    """By another process, while it computes; at a moment that differs from run to run."""
    folder = tmp_path / "iemocap-happy-torch-1"
    process = start(tmp_path, "torch", "train", *train_flags("iemocap", data, tmp_path, *TWELVE))
    wait_for(lambda: (folder / "history.jsonl").exists() and len(history(folder)) >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    run(tmp_path, "torch", "train", "--resume", str(folder))
    assert_same_run(folder, classified.folder)


def test_a_finished_run_stays_as_it_is(classified: Run) -> None:
    """Bare --resume finds it; nothing is trained, the same files come out. Other keys are not asked for again."""
    before = {path.name: path.read_bytes() for path in classified.folder.iterdir() if path.is_file()}
    done = run(classified.here, "torch", "train", "--dataset", "iemocap", "--output_path",
               str(classified.here / "runs"), "--resume")
    assert run_folder(done.stdout) == classified.folder and "\nepoch" not in done.stdout
    assert {name: (classified.folder / name).read_bytes() for name in before} == before


def test_a_changed_configuration_names_its_keys(refuse: Refuse, classified: Run) -> None:
    config = (classified.folder / "config.yaml").read_bytes()
    refuse("train", "--resume", str(classified.folder), "--rank", "3", "--seed", "1", "--emotion", "happy", words=(
        "rank (2 before, 3 now)", "seed (0 before, 1 now)", "start a new run"))
    refuse("train", *classified.flags, "--resume", "--batch_size", "11", words=("batch_size (10 before, 11 now)",))
    assert (classified.folder / "config.yaml").read_bytes() == config


def test_runs_that_can_t_be_resumed(refuse: Refuse, classified: Run, tmp_path: Path) -> None:
    refuse("train", *classified.flags, "--run_id", "99", "--resume", words=("no run folder", "without --resume"))
    refuse("train", "--resume", str(tmp_path), words=(str(tmp_path), "not a run folder"))
    refuse("train", "--resume", words=("--dataset is required",))


def test_changed_data_is_another_run(classified: Run, tmp_path: Path, refuse: Refuse,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint tells, though shapes and name are the same; the run stays as it was. No framework is asked."""
    write_pickle(tmp_path, "iemocap", content_of("iemocap", seed=1))
    monkeypatch.setattr("core.runtime.start.open_session", lambda *_: Scripted([]))
    before = (classified.folder / "run.json").read_bytes()
    refuse("train", "--resume", str(classified.folder), "--data_dir", str(tmp_path), words=(
        str(classified.folder / "last.safetensors"), "made from other data (fingerprint", "start a new run"))
    assert (classified.folder / "run.json").read_bytes() == before


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "torch"])
def test_every_backend_resumes(data: Path, tmp_path: Path, backend: str) -> None:
    """One kill each, while a checkpoint is written; then the run's best model says the same to `evaluate`."""
    needs(backend)
    folder = tmp_path / f"pom-{backend}-1"
    flags = train_flags("pom", data, tmp_path, "--epochs", "3")
    kill_at("last.safetensors:2", tmp_path, backend, *flags)
    assert len(history(folder)) == 1
    run(tmp_path, backend, "train", *flags, "--resume")
    whole = run_folder(run(tmp_path, backend, "train", *flags).stdout)
    assert whole == tmp_path / f"pom-{backend}-2"
    assert_same_run(folder, whole)
