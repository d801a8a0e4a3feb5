"""One process per run folder; and a folder that goes away under its run ends it with an error."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import core.common.lock
from core.common.arrays import Array
from core.common.errors import RunFailed, UserError
from core.common.lock import FolderLock
from tests.conftest import Run
from tests.running import Refuse, environment, history, needs, only_error, start, train_flags
from tests.test_trainer import Scripted, epochs_of, trainer_of

# Holds the folder, starts a program that outlives it, and waits to be killed.
HOLDER = """
import subprocess, sys, time
from pathlib import Path
from core.common.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "wait")
command = [sys.executable, "-c", "import time; time.sleep(3600)"]
print(subprocess.Popen(command, close_fds=False).pid, flush=True)
time.sleep(3600)
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path, "wait for it")
    with pytest.raises(UserError) as caught:
        FolderLock(tmp_path, "wait for it")
    assert str(caught.value) == f"{tmp_path}: process {os.getpid()} is working there; wait for it"
    lock.release()
    assert not list(tmp_path.iterdir())
    again = FolderLock(tmp_path, "wait for it")
    lock.release()  # a second time: the folder isn't its any more
    again.check()
    again.release()


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    """kill -9, while a program that the process started lives on."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], cwd=tmp_path, text=True,
                              env=environment(tmp_path, {}), stdout=subprocess.PIPE)
    assert holder.stdout
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(UserError, match=f"process {holder.pid} is working there"):
            FolderLock(tmp_path, "wait")
        holder.kill()
        holder.wait()
        os.kill(child, 0)
        assert (tmp_path / ".lock").exists()
        FolderLock(tmp_path, "wait").release()
    finally:
        os.kill(child, signal.SIGKILL)
        holder.communicate()


def test_a_lock_taken_away_between_opening_and_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder ends just then: the file that we opened is no longer the one that others would lock."""
    original, calls = core.common.lock.lock_file, []

    def late(handle: int) -> bool | None:
        calls.append(handle)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        return original(handle)

    monkeypatch.setattr(core.common.lock, "lock_file", late)
    lock = FolderLock(tmp_path, "wait")
    assert len(calls) == 2
    lock.check()
    with pytest.raises(UserError):
        FolderLock(tmp_path, "wait")


def test_without_locks_a_warning_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(core.common.lock, "lock_file", lambda handle: None)
    first, second = (FolderLock(tmp_path, "wait") for _ in range(2))
    assert capsys.readouterr().err == 2 * (f"warning: {tmp_path}: this system can't lock it; see to it that no other "
                                           "process works there\n")
    first.release()
    second.check()


def test_what_stands_in_the_lock_s_place(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_bytes(b"\x1b[31m not a number" * 100)
    lock = FolderLock(tmp_path, "wait")
    (tmp_path / ".lock").write_bytes(b"\x1b[31m not a number" * 100)
    with pytest.raises(UserError, match="another process is working there"):
        FolderLock(tmp_path, "wait")
    lock.release()
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunFailed, match=r"\.lock: can't be written \(Is a directory\)"):
        FolderLock(tmp_path, "wait")


def test_a_second_resume_is_refused(data: Path, tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
                                    ) -> None:
    """While the run is alive; a killed run can be continued at once, and its lock is no hindrance."""
    needs("torch")
    flags = train_flags("iemocap", data, tmp_path, "--epochs", "1000000", "--patience", "1000000", "--model_path",
                        str(tmp_path / "weights"))
    folder = tmp_path / "iemocap-happy-torch-1"
    process = start(tmp_path, "torch", "train", *flags)
    monkeypatch.setattr("core.runtime.start.open_session", lambda *_: Scripted([]))
    try:
        wait_for_epochs(process, folder, 1)
        refuse("train", "--resume", str(folder),
               words=(str(folder), f"process {process.pid} is working there", "wait for it, or end it"))
    finally:
        process.kill()
        process.communicate()
    assert (folder / ".lock").exists()
    for path in (folder, tmp_path / "weights" / folder.name):
        FolderLock(path, "wait").release()


def wait_for_epochs(process: subprocess.Popen[str], folder: Path, rows: int) -> None:
    """Until the history has so many lines. The deadline only ends a test that hangs."""
    deadline = time.monotonic() + 300
    while not (folder / "history.jsonl").exists() or len(history(folder)) < rows:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)


def test_two_runs_do_not_share_a_folder_of_checkpoints(data: Path, tmp_path: Path, refuse: Refuse,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """--model_path holds a folder per run's name, and another --output_path has the same names."""
    monkeypatch.setattr("core.runtime.start.open_session", lambda *_: Scripted([]))
    lock = FolderLock(made(tmp_path / "weights" / "iemocap-happy-torch-1"), "wait")
    refuse("train", *train_flags("iemocap", data, tmp_path, "--model_path", str(tmp_path / "weights")),
           words=(str(lock.folder), f"process {os.getpid()} is working there"))
    lock.release()


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def test_one_folder_under_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--model_path may be the output folder, written another way: it is locked once."""
    monkeypatch.chdir(tmp_path)
    folder = trainer_of(Scripted([1]), made(Path("runs/a")), model_path=tmp_path / "runs").run_folder
    folder.claim()
    folder.close()


def test_who_claims_a_folder_tidies_it_up(tmp_path: Path) -> None:
    """Also of files that this run won't write again, as a best model that is not improved upon."""
    folders = [made(tmp_path / "runs" / "a"), made(tmp_path / "weights" / "a")]
    folder = trainer_of(Scripted([1]), folders[0], model_path=tmp_path / "weights").run_folder
    for path in folders:
        (path / ".best.safetensors.abcd_123.tmp").write_bytes(b"half")
    folder.claim()
    assert [[path.name for path in place.iterdir()] for place in folders] == [[".lock"], [".lock"]]
    folder.close()


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def anew(folder: Path) -> None:
    """Someone begins a run of that name: the folder's inode may even be the old one."""
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / ".lock").write_text("1\n")


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)


class Losing(Scripted):
    """Loses `folder` at a moment of the run: `train_epoch 2`, `predict test 1`."""

    def __init__(self, moment: str, how: Callable[[Path], None], folder: Path) -> None:
        super().__init__([3.0, 2.0, 1.0])
        self.moment, self.how, self.place, self.seen = moment, how, folder, []

    def pass_by(self, call: str) -> None:
        self.seen.append(call)
        if self.moment == f"{call} {self.seen.count(call)}":
            self.how(self.place)

    def train_epoch(self, plan: object) -> object:  # type: ignore[override]
        self.pass_by("train_epoch")
        return super().train_epoch(plan)  # type: ignore[arg-type]

    def predict(self, split: str) -> Array:
        self.pass_by(f"predict {split}")
        return super().predict(split)


@pytest.mark.parametrize("which", ["runs", "weights"])
@pytest.mark.parametrize("how", [gone, moved, anew, emptied])
@pytest.mark.parametrize("moment", ["train_epoch 1", "predict valid 3", "predict test 1"])
def test_a_folder_that_goes_away(tmp_path: Path, moment: str, how: Callable[[Path], None], which: str) -> None:
    """The run fails, and what is there then stays as it is: no half folder."""
    place = tmp_path / which / "a"
    trainer = trainer_of(Losing(moment, how, place), made(tmp_path / "runs" / "a"), epochs=3,
                         model_path=tmp_path / "weights")
    trainer.run_folder.claim()
    with pytest.raises(RunFailed) as caught:
        epochs_of(trainer)
    assert str(caught.value).startswith(f"{place}: was deleted, moved or replaced")
    assert not (tmp_path / "runs" / "a" / "timing.json").exists()
    left = [path.name for path in place.iterdir()] if place.exists() else []
    assert left == ([".lock"] if how is anew else []), "nothing is written, and another's lock stays"


def test_the_command_s_error(data: Path, tmp_path: Path) -> None:
    needs("torch")
    process = start(tmp_path, "torch", "train",
                    *train_flags("iemocap", data, tmp_path, "--epochs", "1000000", "--patience", "1000000"))
    folder = tmp_path / "iemocap-happy-torch-1"
    try:
        wait_for_epochs(process, folder, 1)
        folder.rename(tmp_path / "moved")  # at one stroke: rmtree would compete with the run
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 1
    only_error(err, str(folder))


def test_a_finished_run_is_free(classified: Run) -> None:
    assert not (classified.folder / ".lock").exists()
    FolderLock(classified.folder, "wait").release()
