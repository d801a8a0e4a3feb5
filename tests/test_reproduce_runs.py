"""Plans as a user runs them: interrupted, killed, with a failing cell, in parallel."""
from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.common.signals import ENDING
from core.studies.reproduce import main
from core.studies.tables.plan import distinct_runs, load_plan
from tests.planned import (
    CELLS,
    EPOCHS,
    plan_flags,
    reproduce,
    run_names,
    started,
    wait_until_gone,
    workers,
    write_configs,
)
from tests.running import HANG, ROWS, assert_same_run, content_of, history, needs, only_error, wait_for, write_pickle

ENDLESS = ("--epochs", "1000000", "--patience", "1000000")


@dataclass(frozen=True)
class Whole:
    """A plan that one worker did without interruption."""

    configs: Path
    data: Path
    output: Path
    stdout: str
    names: list[str]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    needs("torch")
    folder = tmp_path_factory.mktemp("whole")
    configs = write_configs(folder / "configs")
    out, err = reproduce(folder, *plan_flags(configs, data, folder / "out"))
    assert err == ""
    return Whole(configs, data, folder / "out", out, run_names(out))


def stamps(output: Path) -> dict[str, int]:
    """When each file of every finished run was written."""
    return {str(path): path.stat().st_mtime_ns for done in output.glob("runs/*/metrics.json")
            for path in done.parent.rglob("*") if path.is_file()}


def test_a_plan_from_beginning_to_end(whole: Whole) -> None:
    jobs = load_plan(whole.output)
    assert [(job.cell, job.seed) for job in jobs] == [(cell, seed) for seed in (1, 2) for cell in CELLS]
    runs = distinct_runs(jobs)
    assert [run.cells for run in runs] == ["confident,passionate", "vivid"] * 2, "equal cells share a run"
    assert whole.names == [run.name for run in runs], "one worker keeps to the order of the plan"
    assert {path.name for path in (whole.output / "runs").iterdir()} == set(whole.names)
    assert "3 cells x 1 backend x 2 seeds = 6, 2 share a run with another cell: 4 runs, 0 finished, 4 to do" \
        in whole.stdout
    assert f"4/4 {whole.names[-1]}: finished in " in whole.stdout and f", {EPOCHS} epochs, " in whole.stdout
    assert "\x1b" not in whole.stdout and "\r" not in whole.stdout, "no control characters outside a terminal"
    assert json.loads((whole.output / "failures.json").read_text()) == []
    assert f"wrote {whole.output / 'pom.md'}\n" in whole.stdout and (whole.output / "report.html").is_file()
    for name in whole.names:
        assert len(history(whole.output / "runs" / name)) == EPOCHS
        assert not (whole.output / "runs" / name / "worker.log").exists(), "nothing was said"


def test_killed_and_continued_by_two_workers(whole: Whole, tmp_path: Path) -> None:
    """kill -9 of the command in the third run's third epoch: workers end, finished runs stay, the rest is the same."""
    output = tmp_path / "out"
    flags = plan_flags(whole.configs, whole.data, output)
    third = whole.names[2]
    with started(tmp_path, *flags, DIE_AT=f"{third}/last.safetensors", DIE_COUNT="3", DIE_WHO="parent") as process:
        process.communicate(timeout=HANG)
        assert process.returncode == -signal.SIGKILL
        wait_until_gone(process.pid)
    before = stamps(output)
    assert {Path(path).parent.name for path in before} >= set(whole.names[:2])
    assert len(history(output / "runs" / third)) == 2
    out, err = reproduce(tmp_path, *flags, "--jobs", "2")
    assert err == "" or "--jobs 2" in err  # one core: a warning
    assert not list(output.rglob(".*")), "what the killed command and its worker left half-written is gone, and locks"
    assert "4 runs, 2 finished, 2 to do" in out and set(run_names(out)) == set(whole.names[2:])
    assert {path: stamp for path, stamp in stamps(output).items() if path in before} == before
    trained = json.loads((output / "runs" / third / "timing.json").read_text())["train_rows"]
    assert trained == (EPOCHS - 2) * ROWS["train"], "it went on after its second epoch"
    for name in whole.names:
        assert_same_run(output / "runs" / name, whole.output / "runs" / name)


def test_a_worker_that_dies(whole: Whole, tmp_path: Path) -> None:
    """Its run has failed, a new worker does the others, and the same command repairs it."""
    output = tmp_path / "out"
    flags = plan_flags(whole.configs, whole.data, output)
    victim = whole.names[1]
    out, err = reproduce(tmp_path, *flags, code=1, DIE_AT=f"{victim}/metrics.json")
    line = f"{victim}: its process died (SIGKILL)"
    only_error(err, "1 of 4 runs failed", line, "run the same command again")
    assert f"2/4 {victim}: failed: its process died (SIGKILL)" in out
    assert set(run_names(out)) == {*whole.names} - {victim}
    failed = json.loads((output / "failures.json").read_text())
    assert [{key: entry[key] for key in ("run", "cell", "backend", "seed")} for entry in failed] == [
        {"run": victim, "cell": "vivid", "backend": "torch", "seed": 1}]
    assert "SIGKILL" in failed[0]["error"]
    assert (output / "report.html").is_file(), "tables are made of what is finished"
    out, _ = reproduce(tmp_path, *flags)
    assert run_names(out) == [victim] and json.loads((output / "failures.json").read_text()) == []
    assert_same_run(output / "runs" / victim, whole.output / "runs" / victim)


def test_a_cell_that_fails(tmp_path: Path) -> None:
    """Validation features of 1e37 overflow where the factors may grow; the other cells come to their end."""
    needs("torch")
    content = content_of("pom")
    content[b"valid"][b"covarep"] *= 1e37
    data = write_pickle(tmp_path / "data", "pom", content).parent
    configs = write_configs(tmp_path / "configs", vivid="factor_learning_rate: 10\n")
    output = tmp_path / "out"
    out, err = reproduce(tmp_path, *plan_flags(configs, data, output), code=1)
    only_error(err, "2 of 4 runs failed", "expected a finite number", "run the same command again")
    assert out.count(": failed: epoch ") == 2 and len(run_names(out)) == 2
    failed = json.loads((output / "failures.json").read_text())
    assert [(entry["cell"], entry["seed"]) for entry in failed] == [("vivid", 1), ("vivid", 2)]
    assert all("\n" not in entry["error"] and "the validation data is at fault" in entry["error"] for entry in failed)
    assert len(list(output.glob("runs/*/metrics.json"))) == 2


def check_workers(pids: list[int]) -> None:
    """Two workers that leave signals to their parent, on a core each, with one thread."""
    assert len(pids) == 2
    status = [dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                   if ":\t" in line) for pid in pids]
    assert all(int(found["SigBlk"], 16) >> number - 1 & 1 for found in status for number in ENDING), "the parent's"
    cores = [os.sched_getaffinity(pid) for pid in pids]
    if len(os.sched_getaffinity(0)) >= 2:
        assert [len(own) for own in cores] == [1, 1] and cores[0] != cores[1], "each worker has a core of its own"
    assert all(b"OPENBLAS_NUM_THREADS=1\0" in Path(f"/proc/{pid}/environ").read_bytes() for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal(number: signal.Signals, whole: Whole, tmp_path: Path) -> None:
    """To the whole group, as a terminal sends Ctrl-C: one line, no traceback, nobody left, and the way to go on."""
    output = tmp_path / "out"
    flags = plan_flags(whole.configs, whole.data, output, *ENDLESS, "--jobs", "2")
    with started(tmp_path, *flags) as process:
        wait_for(lambda: len(list(output.glob("runs/*/last.safetensors"))) == 2, process)
        check_workers(workers(process.pid))
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=HANG)
        wait_until_gone(process.pid)
    assert process.returncode == -number
    errors = [line for line in err.splitlines() if not line.startswith("warning: --jobs 2")]
    only_error("\n".join(errors), "interrupted", "; 0 of 4 runs are finished", "with: python -m core.reproduce",
               " ".join(flags))
    assert "Traceback" not in out and not run_names(out)
    folders = list(output.glob("runs/*"))
    assert len(folders) == 2 and all((folder / "last.safetensors").is_file() for folder in folders)


def test_two_commands_in_one_folder(whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    flags = plan_flags(whole.configs, whole.data, output, *ENDLESS)
    with started(tmp_path, *flags) as process:
        wait_for((output / "plan.json").exists, process)
        assert main(flags) == 2
    only_error(capsys.readouterr().err, str(output), f"process {process.pid} is working there", "another --output")


def test_other_data_and_other_settings_are_refused(whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
                                                   ) -> None:
    output = tmp_path / "out"
    shutil.copytree(whole.output, output)
    other = write_pickle(tmp_path / "data", "pom", content_of("pom", seed=5)).parent
    assert main(plan_flags(whole.configs, other, output)) == 2
    was = json.loads((output / "runs" / whole.names[0] / "run.json").read_text())["data_fingerprint"]
    only_error(capsys.readouterr().err, whole.names[0], f"fingerprint {was[:12]}, now ", "another --output")
    assert main(plan_flags(whole.configs, whole.data, output, "--epochs", "7")) == 2
    only_error(capsys.readouterr().err, "plan.json", "pom confident", "epochs = 6", "now 7", "another --output")
    config = output / "runs" / whole.names[0] / "config.yaml"
    config.write_text(config.read_text().replace("rank: 2", "rank: 9"))
    assert main(plan_flags(whole.configs, whole.data, output)) == 2
    only_error(capsys.readouterr().err, whole.names[0], "rank = 9, now 2", "another --output")
    assert stamps(output).keys() == {path.replace(str(whole.output), str(output)) for path in stamps(whole.output)}


def test_more_seeds_join_the_same_plan(whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    shutil.copytree(whole.output, output)
    before = stamps(output)
    assert main(plan_flags(whole.configs, whole.data, output, "--seeds", "1-3", "--dry_run")) == 0
    out = capsys.readouterr().out
    assert "6 runs, 4 finished, 2 to do" in out and "2/3 (with confident)" in out
    assert len(load_plan(output)) == 6 and stamps(output) == before, "a dry run changes nothing"


def test_mindspore_and_paddle(data: Path, tmp_path: Path) -> None:
    for backend in ("mindspore", "paddle"):
        needs(backend)
    configs = write_configs(tmp_path / "configs")
    flags = plan_flags(configs, data, tmp_path / "out", "--backend", "mindspore,paddle", "--seeds", "1", "--cells",
                       "vivid", "--epochs", "1")
    out, _ = reproduce(tmp_path, *flags, "--jobs", "2")
    losses = [line.rsplit(" ", 1)[1] for line in out.splitlines() if ": finished in " in line]
    assert len(losses) == 2 and losses[0][:6] == losses[1][:6], "two frameworks, one result"
    assert [job.backend for job in load_plan(tmp_path / "out")] == ["mindspore", "paddle"]
