"""Files that runs and plans leave, damaged: each gets one line that names it, the key and the way out."""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from core.commands import main as command
from core.common.errors import UserError, one_line
from core.config.flags import read_count, read_saved
from core.data.tables import TABLES
from core.studies.tables.figures import classes, rounded, sign
from core.studies.tables.plan import Job, load_plan, run_path
from core.studies.tables.report import main
from core.studies.tables.request import MOST_SEEDS, read_seeds
from core.studies.tables.results import load_entries
from tests.running import only_error
from tests.table_folders import finish, job, plan

RUN = "runs/mosi-mosi-lmf-audio+video+text--published-torch-seed1"
DEEP, LONG = "[" * 100_000, "9" * 5000
DAMAGES: list[tuple[str, Callable[[str], str], str]] = [
    ("plan.json", lambda text: "", "it is not JSON"),
    ("plan.json", lambda text: "[]", "isn't what was written there"),
    ("plan.json", lambda text: "{}", "(cells: Field required)"),
    ("plan.json", lambda text: DEEP, "can't be read"),
    ("plan.json", lambda text: text.replace('"seed": 1', '"seed": ' + LONG), "can't be read"),
    ("plan.json", lambda text: text.replace('"seed": 1,', '"seed": "x",', 1), "(cells.0.seed = 'x'"),
    ("plan.json", lambda text: text.replace('"seed": 1,', '"seed": 2,', 1), "contradicts itself"),
    ("plan.json", lambda text: text.replace('"backend": "torch"', '"backend": "jax"'), "contradicts itself"),
    ("plan.json", lambda text: text.replace('"run": "', '"run": "../'), "contradicts itself"),
    ("plan.json", lambda text: text.replace('"run": "', '"run": "' + "a" * 5000), "contradicts itself"),
    ("plan.json", lambda text: text.replace('"table": "mosi"', '"table": "\\u001b[31m"'), r"\x1b[31m"),
    ("plan.json", lambda text: text.replace('"dataset": "mosi"', '"dataset": 5'), "has dataset = 5"),
    ("failures.json", lambda text: "{}", "isn't what was written there"),
    ("failures.json", lambda text: '[{"run": 5}]', "(0.run = 5"),
    ("failures.json", lambda text: "garbage", "it is not JSON"),
    (f"{RUN}/metrics.json", lambda text: text.replace('"best_epoch": 3', '"best_epoch": null'), "(best_epoch = None"),
    (f"{RUN}/metrics.json", lambda text: text.replace('"MAE": ', '"MAE": 1e999, "x": '), "(test.MAE = inf"),
    (f"{RUN}/metrics.json", lambda text: text.replace('"MAE": ', '"MAE": NaN, "x": '), "NaN is no number"),
    (f"{RUN}/metrics.json", lambda text: text.replace('"MAE": ', '"MAE": "low", "x": '), "(test.MAE = 'low'"),
    (f"{RUN}/metrics.json", lambda text: text.replace('"notes": []', '"notes": 5'), "(notes = 5"),
    (f"{RUN}/run.json", lambda text: "[]", "isn't what was written there"),
    (f"{RUN}/run.json", lambda text: '{"data_fingerprint": 5}', "(data_fingerprint = 5"),
    (f"{RUN}/run.json", lambda text: '{"data_fingerprint": "f", "versions": {"a": 1}}', "(versions.a = 1"),
    (f"{RUN}/history.jsonl", lambda text: "", "isn't what was written there"),
    (f"{RUN}/history.jsonl", lambda text: text + "garbage\n", "line 6: can't be read"),
    (f"{RUN}/history.jsonl", lambda text: text + DEEP, "line 6: can't be read"),
    (f"{RUN}/history.jsonl", lambda text: text.replace('"valid_loss"', '"loss"'), "(0.valid_loss: Field required)"),
    (f"{RUN}/history.jsonl", lambda text: text.replace('"epoch": 1', '"epoch": "one"'), "(0.epoch = 'one'"),
    (f"{RUN}/predictions_test.csv", lambda text: "", "can't be read"),
    (f"{RUN}/predictions_test.csv", lambda text: text.replace("sentiment", "mood"), "has no column"),
    (f"{RUN}/predictions_test.csv", lambda text: text.replace(".", "x", 1), "has no column"),
    (f"{RUN}/predictions_test.csv", lambda text: text.splitlines()[0] + f"\n0,{LONG},{LONG}\n", "has no column"),
]


def write(folder: Path) -> Job:
    one = job("mosi")
    plan(folder, one)
    finish(folder, one, predictions=True)
    return one


@pytest.mark.parametrize(("file", "damage", "words"), DAMAGES)
def test_a_damaged_file_gets_one_line(file: str, damage: Callable[[str], str], words: str, tmp_path: Path,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    path = tmp_path / file
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    assert main([str(tmp_path)]) == 2
    assert len(only_error(capsys.readouterr().err, str(path), words, ";")) < 1000


@pytest.mark.parametrize("file", ["plan.json", "failures.json", f"{RUN}/run.json", f"{RUN}/history.jsonl"])
def test_a_pipe_is_no_file(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Opened, it would wait for a writer."""
    write(tmp_path)
    (tmp_path / file).unlink()
    os.mkfifo(tmp_path / file)
    if file != "failures.json":  # without one nothing failed
        assert main([str(tmp_path)]) == 2
        only_error(capsys.readouterr().err, str(tmp_path / file), "no regular file")
    else:
        assert load_entries(tmp_path)


def test_classes_of_another_table(tmp_path: Path) -> None:
    one = job("iemocap", "happy")
    plan(tmp_path, one)
    finish(tmp_path, one, predictions=True)
    path = run_path(tmp_path, one.run) / "predictions_test.csv"
    run = load_entries(tmp_path)[0].run
    assert run is not None
    classes(run)
    text = path.read_text()
    for damaged in (text.replace(",happy,", ",glad,"), text.replace("predicted", "found"), text.replace("p_", "q_"),
                    text.replace(",label", ",truth")):
        assert damaged != text
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"predictions_test\.csv: (its labels|has no column)"):
            classes(run)


def test_what_is_sound_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    run = load_entries(tmp_path)[0].run
    assert run is not None and len(run.history()) == 5 and load_plan(tmp_path)[0].seed == 1
    assert sign(run, TABLES["mosi"])[1].sum() == rounded(run, TABLES["mosi"])[1].sum() == len(run.predictions())


def test_the_configuration_of_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.commands.missing_reason", lambda backend: None)
    (tmp_path / "config.yaml").write_text("dataset: mosi\nrank: many\n")
    with pytest.raises(UserError, match=r"config\.yaml"):
        read_saved(tmp_path)
    assert command("train", "torch", ["--resume", str(tmp_path)]) == 2
    only_error(capsys.readouterr().err, "rank = 'many'", str(tmp_path / "config.yaml"))


@pytest.mark.parametrize("text", ["9" * 5000, "-1", "1e3", "²", "٣" * 5000, ""])
def test_counts_and_seeds_of_any_length(text: str) -> None:
    for read in (lambda: read_count(text, "jobs"), lambda: read_seeds(text), lambda: read_seeds(f"1-{text}")):
        with pytest.raises(UserError) as error:
            read()
        assert len(one_line(error.value)) < 2000


def test_seeds_are_limited_in_all() -> None:
    assert len(read_seeds(f"1-{MOST_SEEDS}")) == MOST_SEEDS
    with pytest.raises(UserError, match=f"more than {MOST_SEEDS} seeds"):
        read_seeds(f"1-{MOST_SEEDS},{MOST_SEEDS + 1}-{2 * MOST_SEEDS}")


def test_names_too_long_for_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.commands.missing_reason", lambda backend: None)
    name, calls = "x" * 5000, [("train", "--resume", "not a run folder"),
                               ("train", "--config", "can't be read (File name too long)"),
                               ("evaluate", "--checkpoint", "no such checkpoint file")]
    for action, flag, words in calls:
        assert command(action, "torch", [flag, name]) == 2
        only_error(capsys.readouterr().err, words)
    assert command("train", "torch", ["--dataset", "mosi", "--data_dir", name]) == 2
    only_error(capsys.readouterr().err, "data_dir", "too long for a path")
