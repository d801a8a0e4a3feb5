"""`python -m core.search`: what it tries, what it may see, many workers on one storage, and what it leaves."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from core.common.errors import UserError
from core.config import make_config
from core.config.flags import read_yaml
from core.data import load_dataset
from core.studies.search import _refuse_other, main
from core.studies.search_confirm import open_confirmation
from core.studies.search_space import search_space
from core.studies.search_worker import (
    PRUNED_AFTER,
    PRUNED_FROM,
    Task,
    base_config,
    enough,
    open_study,
    release_lost,
    work,
)
from core.training.selection import for_selection
from tests.planned import wait_until_gone
from tests.running import HANG, content_of, environment, heed_signals, needs, only_error, wait_for, write_pickle
from tests.test_trainer import Scripted

FAST = ("--dataset", "mosi", "--epochs", "2", "--text_hidden", "5", "--batch_size", "12", "--modalities", "audio,text")
DROPOUTS, RATES = [0.0, 0.1, 0.15, 0.2, 0.3, 0.5], [0.0003, 0.0005, 0.001, 0.003]


def start(folder: Path, *flags: str, script: Path | None = None) -> subprocess.Popen[str]:
    """Start the search, or a script that does it, in a process group of its own."""
    command = [str(script)] if script else ["-m", "core.search"]
    return subprocess.Popen([sys.executable, *command, *flags], cwd=folder, env=environment(folder, {}), text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                            preexec_fn=heed_signals)


def search(folder: Path, *flags: str, code: int = 0) -> str:
    process = start(folder, *flags)
    out, err = process.communicate(timeout=HANG)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out if code == 0 else err


def study_of(storage: Path | str, name: str) -> optuna.Study:
    return open_study(Task("torch", str(storage), name, {}, 0, 0))


def test_the_space_is_the_originals() -> None:
    space = search_space(make_config({"dataset": "mosi"}), {})
    assert space == {
        "audio_hidden": [4, 8, 16], "video_hidden": [4, 8, 16], "text_hidden": [64, 128, 256],
        "audio_dropout": DROPOUTS, "video_dropout": DROPOUTS, "text_dropout": DROPOUTS, "rank": [1, 4, 8, 16],
        "factor_learning_rate": RATES, "learning_rate": RATES, "weight_decay": [0.0, 0.001, 0.002, 0.01],
        "batch_size": [4, 8, 16, 32, 64, 128]}
    assert list(space) == [
        "audio_hidden", "video_hidden", "text_hidden", "audio_dropout", "video_dropout", "text_dropout", "rank",
        "factor_learning_rate", "learning_rate", "weight_decay", "batch_size"], "or a seed would draw other settings"
    assert search_space(make_config({"dataset": "iemocap"}), {})["audio_hidden"] == [8, 16, 32]


def test_keys_without_a_use_are_not_searched() -> None:
    tfn = search_space(make_config({"dataset": "mosi", "model": "tfn", "modalities": "audio,text"}), {"batch_size": 4})
    assert set(tfn) == {"audio_hidden", "text_hidden", "audio_dropout", "text_dropout", "factor_learning_rate",
                        "learning_rate", "weight_decay"}


def test_a_setting_worse_than_the_median_is_pruned(tmp_path: Path) -> None:
    study = study_of(tmp_path / "p.journal", "p")
    for _ in range(PRUNED_AFTER):
        trial = study.ask()
        for epoch in range(1, 12):
            trial.report(1.0, epoch)
        study.tell(trial, 1.0)
    bad, good = study.ask(), study.ask()
    for epoch in range(1, PRUNED_FROM):
        bad.report(2.0, epoch)
        assert not bad.should_prune(), f"epoch {epoch}"
    bad.report(2.0, PRUNED_FROM + 1)
    good.report(0.5, PRUNED_FROM + 1)
    assert bad.should_prune() and not good.should_prune()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, str]:
    """Six trials by two worker processes on one journal."""
    needs("torch")
    folder = tmp_path_factory.mktemp("search")
    return folder, search(folder, *FAST, "--data_dir", str(data), "--trials", "6", "--jobs", "2", "--study", "s",
                          "--search_seed", "40", "--confirm", "none")


def test_two_workers_share_one_journal(finished: tuple[Path, str]) -> None:
    folder, out = finished
    trials = study_of(folder / "search/s.journal", "s").trials
    assert len(trials) in (6, 7), "each worker stops when the study has enough; two may overshoot by one"
    assert len({trial.user_attrs["pid"] for trial in trials}) == 2
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert [trial.user_attrs["seed"] for trial in trials] == [40 + trial.number for trial in trials]
    assert len({str(trial.params) for trial in trials}) == len(trials), "workers drew different settings"
    assert set(trials[0].params) == {"audio_hidden", "audio_dropout", "text_dropout", "rank", "factor_learning_rate",
                                     "learning_rate", "weight_decay"}
    assert all(len(trial.intermediate_values) == 2 for trial in trials if trial.state == TrialState.COMPLETE)
    assert "best setting: search/s.yaml" in out


def test_the_found_file_is_a_config_that_says_how_it_was_found(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    path = folder / "search/s.yaml"
    best = min(study_of(folder / "search/s.journal", "s").trials, key=lambda trial: trial.value or 99.0)
    values = read_yaml(path)
    assert make_config(values).rank == best.params["rank"]
    assert {key: values[key] for key in best.params} == best.params
    assert values["text_hidden"] == 5 and values["epochs"] == 2 and values["modalities"] == "audio,text"
    text = path.read_text()
    for words in (f"# Trial {best.number} of ", f"run seed {40 + best.number}", f"{best.value:.5f}", "was not read",
                  "--trials 6", "--search_seed 40", "train 24, valid 10 rows", "is not the published file"):
        assert words in text, words


def test_a_found_trial_can_be_run_again(finished: tuple[Path, str], data: Path, tmp_path: Path) -> None:
    """The value that chose the setting is the validation loss of an ordinary training run with the trial's seed."""
    folder, _ = finished
    best = min(study_of(folder / "search/s.journal", "s").trials, key=lambda trial: trial.value or 99.0)
    subprocess.run([sys.executable, "-m", "backends.torch.train", "--config", str(folder / "search/s.yaml"), "--seed",
                    str(best.user_attrs["seed"]), "--data_dir", str(data), "--output_path", str(tmp_path)],
                   cwd=tmp_path, env=environment(tmp_path, {}), check=True, capture_output=True)
    history = (tmp_path / "mosi-torch-1/history.jsonl").read_text().splitlines()
    losses = [float(line.split('"valid_loss": ')[1].split(",")[0]) for line in history]
    assert min(losses) == best.value


def test_a_finished_study_runs_nothing_more(finished: tuple[Path, str], data: Path, tmp_path: Path) -> None:
    folder, _ = finished
    shutil.copytree(folder / "search", tmp_path / "search")
    before = len(study_of(tmp_path / "search/s.journal", "s").trials)
    search(tmp_path, *FAST, "--data_dir", str(data), "--trials", "6", "--study", "s", "--search_seed", "40",
           "--confirm", "none")
    assert len(study_of(tmp_path / "search/s.journal", "s").trials) == before


def test_the_test_split_changes_nothing(tmp_path: Path) -> None:
    """Two searches whose data differ in the test rows alone are the same search, to the last digit."""
    needs("torch")
    results = []
    for name in ("one", "other"):
        content = content_of("mosi")
        if name == "other":
            content[b"test"] = {key: value[::-1] * -7 + 1 for key, value in content[b"test"].items()}
            content[b"test"][b"label"] = np.clip(content[b"test"][b"label"], -3, 3)
        folder = write_pickle(tmp_path / name, "mosi", content).parent
        search(tmp_path / name, *FAST, "--data_dir", str(folder), "--trials", "3", "--study", name,
               "--confirm", "none")
        trials = study_of(folder / f"search/{name}.journal", name).trials
        results.append([(trial.params, trial.value, trial.intermediate_values) for trial in trials])
    assert results[0] == results[1]


# A worker, too, reads the file that the command is in. Its third trial doesn't get beyond its second epoch.
STUCK = """
import sys, threading
import core.studies.search_worker
report = core.studies.search_worker._report
def stuck(trial, row, key):
    report(trial, row, key)
    if (trial.number, row["epoch"]) == (2, 2):
        threading.Event().wait()
core.studies.search_worker._report = stuck
from core.studies.search import main
if __name__ == "__main__":
    sys.exit(main())
"""


def test_a_killed_search_goes_on(tmp_path: Path, data: Path) -> None:
    """Kill all processes in the midst of a trial; the same command finishes the study, and the lost trial is named."""
    needs("torch")
    flags = (*FAST, "--data_dir", str(data), "--trials", "4", "--study", "k", "--epochs", "5", "--confirm", "none")
    journal, script = tmp_path / "search/k.journal", tmp_path / "stuck.py"
    script.write_text(STUCK)
    process = start(tmp_path, *flags, script=script)
    wait_for(lambda: journal.is_file() and journal.read_text().count('"intermediate_value"') == 5 + 5 + 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until_gone(process.pid)
    before = study_of(journal, "k").trials
    assert [trial.state for trial in before] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.RUNNING]
    out = search(tmp_path, *flags)
    trials = study_of(journal, "k").trials
    states = [trial.state for trial in trials]
    assert "1 lost ones given up" in out
    assert trials[:2] == before[:2], "what is finished stays as it is"
    assert states[2] == TrialState.FAIL and not trials[2].user_attrs.get("error")
    assert states.count(TrialState.FAIL) == 1
    assert states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED) == 4


def test_ctrl_c_ends_all_processes_and_keeps_the_trials(tmp_path: Path, data: Path) -> None:
    """In the midst of trials that have no end."""
    needs("torch")
    flags = (*FAST, "--data_dir", str(data), "--trials", "200", "--jobs", "2", "--study", "c", "--epochs", "1000000",
             "--patience", "1000000")
    process = start(tmp_path, *flags)
    journal = tmp_path / "search/c.journal"
    wait_for(lambda: journal.is_file() and '"intermediate_value"' in journal.read_text(), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the command
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == -signal.SIGINT
    only_error(err, "interrupted", "the same command goes on")
    wait_until_gone(process.pid)
    assert release_lost(study_of(journal, "c")) >= 1, "no worker is left"


def test_only_dead_processes_lose_their_trials(tmp_path: Path) -> None:
    study = study_of(tmp_path / "l.journal", "l")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid, host in ((os.getpid(), os.uname().nodename), (dead.pid, os.uname().nodename), (dead.pid, "elsewhere")):
        trial = study.ask()
        trial.set_user_attr("pid", pid)
        trial.set_user_attr("host", host)
    assert release_lost(study) == 1
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING]
    assert not enough(Task("torch", "", "l", {}, 1, 0), study), "a lost trial isn't one of those asked for"


def test_a_diverged_trial_counts_and_doesnt_stop_the_rest(tmp_path: Path, data: Path,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss of NaN in every trial: each is marked as failed and says why, and the search comes to its end."""
    broken = Scripted([1.0], broken=(0, 1, float("nan")))
    monkeypatch.setattr("core.studies.search_worker.open_session", lambda *arguments: broken)
    fixed = {"dataset": "mosi", "data_dir": str(data), "modalities": "audio", "epochs": 1}
    task = Task("torch", str(tmp_path / "d.journal"), "d", fixed, 3, 0)
    work(task, 0)
    trials = study_of(tmp_path / "d.journal", "d").trials
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 3
    assert all("training loss of step 2 of 3 is nan" in trial.user_attrs["error"] for trial in trials)


REFUSED: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("--dataset", "mosi", "--trials", "0"), ("--trials 0", "at least 1")),
    (("--dataset", "mosi", "--jobs", "two"), ("--jobs two", "whole number")),
    (("--dataset", "mosi", "--seed", "3"), ("seed = '3'", "--search_seed")),
    (("--dataset", "mosi", "--backend", "jax"), ("--backend jax", "torch, mindspore, paddle")),
    (("--dataset", "mosi", "--rank", "0"), ("rank = '0'", "--rank")),
    (("--dataset", "mosi", "--frozen", "nothing"), ("frozen: no trained parameter 'nothing'", "fusion_weights")),
    (("--dataset", "mosi", "--model", "tfn", "--rank", "8"), ("rank = 8: tfn has no rank", "lmf (from --rank)")),
    (("--dataset", "mosi", "--selection_direction", "max"), ("selection_direction = 'max' (from --selection_direct",)),
    (("--dataset", "mosi", "--confirm", "8"), ("--confirm 8", "8x5")),
    (("--dataset", "mosi", "--storage", "nosuch://x/y"), ("--storage nosuch://x/y", "can't be opened")),
    (("--dataset", "mosi", "--storage", "postgresql+psycopg2://127.0.0.1:1/x"), ("can't be opened", "127.0.0.1")),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED, ids=lambda value: " ".join(value)[:30])
def test_mistakes_are_one_line(flags: tuple[str, ...], words: tuple[str, ...], data: Path, tmp_path: Path,
                               capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*flags, "--data_dir", str(data)]) == 2
    only_error(capsys.readouterr().err, *words)


def test_another_search_under_the_same_name_is_refused(finished: tuple[Path, str], data: Path, tmp_path: Path) -> None:
    folder, _ = finished
    shutil.copytree(folder / "search", tmp_path / "search")
    base = [*FAST, "--data_dir", str(data), "--trials", "6", "--study", "s", "--search_seed", "40"]
    only_error(search(tmp_path, *base, "--patience", "3", code=2), "another fixed", "patience")
    only_error(search(tmp_path, *base, "--rank", "4", code=2), "another space", "rank")
    other = write_pickle(tmp_path / "data", "mosi", content_of("mosi", seed=5)).parent
    only_error(search(tmp_path, *base, "--data_dir", str(other), code=2), "another data")


def test_a_study_from_before_a_key_has_its_default(finished: tuple[Path, str], data: Path, tmp_path: Path) -> None:
    folder, _ = finished
    shutil.copytree(folder / "search", tmp_path / "search")
    fixed = {"dataset": "mosi", "epochs": "2", "text_hidden": "5", "batch_size": "12", "modalities": "audio,text",
             "data_dir": str(data)}
    study = study_of(tmp_path / "search/s.journal", "s")
    study.set_user_attr("fixed", {key: value for key, value in study.user_attrs["fixed"].items() if key != "frozen"})
    for frozen in ("", "fusion_bias"):
        task = Task("torch", "", "s", {**fixed, "frozen": frozen}, 6, 40)
        config = base_config(task)
        arguments = study, task, search_space(config, task.fixed), for_selection(load_dataset(config))
        if frozen:
            with pytest.raises(UserError, match=r"another fixed \(frozen\)"):
                _refuse_other(*arguments)
        else:
            _refuse_other(*arguments)


BEFORE: dict[str, Any] = {  # the fixed keys of a study, as the version before models had keys of their own wrote them
    "dataset": "mosi", "emotion": None, "data": "published", "modalities": ["audio", "text"], "max_len": 20,
    "synthetic_seed": 0, "model": "lmf", "video_hidden": 16, "text_out": 32, "video_dropout": 0.5,
    "post_fusion_dropout": 0.5, "apply_post_fusion_dropout": False, "post_fusion_dim": 32, "output_dim": 1,
    "frozen": [], "epochs": 2, "patience": 20, "seed": 0, "device": "cpu", "precision": "float32", "amp_level": "O0",
    "loss_scale": 1.0, "threads": 1, "model_path": None,
}


@pytest.mark.parametrize(("more", "changed"), [
    ({}, ""), ({"post_fusion_dim": 8}, ""), ({"patience": 3}, "patience"), ({"model": "tfn"}, "model")])
def test_a_study_of_an_earlier_version_goes_on(more: dict[str, Any], changed: str, data: Path, tmp_path: Path) -> None:
    """It lacks the keys that came later, and holds those of other models, which decided nothing."""
    fixed = {"dataset": "mosi", "epochs": 2, "modalities": "audio,text", "data_dir": str(data)}
    task = Task("torch", str(tmp_path / "s.journal"), "s", fixed, 6, 40)
    config = base_config(task)
    study, space, dataset = open_study(task), search_space(config, task.fixed), for_selection(load_dataset(config))
    for key, value in {"data": dataset.fingerprint, "space": space, "fixed": {**BEFORE, **more}}.items():
        study.set_user_attr(key, value)
    if changed:
        with pytest.raises(UserError, match=rf"was begun with another fixed \({changed}"):
            _refuse_other(study, task, space, dataset)
    else:
        _refuse_other(study, task, space, dataset)
        assert study.user_attrs["fixed"]["loss"] == "l1" and "post_fusion_dim" not in study.user_attrs["fixed"]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a PostgreSQL server on loopback that lives as long as these tests."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL is not installed; install it with: apt-get install postgresql")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed; install it with: pip install '.[postgres]'")
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # initdb refuses to run as root
    folder = Path(subprocess.run([*as_user, "mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    tools, cluster, port = found[-1].parent, folder / "cluster", 55432 + os.getpid() % 5000

    def call(*command: Any) -> None:
        done = subprocess.run([*as_user, *map(str, command)], capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr

    call(tools / "initdb", "-D", cluster, "-A", "trust", "-U", "search")
    call(tools / "pg_ctl", "-D", cluster, "-w", "-l", folder / "log", "-o",
         f"-p {port} -k {folder} -c listen_addresses=127.0.0.1", "start")
    try:
        call(tools / "createdb", "-h", "127.0.0.1", "-p", port, "-U", "search", "search")
        yield f"postgresql+psycopg2://search@127.0.0.1:{port}/search"
    finally:
        call(tools / "pg_ctl", "-D", cluster, "-m", "immediate", "stop")
        call("rm", "-r", folder)


def test_machines_share_a_database(database: str, data: Path, tmp_path: Path) -> None:
    """Two commands, as on two machines, with one PostgreSQL study: each does part of the trials, and they find the
    same setting: both have the mean of all runs, whoever did them.
    """
    needs("torch")
    flags = (*FAST, "--data_dir", str(data), "--trials", "6", "--study", "db", "--storage", database,
             "--confirm", "1x2")
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    running = [start(folder, *flags) for folder in folders]
    outs = [process.communicate(timeout=HANG) for process in running]
    assert [process.returncode for process in running] == [0, 0], outs
    trials = study_of(database, "db").trials
    assert len(trials) in (6, 7) and len({trial.user_attrs["pid"] for trial in trials}) == 2
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    runs = open_confirmation(Task("torch", database, "db", {}, 0, 0)).get_trials(states=(TrialState.COMPLETE,))
    losses: dict[int | None, dict[int, float]] = {}  # a run that both did counts once
    for run in runs:
        losses.setdefault(run.user_attrs["trial"], {})[run.user_attrs["seed"]] = run.value or 99.0
    assert len(losses) == 2 and {len(found) for found in losses.values()} == {2}
    best = min(losses, key=lambda trial: np.mean(list(losses[trial].values())))
    chosen = next(run.user_attrs["params"] for run in runs if run.user_attrs["trial"] == best)
    for folder in folders:
        assert chosen.items() <= read_yaml(folder / "search/db.yaml").items()


@pytest.mark.parametrize("backend", ["mindspore", "paddle"])
def test_every_backend_makes_the_same_search(backend: str, data: Path, tmp_path: Path) -> None:
    """One worker's first trials are drawn from the search seed alone. Their losses, of float32 runs of two epochs,
    differ by rounding: measured at most 9e-9, and a hundred times that is allowed.
    """
    needs("torch")
    needs(backend)
    found = {}
    for name in ("torch", backend):
        search(tmp_path, *FAST, "--data_dir", str(data), "--trials", "2", "--study", name, "--backend", name,
               "--confirm", "none")
        found[name] = study_of(tmp_path / f"search/{name}.journal", name).trials
    for mine, reference in zip(found[backend], found["torch"], strict=True):
        assert mine.params == reference.params and mine.user_attrs["backend"] == backend
        assert mine.value == pytest.approx(reference.value, rel=1e-6)
