"""`python -m parity`: what it prints, writes and exits with."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import parity.__main__ as command
from core.common.errors import RunFailed
from core.common.guard import guarded
from core.config import make_config
from core.data import load_dataset, provenance
from parity.ladder import MIXED, PLAIN, RUNGS
from parity.runs import Record, Runs, judge_all
from tests.conftest import Run
from tests.running import HANG, SMALL, environment, needs, only_error


def compare(folder: Path, *flags: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "parity", *flags], cwd=folder, text=True, capture_output=True,
                          env=environment(folder, {}), timeout=HANG)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_two_backends_on_a_data_set_agree_on_all_rungs(data: Path, tmp_path: Path) -> None:
    """The whole command in both precisions, whole runs included; the report is one file that fetches nothing."""
    needs("torch")
    needs("paddle")
    done = compare(tmp_path, "--dataset", "iemocap", "--data_dir", str(data), *SMALL, "--epochs", "3",
                   "--backends", "torch,paddle", "--nudges", "1", "--output", "here/report.html")
    assert done.stderr == "" and "report: here/report.html" in done.stdout
    page = (tmp_path / "here" / "report.html").read_text()
    assert "No difference found" in page and page.count("<svg") == 6
    assert not re.search(r"(src|href)=\"?http|@import|<script", page)
    for word in (*PLAIN, "fusion_weights", "text_subnet.rnn.weight_hh_l0", "Acc-2", "paddlepaddle"):
        assert word in page, word
    for precision in ("float64", "float32"):
        assert f"Metrics on the test split of iemocap happy, {precision}" in page
        assert f"torch, {precision}: tensors by rungs" in page
    assert not list(tmp_path.glob("runs*")), "the compared runs leave nothing behind"
    note = "iemocap.pkl is not the published file"
    assert note in done.stdout and page.count(note) == 3, "at the top, and beside the metrics of each precision"


def test_mixed_precision_is_climbed_by_its_own_rungs(data: Path, tmp_path: Path) -> None:
    """And whole runs, beside nudges of half."""
    needs("torch")
    needs("paddle")
    done = compare(tmp_path, "--dataset", "iemocap", "--data_dir", str(data), *SMALL, "--epochs", "2", "--amp_level",
                   "O2", "--backends", "torch,paddle", "--nudges", "2")
    assert done.stderr == "" and "torch, paddle in O2 float16" in done.stdout
    page = (tmp_path / "parity.html").read_text()
    assert "No difference found" in page and "torch, O2 float16: tensors by rungs" in page
    for word in (*MIXED, "Metrics on the test split of iemocap happy, O2 float16"):
        assert word in page, word
    refused = compare(tmp_path, "--dataset", "iemocap", "--data_dir", str(data), *SMALL, "--amp_level", "O2",
                      "--backends", "torch,paddle", "--rungs", "forward", code=2)
    only_error(refused.stderr, "--rungs: unknown 'forward'", "borders")


def test_a_user_s_checkpoint_between_any_two(scored: Run, tmp_path: Path) -> None:
    """mindspore against paddle, no torch, from trained weights; their own float32 is climbed whatever is asked for."""
    needs("mindspore")
    needs("paddle")
    done = compare(tmp_path, "--checkpoint", str(scored.folder), "--backends", "mindspore,paddle",
                   "--rungs", "init,forward,gradients", "--precision", "float64")
    assert "differs" not in done.stdout
    page = (tmp_path / "parity.html").read_text()
    assert "No difference found" in page and ">torch<" not in page
    assert "paddle, float64: tensors by rungs" in page and "paddle, float32: tensors by rungs" in page


def parity(monkeypatch: pytest.MonkeyPatch, folder: Path, *flags: str) -> str:
    """The command in this process: its report."""
    monkeypatch.setattr(sys, "argv", ["parity", *SMALL, "--backends", "torch,paddle", *flags,
                                      "--output", str(folder / "report.html")])
    try:
        command.main()
    finally:
        page = (folder / "report.html").read_text()
    return page


def test_a_difference_ends_with_1_and_names_the_tensor(
        data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowed nothing, float32 layers differ from the float64 oracle: the first one is named, the report says so."""
    needs("torch")
    needs("paddle")
    monkeypatch.setitem(RUNGS, "forward", (RUNGS["forward"][0], {"float32": 0.0}))
    with pytest.raises(RunFailed, match=r"2 differences, the first: torch forward, float32: audio_subnet.norm: max a"):
        parity(monkeypatch, tmp_path, "--dataset", "mosi", "--data_dir", str(data), "--precision", "float32",
               "--rungs", "forward")
    page = (tmp_path / "report.html").read_text()
    assert "2 differences" in page and "float64" not in page


def test_the_report_says_what_is_wrong_with_the_data(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    """Synthetic data and leaking features, as the tables say it; with the metrics wherever there are any."""
    needs("torch")
    needs("paddle")
    note = "synthetic data: its scores say nothing about the published data set"
    few = ("--rungs", "sets", "--precision", "float64")
    assert note in parity(monkeypatch, tmp_path, "--dataset", "pom", "--data", "synthetic", *few)
    assert f"note: {note}" in capsys.readouterr().out
    config = make_config({"dataset": "mosi", "data_dir": str(data)})
    video = load_dataset(config).splits["train"].arrays["video"]
    monkeypatch.setitem(provenance.LEAKING, provenance.digest(video), "LEAKING: for this test")
    page = parity(monkeypatch, tmp_path, "--dataset", "mosi", "--data_dir", str(data), *few)
    assert "LEAKING: for this test" in page and note not in page
    assert "note: LEAKING: for this test" in capsys.readouterr().out


def test_help_says_what_is_done(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both precisions, and not the schema's default of float32."""
    monkeypatch.setattr(sys, "argv", ["parity", "--help"])
    with pytest.raises(SystemExit):
        command.main()
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"--precision NAME float64 or float32 alone.*?\[both\]", said)
    assert said.count("--precision NAME") == 2, "in the usage, and once below"


def record(backend: str, factor: float, nudged: str | None = None) -> Record:
    losses = factor * np.linspace(2.0, 1.0, 5)
    return Record(backend, nudged, losses, losses, losses, 5, 5, np.zeros((3, 1)), {"MAE": 1.0}, "", {}, 2.0**-50)


def judged(factors: dict[str, float]) -> Runs:
    """Runs that differ by these factors, each beside a nudged run that shows a calm one."""
    nudges = [record(name, factor * (1 + 1e-14), "audio_factor") for name, factor in factors.items()]
    return judge_all([record(*one) for one in factors.items()], nudges, "float64", "float64")


@pytest.mark.parametrize("wrong", ["torch", "mindspore", "paddle"])
def test_a_wrong_run_is_named_by_the_other_two(wrong: str) -> None:
    runs = judged({name: 1.01 if name == wrong else 1.0 for name in ("torch", "mindspore", "paddle")})
    assert runs.records[0].backend != wrong and len(runs.verdicts) == 2
    assert {verdict.backend for verdict in runs.verdicts if verdict.problems} == {wrong}
    said = [sentence for verdict in runs.verdicts for sentence in verdict.sentences("float64")]
    assert said and all(sentence.startswith(f"{wrong} run, float64: ") for sentence in said)


def test_of_two_runs_none_is_named() -> None:
    runs = judged({"torch": 1.0, "paddle": 1.01})
    assert runs.verdicts[0].accused == ("torch", "paddle")
    assert runs.verdicts[0].sentences("float64")[0].startswith("torch or paddle (one more backend would tell) run")


@pytest.mark.parametrize(("flags", "words"), [
    (("--backends", "torch"), "expected two or more"),
    (("--backends", "torch,jax"), "unknown 'jax'"),
    (("--rungs", "forwards"), "unknown 'forwards'"),
    (("--precision", "float16"), "precision"),
    (("--nudges", "many"), "--nudges many: expected a whole number"),
    (("--nudges", "0"), "--nudges 0: expected a whole number, at least 1"),
    (("--checkpoint", "nowhere"), "nowhere: no such checkpoint"),
])
def test_mistakes_get_one_line(flags: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    needs("torch")
    monkeypatch.setattr(sys, "argv", ["parity", "--dataset", "pom", "--data", "synthetic", *flags])
    assert guarded([], command.main) == 2
    only_error(capsys.readouterr().err, words)
