"""`python -m parity`: what it prints, writes and exits with."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import parity.__main__ as command
from core.errors import RunFailed
from core.guard import guarded
from parity.ladder import RUNGS
from tests.conftest import Run
from tests.running import HANG, SMALL, environment, needs, only_error


def compare(folder: Path, *flags: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "parity", *flags], cwd=folder, text=True, capture_output=True,
                          env=environment(folder, {}), timeout=HANG)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_two_backends_on_a_data_set_agree_on_all_rungs(data: Path, tmp_path: Path) -> None:
    """The whole command, whole runs included; the report is one file that fetches nothing."""
    needs("torch")
    needs("paddle")
    done = compare(tmp_path, "--dataset", "iemocap", "--data_dir", str(data), *SMALL, "--epochs", "3",
                   "--backends", "torch,paddle", "--nudges", "1", "--output", "here/report.html")
    assert done.stderr == "" and "report: here/report.html" in done.stdout
    page = (tmp_path / "here" / "report.html").read_text()
    assert "No difference found" in page and page.count("<svg") == 3
    assert not re.search(r"(src|href)=\"?http|@import|<script", page)
    for word in (*RUNGS, "fusion_weights", "text_subnet.rnn.weight_hh_l0", "Acc-2", "float64", "paddlepaddle"):
        assert word in page, word
    assert not list(tmp_path.glob("runs*")), "the compared runs leave nothing behind"


def test_a_user_s_checkpoint_between_any_two(scored: Run, tmp_path: Path) -> None:
    """mindspore against paddle, no torch, from trained weights, in float64 unless said otherwise."""
    needs("mindspore")
    needs("paddle")
    done = compare(tmp_path, "--checkpoint", str(scored.folder), "--backends", "mindspore,paddle",
                   "--rungs", "init,forward,gradients")
    assert "differs" not in done.stdout
    page = (tmp_path / "parity.html").read_text()
    assert "No difference found" in page and "float64" in page and ">torch<" not in page


def test_a_difference_ends_with_1_and_names_the_tensor(
        data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowed nothing, float32 layers differ from the float64 oracle: the first one is named, the report says so."""
    needs("torch")
    needs("paddle")
    monkeypatch.setitem(RUNGS, "forward", (RUNGS["forward"][0], {"float32": 0.0}))
    monkeypatch.setattr(sys, "argv", ["parity", "--dataset", "mosi", "--data_dir", str(data), *SMALL, "--precision",
                                      "float32", "--backends", "torch,paddle", "--rungs", "forward",
                                      "--output", str(tmp_path / "report.html")])
    with pytest.raises(RunFailed, match=r"2 differences, the first: torch forward: audio_subnet.norm: max abs"):
        command.main()
    assert "2 differences" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("flags", "words"), [
    (("--backends", "torch"), "expected two or more"),
    (("--backends", "torch,jax"), "unknown 'jax'"),
    (("--rungs", "forwards"), "unknown 'forwards'"),
    (("--nudges", "many"), "--nudges many: expected a whole number"),
    (("--checkpoint", "nowhere"), "nowhere: no such checkpoint"),
])
def test_mistakes_get_one_line(flags: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    needs("torch")
    monkeypatch.setattr(sys, "argv", ["parity", "--dataset", "pom", "--data", "synthetic", *flags])
    assert guarded([], command.main) == 2
    only_error(capsys.readouterr().err, words)
