"""What a person sees of a plan, and which cores its workers get."""
from __future__ import annotations

import io
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

import core.runtime.cores
from core.runtime.cores import quietest_cores, slices
from core.studies.reproduce import main
from core.studies.tables.live import Board, span
from core.studies.tables.plan import Run, distinct_runs
from core.studies.tables.pool import Event, ended_by
from tests.planned import every_framework, jobs_of, plan_flags, write_configs
from tests.running import environment

__all__ = ["every_framework"]
pytestmark = pytest.mark.usefixtures("every_framework")


def board(terminal: bool, jobs: int = 2) -> tuple[Board, list[Run], io.StringIO]:
    runs = distinct_runs(jobs_of("--table", "pom", "--cells", "confident,passionate,vivid,reserved", "--backend",
                                 "torch,paddle", "--seeds", "1"))
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=140, highlight=False)
    return Board(runs[:1], runs[1:], jobs, console), runs, text


def shown(made: Board) -> str:
    text = io.StringIO()
    Console(file=text, width=140).print(made.render())
    return text.getvalue()


def test_the_board_counts_and_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    made, runs, _ = board(terminal=False)
    monkeypatch.setattr("core.studies.tables.live.time.monotonic", lambda: 100.0)
    assert made.seconds_left() is None and "1 of 6 runs finished, time left: known after the first run" in shown(made)
    assert [run.backend for run in runs] == ["torch", "paddle"] * 3 and runs[0].cells == "confident,passionate"
    made.hear(Event("begun", runs[1]))
    assert "confident +1 lmf audio+video+text seed 1: starting" in shown(made)
    made.hear(Event("epoch", runs[1], 7, 0.8125))
    assert "seed 1: epoch 7 of at most 500, best 0.81250" in shown(made)
    made.hear(Event("finished", runs[1], 9, 0.8, seconds=40))
    made.hear(Event("finished", runs[2], 9, 0.8, seconds=10))
    made.hear(Event("begun", runs[3]))
    monkeypatch.setattr("core.studies.tables.live.time.monotonic", lambda: 112.0)
    assert made.seconds_left() == (10 + 40 + 40 - 12) / 2, "torch 10 s each, paddle 40, 12 of them spent, two workers"
    made.hear(Event("failed", runs[3], error="[red]no markup[/]"))
    assert made.seconds_left() == (10 + 40) / 2
    page = shown(made)
    assert "3 of 6 runs finished, 1 failed, about 25 s left" in page
    assert [" ".join(line.split()[1:8:2]) for line in page.splitlines() if "pom" in line] == [
        "pom torch 2/3 0", "pom paddle 1/3 1"]
    for run in runs[4:]:
        made.hear(Event("finished", run, 1, 0.5, seconds=1))
    assert re.search("5 of 6 runs finished, 1 failed *\n", shown(made))


def test_a_terminal_gets_a_table_and_a_file_gets_lines() -> None:
    for terminal in (True, False):
        made, runs, text = board(terminal)
        with made:
            made.hear(Event("finished", runs[1], 9, 0.8, seconds=40))
            made.hear(Event("failed", runs[2], error="[bold]worker died"))
        out = text.getvalue()
        assert f"3/6 {runs[2].name}: " in out and "failed: [bold]worker died" in out
        assert ("│ paddle" in re.sub(r"\x1b\[[0-9;]*m", "", out), "\x1b[" in out) == (terminal, terminal)
        assert (f"2/6 {runs[1].name}: finished in 40 s, 9 epochs, best validation loss 0.80000\n" in out) != terminal


def test_durations_in_words() -> None:
    assert [span(s) for s in (-1, 0.4, 89, 91, 5399, 5460, 90000)] == [
        "0 s", "0 s", "89 s", "2 min", "1 h 30 min", "1 h 31 min", "25 h 00 min"]
    assert [ended_by(code) for code in (-9, -11, 3, None)] == ["SIGKILL", "SIGSEGV", "exit code 3", "exit code None"]


BROKEN = """
import core.studies.tables.pool as pool
def broken(*given, **more):
    raise ValueError("two\\nlines")
pool.start_run = broken
for place in ("run", "file"):
    try:
        pool.work("torch", {"dataset": "pom"}, place)
    except Exception as error:
        open("said", "a").write(f"{type(error).__name__}: {error}\\n")
"""


def test_what_goes_wrong_in_a_worker_is_one_line_and_a_log(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    subprocess.run([sys.executable, "-c", BROKEN], cwd=tmp_path, env=environment(tmp_path, {}), check=True)
    first, second = (tmp_path / "said").read_text().splitlines()
    assert first == "RunFailed: ValueError: two lines; the traceback is in run/worker.log"
    assert "in broken" in (tmp_path / "run" / "worker.log").read_text()
    assert second.startswith("RunFailed: file: can't be written (File exists)")


def test_cores_are_shared_out_or_left_alone() -> None:
    assert slices([5, 2, 7, 0], 2, 2) == [[5, 2], [7, 0]] and slices([5, 2, 7], 3, 1) == [[5], [2], [7]]
    assert slices([5, 2, 7], 2, 2) == [] and slices([], 1, 1) == []


def test_quiet_cores_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = iter([{0: 10.0, 1: 10.0, 2: 10.0, 3: 10.0}, {0: 10.0, 1: 10.2, 2: 10.1, 3: 10.2}])
    monkeypatch.setattr(core.runtime.cores, "_idle_seconds", lambda: next(idle))
    monkeypatch.setattr(core.runtime.cores, "_pinned", lambda count: Counter({3: 1}))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    clock = iter([50.0, 50.2])
    monkeypatch.setattr("core.runtime.cores.time.monotonic", lambda: next(clock))
    assert quietest_cores(0.0) == [1, 2, 0, 3], "3 is idle now, but another program is held on it"


def test_too_few_cores_are_said(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.studies.reproduce.quietest_cores", lambda: [0, 1])
    monkeypatch.setattr("core.studies.reproduce.Pool.run", lambda self, listener: None)
    monkeypatch.setattr("core.studies.reproduce.write_all", lambda output: None)
    configs = write_configs(tmp_path / "configs")
    flags = plan_flags(configs, data, tmp_path / "out", "--jobs", "3")
    assert main(flags) == 0
    assert capsys.readouterr().err == ("warning: --jobs 3 with 1 thread(s) each: this machine gives 2 cores; "
                                       "workers share them, and runs slow each other down\n")
    assert main([*flags, "--jobs", "2"]) == 0 and capsys.readouterr().err == ""
    assert main([*flags, "--jobs", "1", "--threads", "3", "--output", str(tmp_path / "other")]) == 0
    assert "with 3 thread(s) each" in capsys.readouterr().err
