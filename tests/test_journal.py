"""The journal of a search: damaged ones get one line, a full disk leaves a whole one, half a line costs nothing."""
from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from core.common.errors import RunFailed, UserError
from core.config import make_config
from core.data import load_dataset
from core.studies.journal import Journal, open_journal
from core.studies.search import main
from core.studies.search_space import search_space
from core.studies.search_worker import Task, base_config, note, open_study
from tests.running import environment, needs, only_error

FAST = ("--dataset", "mosi", "--epochs", "2", "--text_hidden", "5", "--batch_size", "12", "--modalities", "audio,text")


def make_journal(path: Path) -> Path:
    """A study `s` of two finished trials and one that runs, as a search leaves it."""
    task = Task("torch", str(path), "s", {"dataset": "mosi", "modalities": "audio"}, 3, 0)
    study = open_study(task)
    for state in (TrialState.COMPLETE, TrialState.PRUNED, None):
        trial = study.ask()
        note(trial, seed=trial.number, backend="torch", host="elsewhere", pid=4)
        for key, choices in search_space(base_config(task), task.fixed).items():
            trial.suggest_categorical(key, choices)
        trial.report(1.5, 1)
        if state == TrialState.COMPLETE:
            note(trial, best_epoch=1, epochs=2, parameters=3, seconds=0.5)
            study.tell(trial, 1.5)
        elif state:
            study.tell(trial, state=state)
    return path


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_journal(tmp_path_factory.mktemp("journal") / "s.journal")


def edited(change: Callable[[dict[str, Any]], None], operation: int) -> Callable[[bytes], bytes]:
    """The journal with its last record of this kind changed."""

    def edit(raw: bytes) -> bytes:
        lines = [json.loads(line) for line in raw.splitlines()]
        change([line for line in lines if line["op_code"] == operation][-1])
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    return edit


def other_space(raw: bytes) -> bytes:
    """The trials run still, and the first was drawn from other choices: Optuna goes by the first."""
    lines = [log for line in raw.splitlines() if (log := json.loads(line))["op_code"] != 6]
    next(log for log in lines if log["op_code"] == 5)["distribution"] = OTHER
    return b"".join(json.dumps(log).encode() + b"\n" for log in lines)


OTHER = '{"name": "CategoricalDistribution", "attributes": {"choices": [4, 8, 16, 32, 64, 128, 256]}}'
DAMAGES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("another file", lambda raw: b"a,b\n1,2\n", "the journal is damaged (JSONDecodeError"),
    ("another file without an end", lambda raw: b"1,2", "'1,2' is not finished"),
    ("a pickle", lambda raw: b"\x80\x04}.", "the journal is damaged"),
    ("garbage in the midst", lambda raw: raw.replace(b'{"op_code":4', b'{"op_co', 1), "of the journal is damaged"),
    ("garbage at the end", lambda raw: raw + b"garbage\n", "the journal is damaged (JSONDecodeError"),
    ("a list", lambda raw: b"[]\n" + raw, "line 1 of the journal is damaged (TypeError"),
    ("a number", lambda raw: raw + b"5\n", "of the journal is damaged (TypeError"),
    ("brackets without end", lambda raw: raw + b"[" * 100_000 + b"]" * 100_000 + b"\n", "(RecursionError"),
    ("a number of 5000 digits", lambda raw: b"9" * 5000 + b"\n" + raw, "line 1 of the journal is damaged (ValueError"),
    ("an unknown operation", lambda raw: raw + b'{"op_code":99,"worker_id":"x"}\n', "(AssertionError"),
    ("no worker", lambda raw: raw + b'{"op_code":4}\n', "(KeyError: 'study_id')"),
    ("a state that is none", edited(lambda log: log.update(state=77), 6), "77 is not a valid TrialState"),
    ("a loss of text", edited(lambda log: log.update(intermediate_value="x"), 7), "trial 2: has losses that are no"),
    ("a loss of infinity", edited(lambda log: log.update(state=1, values=[float("inf")]), 6), "without a finite loss"),
    ("no loss at all", edited(lambda log: log.update(state=1, values=None), 6), "without a finite loss"),
    ("another distribution", edited(lambda log: log.update(distribution="{}"), 5), "of the journal is damaged"),
    ("a fact of another type", edited(lambda log: log.update(user_attr={"pid": "4"}), 8), "(pid = '4'"),
    ("a setting of another space", lambda raw: raw.replace(b'"batch_size"', b'"bunch_size"'), "isn't one of"),
    ("another space of a trial that runs", other_space, "isn't one of"),
    ("garbage and half a line", lambda raw: raw + b'garbage\n{"op_code":4', "the journal is damaged (JSONDecodeError"),
    ("two directions", lambda raw: raw.replace(b'"directions":[1]', b'"directions":[1,2]'), "doesn't minimise"),
]


@pytest.mark.parametrize(("damage", "words"), [case[1:] for case in DAMAGES], ids=[case[0] for case in DAMAGES])
def test_a_damaged_journal_gets_one_line(damage: Callable[[bytes], bytes], words: str, journal: Path, data: Path,
                                         tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.journal"
    path.write_bytes(damage(journal.read_bytes()))
    flags = ["--dataset", "mosi", "--modalities", "audio", "--data_dir", str(data), "--study", "s", "--trials", "2"]
    assert main([*flags, "--storage", str(path), "--confirm", "none"]) == 2
    only_error(capsys.readouterr().err, f"--storage {path}", words, "another --storage")


@pytest.mark.parametrize("raw", [b"a,b\n1,2\n", b"a,b\n1,2", b"1,2", b"{}\n[1", b"x" * 10**6])
def test_another_file_stays_as_it_is(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_bytes(raw)
    with pytest.raises(UserError, match="is damaged"):
        open_journal(path)
    assert path.read_bytes() == raw


def test_half_a_line_is_cut_off(journal: Path, tmp_path: Path) -> None:
    """What a process that was killed in the midst of a write leaves: nothing of the study is lost, and it goes on."""
    path = tmp_path / "s.journal"
    whole = journal.read_bytes()
    for left in (b"{", b'{"op_code":4,"work'):
        path.write_bytes(whole + left)
        study = open_study(Task("torch", str(path), "s", {}, 3, 0))
        assert len(study.trials) == 3
        with open(path, "ab") as file:
            file.write(left)  # and once more, while it is open
        study.ask()
        assert len(open_study(Task("torch", str(path), "s", {}, 3, 0)).trials) == 4
        assert all(json.loads(line) for line in path.read_bytes().splitlines())


def test_a_full_disk_leaves_the_journal_as_it_was(journal: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(journal, tmp_path))
    whole, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = Journal(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
    try:
        with pytest.raises(RunFailed, match="can't be written"):
            writer.append_logs([{"op_code": 4, "worker_id": "x" * 100}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole and not Path(f"{path}.lock").is_symlink()


@pytest.mark.parametrize("room", [100, 3000])
def test_a_search_on_a_full_disk_ends_with_one_line(room: int, data: Path, tmp_path: Path) -> None:
    """Within the first records, and within a trial, in a worker; with room again, the same command goes on."""
    needs("torch")
    load_dataset(make_config({"dataset": "mosi", "data_dir": data}))  # the store is there already
    flags = [*FAST, "--data_dir", str(data), "--trials", "1", "--study", "f", "--confirm", "none"]

    def search(most: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "core.search", *flags], cwd=tmp_path, text=True,
                              env=environment(tmp_path, {}), capture_output=True, timeout=600,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))

    full = search(room)
    assert full.returncode == 1
    only_error(full.stderr, "search/f.journal: can't be written (File too large)", "free space")
    again = search(2**40)
    assert again.returncode == 0, again.stderr
    assert "best setting: search/f.yaml" in again.stdout
