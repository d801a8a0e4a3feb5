"""`python -m tests.kills --kills 200`: kill -9 at random moments, go on, and compare with what was never killed.

Over every backend and data set `train`, all backends in one plan `core.reproduce`, and each backend in `core.search`.
What has to be the same: history, metrics, predictions, tensors of the checkpoints, tables; of a search, every trial
that had finished, and the losses of every trial, which are those of the same setting trained again.

Moments are drawn from --seed: of six kills one falls before the first epoch, five while something is trained. Of a
command with workers, the whole group is killed, or the command alone, or one worker. Exits with 1 on a difference.
"""
from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from core.data import load_dataset
from core.runtime.backend import BACKENDS
from core.runtime.worker import Worker
from core.studies import search
from core.studies.search_worker import Task, base_config, open_storage, run_trial
from core.training.selection import for_selection
from tests.planned import CELLS, plan_flags, wait_until_gone, workers, write_configs
from tests.running import HANG, assert_same_run, content_of, environment, heed_signals, train_flags, write_pickle

EPOCHS = ("--epochs", "60", "--patience", "60")
MOST = 6  # kills of one run: then it may come to its end
SEARCHED = ("--dataset", "mosi", "--text_hidden", "5", "--batch_size", "12", "--modalities", "audio,text", "--epochs",
            "30", "--trials", "5", "--jobs", "2", "--study", "s")


class Case:
    """A command that can be killed and given again. `here`: the folder that it works in."""

    name: str
    crew = False  # whether it has worker processes

    def command(self, here: Path) -> list[str]:
        """The module to run and its flags, to begin or to go on."""
        raise NotImplementedError

    def progress(self, here: Path) -> object:
        """Changes with every epoch that is finished."""
        raise NotImplementedError

    def look(self, here: Path) -> None:
        """After a kill. Raises AssertionError when something that was finished is lost."""

    def compare(self, here: Path, whole: Path) -> None:
        """At the end. Raises AssertionError naming what differs from the one that was never killed."""
        raise NotImplementedError


class Train(Case):
    def __init__(self, backend: str, dataset: str, data: Path) -> None:
        self.name, self.backend = f"{backend} train {dataset}", backend
        self.flags = train_flags(dataset, data, Path("runs"), *EPOCHS)

    def command(self, here: Path) -> list[str]:
        begun = any(here.glob("runs/*/config.yaml"))
        return [f"backends.{self.backend}.train", *self.flags, *(["--resume"] if begun else [])]

    def progress(self, here: Path) -> object:
        return changes(here, "runs/*/history.jsonl")

    def compare(self, here: Path, whole: Path) -> None:
        [one], [other] = ([path.parent for path in place.glob("runs/*/metrics.json")] for place in (here, whole))
        assert_same_run(one, other)


class Reproduce(Case):
    name, crew = "core.reproduce", True

    def __init__(self, configs: Path, data: Path) -> None:
        self.flags = plan_flags(configs, data, Path("out"), "--backend", ",".join(BACKENDS), "--seeds", "1", *EPOCHS,
                                "--jobs", "2", "--cells", ",".join(list(CELLS)[1:]))

    def command(self, here: Path) -> list[str]:
        return ["core.reproduce", *self.flags]

    def progress(self, here: Path) -> object:
        return changes(here, "out/runs/*/history.jsonl")

    def compare(self, here: Path, whole: Path) -> None:
        runs = sorted(path.name for path in (whole / "out/runs").iterdir())
        assert runs == sorted(path.name for path in (here / "out/runs").iterdir())
        for run in runs:
            assert_same_run(here / "out/runs" / run, whole / "out/runs" / run)
        for path in whole.glob("out/[!.]*.*"):  # the lock holds a process id
            assert path.read_bytes() == (here / "out" / path.name).read_bytes(), path.name


class Search(Case):
    crew = True

    def __init__(self, backend: str, data: Path) -> None:
        self.name, self.seen = f"{backend} core.search", dict[Path, dict[int, Any]]()
        self.flags = [*SEARCHED, "--backend", backend, "--data_dir", str(data)]

    def command(self, here: Path) -> list[str]:
        return ["core.search", *self.flags]

    def progress(self, here: Path) -> object:
        return changes(here, "search/s.journal")

    def look(self, here: Path) -> None:
        """Nothing that had finished is lost or has changed."""
        if not self.progress(here):
            return
        try:
            study = optuna.load_study(study_name="s", storage=open_storage(str(here / "search/s.journal")))
        except KeyError:  # killed before it wrote the study's name
            assert not self.seen.get(here)
            return
        now = {trial.number: trial for trial in study.trials if trial.state.is_finished()}
        for number, trial in self.seen.get(here, {}).items():
            assert now.get(number) == trial, f"trial {number} was {told(trial)}, is {told(now.get(number))}"
        self.seen[here] = now

    def compare(self, here: Path, whole: Path) -> None:
        """Which settings are tried depends on what was lost; what a setting gives doesn't."""
        self.look(here)
        task = search._task(search._parser().parse(self.flags))
        counted = [trial for trial in self.seen[here].values() if trial.state.name in ("COMPLETE", "PRUNED")]
        assert len(counted) >= task.trials and (here / "search/s.yaml").is_file()
        worker = Worker(task.backend)
        try:
            for trial in counted:
                losses: dict[int, float] = {}
                worker.run("tests.kills:again", task, trial.number, trial.params,
                           listener=lambda news, losses=losses: losses.update({news[2]: news[3]}))
                assert all(losses[epoch] == loss for epoch, loss in trial.intermediate_values.items()), \
                    f"{told(trial)}, again {losses}"
                if trial.state.name == "COMPLETE":
                    assert losses.keys() == trial.intermediate_values.keys() and trial.value == min(losses.values())
        finally:
            worker.close()


def told(trial: Any) -> str:
    """What a difference says of a trial."""
    return f"{trial.state.name} {trial.value} {trial.intermediate_values} {trial.params} {trial.user_attrs}" \
        if trial else "gone"


def again(task: Task, number: int, params: dict[str, Any]) -> float:
    """In a worker: train a trial's setting once more; tells its losses."""
    trial: Any = optuna.trial.FixedTrial(params, number)
    return run_trial(task, trial, for_selection(load_dataset(base_config(task))))


def changes(here: Path, pattern: str) -> list[tuple[str, int, int]]:
    """Which files there are, how large, written when."""
    found = []
    for path in sorted(here.glob(pattern)):
        try:
            found.append((str(path), path.stat().st_size, path.stat().st_mtime_ns))
        except FileNotFoundError:  # it is just being replaced
            continue
    return found


@dataclass
class Campaign:
    """What was done so far."""

    work: Path
    kills: int
    draw: random.Random
    numbers: Iterator[int] = field(default_factory=itertools.count)
    done: Counter[str] = field(default_factory=Counter)  # case -> kills
    how: Counter[str] = field(default_factory=Counter)  # what was killed, and when -> kills
    attempts: int = 0
    differences: list[str] = field(default_factory=list)

    def whole(self, case: Case) -> tuple[Path, float, float]:
        """Without a kill: its folder, seconds until the first epoch, and seconds from then on."""
        here = self.work / case.name.replace(" ", "-") / "whole"
        here.mkdir(parents=True)
        process, start = self._start(case, here), time.monotonic()
        first = start
        while process.poll() is None:
            if first == start and case.progress(here):
                first = time.monotonic()
            time.sleep(0.005)
        out, err = process.communicate()
        assert process.returncode == 0, f"{case.name}: exit {process.returncode}\n{out}\n{err}"
        return here, first - start, time.monotonic() - first

    def attempt(self, case: Case, whole: Path, begin: float, training: float) -> None:
        """One run with its kills, to its end."""
        self.attempts += 1  # no folder twice: a case remembers by its folder what it has seen
        here = whole.with_name(f"killed-{self.attempts}")
        here.mkdir()
        killed: list[str] = []
        try:
            while True:
                process = self._start(case, here)
                going_on = len(killed) < MOST and self.done.total() < self.kills
                victim = self._kill(case, process, here, begin, training) if going_on else ""
                out, err = process.communicate(timeout=HANG)
                wait_until_gone(process.pid)
                assert "Traceback" not in out + err, err
                if victim:
                    killed.append(victim)
                    self.done[case.name] += 1
                    self.how[victim] += 1
                case.look(here)
                if process.returncode == 0 and (not victim or "worker" in victim):  # one that had nothing to do
                    break
                expected = 1 if "worker" in victim else -signal.SIGKILL
                assert process.returncode == expected, f"exit {process.returncode}: {err}"
            case.compare(here, whole)
        except AssertionError as error:
            self.differences.append(f"{case.name} in {here}, after {', '.join(killed) or 'nothing'}: {error}")
            print(f"DIFFERS: {self.differences[-1]}", flush=True)
        else:
            shutil.rmtree(here)
        print(f"{self.done.total():4d}/{self.kills} kills: {case.name}: {', '.join(killed) or 'none'}", flush=True)

    def _start(self, case: Case, here: Path) -> subprocess.Popen[str]:
        module, *flags = case.command(here)
        return subprocess.Popen([sys.executable, "-m", module, *flags], cwd=here, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env=environment(here, {}), start_new_session=True,
                                preexec_fn=heed_signals)

    def _kill(self, case: Case, process: subprocess.Popen[str], here: Path, begin: float, training: float) -> str:
        """Kill at a random moment; what was killed, and when. Nothing where it had ended before."""
        before, start = case.progress(here), time.monotonic()
        early = self.draw.random() < 1 / 6
        moment = self.draw.uniform(0, begin) if early else self.draw.uniform(0, training / MOST)
        who = self.draw.choice(["group", "command", "worker"] if case.crew else ["process"])
        if not early:  # the clock starts with the first epoch
            while process.poll() is None and case.progress(here) == before:
                time.sleep(0.001)
            start = time.monotonic()
        while process.poll() is None and time.monotonic() < start + moment:
            time.sleep(0.001)
        if process.poll() is not None:
            return ""
        target = next(iter(workers(process.pid)), None) if who == "worker" else process.pid
        if target is None:  # there is none yet
            return ""
        if who == "group":
            os.killpg(target, signal.SIGKILL)
        else:
            os.kill(target, signal.SIGKILL)
        return f"{who} {'before an epoch' if early else 'in training'}"


def cases(work: Path) -> Iterator[Case]:
    """All of them, mixed."""
    datasets = ("mosi", "pom", "iemocap")
    for dataset in datasets:
        write_pickle(work / "data", dataset, content_of(dataset))
    yield Reproduce(write_configs(work / "configs"), work / "data")
    for place, backend in enumerate(BACKENDS):
        yield Search(backend, work / "data")
        for dataset in datasets[place:] + datasets[:place]:
            yield Train(backend, dataset, work / "data")


def main(argv: Sequence[str] | None = None) -> int:
    """1 when anything differed."""
    parser = argparse.ArgumentParser("python -m tests.kills", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="[200]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    parser.add_argument("--only", default="", help="cases whose name holds this, such as 'paddle' or 'search'")
    given = parser.parse_args(argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    work = Path(tempfile.mkdtemp(prefix="lmf-kills-"))
    campaign = Campaign(work, given.kills, random.Random(given.seed))
    known = {case: campaign.whole(case) for case in cases(work) if given.only in case.name}
    while campaign.done.total() < given.kills:
        for case, (whole, begin, training) in known.items():
            if campaign.done.total() < given.kills:
                campaign.attempt(case, whole, begin, training)
    for name, count in [*campaign.done.items(), *campaign.how.items()]:
        print(f"{count:4d}  {name}")
    print(f"{campaign.done.total()} kills, {len(campaign.differences)} differences")
    if campaign.differences:
        print(f"what differs is kept in {work}")
        return 1
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
