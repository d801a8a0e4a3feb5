"""What follows the trials of a search: which settings run again, with which seeds, and which of them is chosen."""
from __future__ import annotations

import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from core.common.arrays import Array
from core.common.errors import RunFailed, UserError
from core.config import Config, make_config
from core.config.flags import read_yaml
from core.data import load_dataset
from core.models.graph import Graph
from core.studies.search import found_file
from core.studies.search import search as search_command
from core.studies.search_confirm import (
    FIRST_SEED,
    Outcome,
    confirm,
    confirm_seeds,
    open_confirmation,
    read_confirm,
    work,
)
from core.studies.search_space import search_space
from core.studies.search_worker import Task, base_config, open_study
from core.training.plan import EpochPlan, EpochResult
from core.training.state import State
from tests.running import environment, needs
from tests.test_search import FAST, search

SLOWER = (*FAST, "--epochs", "15")
Loss = Callable[[Config], float]
DEFAULT = {"audio_hidden": 16, "audio_dropout": 0.3, "rank": 4}
GOOD, BAD = {**DEFAULT, "rank": 8}, {**DEFAULT, "rank": 16}
FIXED = {"dataset": "mosi", "modalities": "audio", "epochs": 1, "batch_size": 24, "learning_rate": 0.001,
         "factor_learning_rate": 0.0005, "weight_decay": 0.0}


class Instant:
    """A session whose validation loss is a function of the configuration."""

    def __init__(self, loss: float) -> None:
        self.loss, self.label = np.float64(loss), np.zeros((1, 1))

    def load_data(self, split: str, arrays: Mapping[str, Array]) -> None:
        self.label = np.asarray(arrays["label"], np.float64)

    def load_state(self, state: State) -> None:
        pass

    def train_epoch(self, plan: EpochPlan) -> EpochResult:
        return EpochResult(np.full(len(plan.bounds), self.loss))

    def predict(self, split: str) -> Array:
        return self.label + self.loss


class Lab:
    """A study with trials that are made up, and a backend whose losses are given; `ran` holds what was trained."""

    def __init__(self, folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, trials: int = 3) -> None:
        self.task = Task("torch", str(folder / "s.journal"), "s", {**FIXED, "data_dir": str(data)}, trials, 0)
        self.space = search_space(base_config(self.task), self.task.fixed)
        self.study = open_study(self.task)
        self.loss: Loss = lambda config: 1.0
        self.ran: list[tuple[int, int]] = []  # rank, seed

        def open_session(backend: str, graph: Graph, config: Config) -> Instant:
            self.ran.append((config.rank, config.seed))
            return Instant(self.loss(config))

        monkeypatch.setattr("core.studies.search_worker.open_session", open_session)

    def add(self, params: Mapping[str, Any], value: float, state: TrialState = TrialState.COMPLETE) -> None:
        distributions = {key: CategoricalDistribution(self.space[key]) for key in params}
        self.study.add_trial(create_trial(params=dict(params), distributions=distributions, value=value, state=state,
                                          user_attrs={"seed": len(self.study.trials), "best_epoch": 1}))

    def confirm(self, keep: int = 2, seeds: int = 2, task: Task | None = None) -> Outcome:
        task, passes = task or self.task, [0]

        def run_all(done: int, total: int, wanted: Any) -> None:
            passes[0] += 1
            assert passes[0] <= 2, "the first leaves only what others have, the second nothing"
            work(task, 0, wanted)

        return confirm(task, self.study, self.space, keep, confirm_seeds(task, seeds), run_all)

    def runs(self) -> optuna.Study:
        return open_confirmation(self.task)


@pytest.fixture
def lab(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    made = Lab(tmp_path, data, monkeypatch)
    for params, value in ((BAD, 0.1), (GOOD, 0.2)):
        made.add(params, value)
    return made


def by_rank(means: Mapping[int, float], spread: float = 0.0) -> Loss:
    """The loss of a rank, and `spread` more for each next seed."""
    return lambda config: means[config.rank] + spread * (config.seed - FIRST_SEED)


def names(outcome: Outcome) -> list[str]:
    return [one.setting.name for one in outcome.settings]


def test_the_lowest_mean_is_chosen_not_the_luckiest_trial(lab: Lab) -> None:
    lab.loss = by_rank({16: 0.9, 8: 0.6, 4: 0.7}, spread=0.125)
    outcome = lab.confirm(2, 3)
    assert names(outcome) == ["trial 0", "trial 1", "default"], "in the order of the trials' own losses"
    assert outcome.chosen.setting.params == GOOD and outcome.chosen.setting.value == 0.2
    assert outcome.chosen.losses == pytest.approx([0.6, 0.725, 0.85])
    assert outcome.chosen.shown() == ("0.72500", "0.12500")
    assert outcome.default.setting.params == DEFAULT and outcome.default.mean == pytest.approx(0.825)


def test_every_setting_has_the_same_seeds_and_no_trial_has_them(lab: Lab) -> None:
    lab.confirm(2, 3)
    seeds = [10**9, 10**9 + 1, 10**9 + 2]
    assert sorted(lab.ran) == sorted((rank, seed) for rank in (4, 8, 16) for seed in seeds)
    later = Task("torch", "", "s", FIXED, 200, 7)
    assert confirm_seeds(later, 2) == (10**9 + 7, 10**9 + 8), "trial n has the seed 7 + n"


def test_candidates_are_different_settings_of_trials_that_were_not_pruned(lab: Lab) -> None:
    lab.add({**DEFAULT, "rank": 1}, 0.05, TrialState.PRUNED)
    lab.add(BAD, 0.12)
    lab.add(DEFAULT, 0.3)
    lab.add({**DEFAULT, "audio_hidden": 4}, 0.4)
    outcome = lab.confirm(3, 2)
    assert [one.setting.params for one in outcome.settings] == [BAD, GOOD, DEFAULT]
    assert outcome.default.setting.name == "trial 4", "the default was among the best: it runs once"


def test_the_default_is_chosen_where_it_is_best(lab: Lab) -> None:
    lab.loss = by_rank({16: 0.9, 8: 0.8, 4: 0.7})
    outcome = lab.confirm()
    assert outcome.chosen is outcome.default
    assert "nothing that was found is better" in outcome.verdict()


@pytest.mark.parametrize(("means", "rank", "words"), [
    ({16: 0.9, 8: 0.6, 4: 0.7}, 8, ("Chosen: trial 1, 0.60000 +- 0.00000", "default: 0.70000", "Verdict: -0.1000")),
    ({16: 0.9, 8: 0.8, 4: 0.7}, 4, ("Chosen: default, 0.70000", "Verdict: the default setting has the lowest mean")),
])
def test_the_found_file_is_the_chosen_setting(lab: Lab, means: dict[int, float], rank: int, words: tuple[str, ...],
                                              tmp_path: Path) -> None:
    """Not that of the best trial, which is named as well."""
    lab.loss = by_rank(means)
    best, dataset = lab.study.best_trial, load_dataset(base_config(lab.task))
    text = found_file(lab.study, lab.task, best, lab.confirm(), dataset, tmp_path / "f.yaml")
    (tmp_path / "f.yaml").write_text(text)
    assert best.params == BAD and make_config(read_yaml(tmp_path / "f.yaml")).rank == rank
    for part in (*words, "Trial 0 of 2 (2 complete), run seed 0, the one with the lowest validation loss, 0.10000",
                 "2 settings and the default, each with 2 new seeds (1000000000 to 1000000001)"):
        assert part in text, part


@pytest.mark.parametrize(("gap", "words"), [(0.5, "better than the default"), (0.001, "can't be told from")])
def test_the_verdict_is_a_paired_interval(lab: Lab, gap: float, words: str) -> None:
    """Differences of `gap`, `gap` + .01 and `gap` + .02 by seed: their t interval has half a width of
    t(1 - .05 / 2 / 2, 2) * .01 / sqrt(3) = 6.2053 * .0057735 = .035826, with Bonferroni's share of two settings.
    """
    lab.loss = lambda config: 1.0 if config.rank == 4 else 2.0 if config.rank == 16 \
        else 1.0 - gap - 0.01 * (config.seed - FIRST_SEED)
    verdict = lab.confirm(2, 3).verdict()
    low, high = (f"{-gap - 0.01 + sign * 0.035826:+.5f}" for sign in (-1, 1))
    assert words in verdict and low in verdict and high in verdict and "out of 2" in verdict


def test_a_setting_that_diverges_is_left_out(lab: Lab) -> None:
    lab.loss = lambda config: float("nan") if (config.rank, config.seed) == (8, FIRST_SEED + 1) else \
        {8: 0.1, 16: 0.5, 4: 0.6}[config.rank]
    outcome = lab.confirm()
    assert outcome.chosen.setting.params == BAD
    failed = outcome.settings[1]
    assert failed.setting.params == GOOD and failed.losses[1] is None and failed.shown() == ("1 diverged", "")
    assert "out of 1" in outcome.verdict(), "it was not compared either"
    lab.ran.clear()
    lab.confirm()
    assert not lab.ran, "a run that diverged is not tried again"


def test_a_default_that_diverges_is_said(lab: Lab) -> None:
    lab.loss = lambda config: float("nan") if config.rank == 4 else 0.5
    outcome = lab.confirm()
    assert outcome.default.mean is None and "no mean to compare with" in outcome.verdict()


def test_nothing_left_is_an_error(lab: Lab) -> None:
    lab.loss = lambda config: float("inf")
    with pytest.raises(RunFailed, match="each diverged"):
        lab.confirm()


def test_nothing_is_run_twice_and_more_seeds_are_added(lab: Lab) -> None:
    first = lab.confirm(2, 2)
    lab.ran.clear()
    assert lab.confirm(2, 2).settings == first.settings and not lab.ran
    lab.confirm(2, 3)
    assert sorted(lab.ran) == [(4, 10**9 + 2), (8, 10**9 + 2), (16, 10**9 + 2)]


def test_the_list_of_settings_holds_until_there_are_more_trials(lab: Lab) -> None:
    """Another machine's last trial may end after the list was made: the first one counts, for all."""
    lab.confirm()
    lab.add({**DEFAULT, "rank": 1}, 0.01)
    assert "trial 2" not in names(lab.confirm())
    more = Task(**{**vars(lab.task), "trials": 4})
    lab.ran.clear()
    assert names(lab.confirm(task=more)) == ["trial 2", "trial 0", "default"]
    assert sorted(lab.ran) == [(1, 10**9), (1, 10**9 + 1)], "what was confirmed before is known"


@pytest.mark.parametrize("host", [platform.node(), "elsewhere", None])
def test_a_lost_run_is_done_again(lab: Lab, host: str | None) -> None:
    """Of this machine: its process is gone. Of another one, or killed before it said where it is: nobody can know,
    so it is done here when nothing else is left.
    """
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lab.runs().enqueue_trial({}, user_attrs={"params": GOOD, "seed": 10**9, "trial": 1})
    lost = lab.runs().ask()
    if host:
        lost.set_user_attr("pid", dead.pid)
        lost.set_user_attr("host", host)
    outcome = lab.confirm()
    assert sorted(lab.ran) == sorted((rank, seed) for rank in (4, 8, 16) for seed in (10**9, 10**9 + 1))
    assert all(one.mean is not None for one in outcome.settings)
    state = TrialState.FAIL if host == platform.node() else TrialState.RUNNING
    assert lab.runs().trials[0].state == state


def test_what_waits_and_is_not_wanted_is_not_run(lab: Lab) -> None:
    """A larger confirmation that was interrupted leaves runs waiting; so do two machines that begin at once."""
    for seed in (10**9, 10**9, 10**9 + 5):
        lab.runs().enqueue_trial({}, user_attrs={"params": GOOD, "seed": seed, "trial": 1})
    lab.confirm()
    assert sorted(lab.ran) == sorted((rank, seed) for rank in (4, 8, 16) for seed in (10**9, 10**9 + 1))
    assert not lab.runs().get_trials(states=(TrialState.WAITING,))


def test_nothing_is_pruned(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run far worse than the others comes to its end, also when more of them are done than pruning asks for."""
    task = Task(**{**vars(lab.task), "fixed": {**lab.task.fixed, "epochs": 7}})
    lab.loss = by_rank({16: 90.0, 8: 0.6, 4: 0.7})
    lab.confirm(2, 5, task)
    lengths = {len(trial.intermediate_values) for trial in lab.runs().get_trials(states=(TrialState.COMPLETE,))}
    assert lengths == {7}


@pytest.mark.parametrize("text", ["8", "x", "8x1", "0x5", "-1x5", "8x5x2", "1e3x5", "8x0", ""])
def test_what_is_no_confirmation_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="SETTINGSxSEEDS such as 8x5"):
        read_confirm(text)


def test_none_and_0_switch_it_off() -> None:
    assert read_confirm("none") is None and read_confirm("0") is None and read_confirm("8x5") == (8, 5)


def test_a_search_seed_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(UserError, match="--search_seed and --confirm"):
        confirm_seeds(Task("torch", "", "s", FIXED, 1, 2**63 - 10**9), 2)


def test_runs_and_searches_don_t_mix(lab: Lab, data: Path, tmp_path: Path) -> None:
    lab.confirm()
    given = {"storage": lab.task.storage, "study": "s-confirm", "trials": "1", "data_dir": str(data),
             **{key: str(value) for key, value in FIXED.items()}}
    with pytest.raises(UserError, match="holds the confirming runs of s"):
        search_command(given)
    other = Task(**{**vars(lab.task), "study": "o"})
    open_study(Task(**{**vars(lab.task), "study": "o-confirm"})).set_user_attr("space", {})
    with pytest.raises(UserError, match=r"o-confirm in .*: is a search"):
        open_confirmation(other)


def runs_of(journal: Path, study: str) -> list[optuna.trial.FrozenTrial]:
    task = Task("torch", str(journal), study, {}, 0, 0)
    return open_confirmation(task).get_trials(states=(TrialState.COMPLETE,))


def flags_of(data: Path) -> Sequence[str]:
    return (*SLOWER, "--data_dir", str(data), "--trials", "3", "--study", "c", "--confirm", "2x2",
            "--search_seed", "40")


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, str]:
    """Three trials, and then two settings and the default with two seeds each."""
    needs("torch")
    folder = tmp_path_factory.mktemp("confirmed")
    return folder, search(folder, *flags_of(data))


def test_the_found_file_holds_both(confirmed: tuple[Path, str]) -> None:
    folder, out = confirmed
    runs = runs_of(folder / "search/c.journal", "c")
    means: dict[str, list[float]] = {}
    for trial in runs:
        means.setdefault(str(trial.user_attrs["params"]), []).append(trial.value or 0.0)
    assert len(means) == 3 and {len(values) for values in means.values()} == {2}
    best = min(means, key=lambda key: np.mean(means[key]))
    chosen = next(trial.user_attrs["params"] for trial in runs if str(trial.user_attrs["params"]) == best)
    default = next(str(trial.user_attrs["params"]) for trial in runs if trial.user_attrs["trial"] is None)
    path = folder / "search/c.yaml"
    values, text = read_yaml(path), path.read_text()
    assert {key: values[key] for key in chosen} == chosen
    make_config(values)
    for key in (best, default):
        assert f"{np.mean(means[key]):.5f} +- {np.std(means[key], ddof=1):.5f}" in text
        assert f"{np.mean(means[key]):.5f}" in out
    for words in ("2 settings and the default, each with 2 new seeds (1000000040 to 1000000041)", "--confirm 2x2",
                  "default: ", "lowest mean validation loss", "best" if best == default else "against the default"):
        assert words in text, words


def test_a_confirming_run_is_an_ordinary_run(confirmed: tuple[Path, str], data: Path, tmp_path: Path) -> None:
    folder, _ = confirmed
    run = runs_of(folder / "search/c.journal", "c")[0]
    assert run.user_attrs["seed"] == 10**9 + 40
    flags = [*SLOWER, *(f"--{key}={value}" for key, value in run.user_attrs["params"].items())]
    subprocess.run([sys.executable, "-m", "backends.torch.train", *flags, "--seed", str(10**9 + 40),
                    "--data_dir", str(data), "--output_path", str(tmp_path)],
                   cwd=tmp_path, env=environment(tmp_path, {}), check=True, capture_output=True)
    history = (tmp_path / "mosi-torch-1/history.jsonl").read_text().splitlines()
    assert min(float(line.split('"valid_loss": ')[1].split(",")[0]) for line in history) == run.value


# Runs the search, and kills it with all its processes as soon as it tells of the first confirming run.
KILLED = """
import os, signal, sys
from core.console import console
from core.studies.search import main
told = console.print
def dying(*words, **more):
    if "".join(map(str, words)).startswith("run "):
        os.killpg(0, signal.SIGKILL)
    told(*words, **more)
console.print = dying
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


def test_a_killed_confirmation_goes_on(confirmed: tuple[Path, str], data: Path, tmp_path: Path) -> None:
    """Killed amid its runs, the same command does what is missing, and writes what it writes without the kill."""
    whole, _ = confirmed
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    killed = subprocess.run([sys.executable, str(script), *flags_of(data)], cwd=tmp_path,
                            env=environment(tmp_path, {}), capture_output=True, start_new_session=True)
    assert killed.returncode == -signal.SIGKILL, killed
    journal = tmp_path / "search/c.journal"
    done = {trial.number: trial.datetime_complete for trial in runs_of(journal, "c")}
    assert done and not (tmp_path / "search/c.yaml").exists()
    search(tmp_path, *flags_of(data))
    after = runs_of(journal, "c")
    assert done.items() <= {trial.number: trial.datetime_complete for trial in after}.items(), "kept as they were"
    assert len({(str(trial.user_attrs["params"]), trial.user_attrs["seed"]) for trial in after}) == len(after) == 6
    assert (tmp_path / "search/c.yaml").read_bytes() == (whole / "search/c.yaml").read_bytes()
