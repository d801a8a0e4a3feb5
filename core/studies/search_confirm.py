"""What follows the trials of a search: its best settings and the default one again, with seeds that no trial had.

A trial is one run with one seed, so the best of many owes its place to luck as well. What is chosen here has the lowest
mean over seeds that were not looked at before. The runs are a study of their own beside the search's, in its storage.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from rich import box
from rich.table import Table

from core.common.errors import RunFailed, UserError
from core.config import make_config
from core.console import console
from core.data import load_dataset
from core.runtime.worker import tell
from core.studies.journal import AGAIN, check_study, naming_the_fault
from core.studies.search_space import Space, default_setting
from core.studies.search_worker import Task, base_config, open_storage, release_lost, train_setting
from core.studies.tables.statistics import interval
from core.training.selection import Selection, for_selection, rank, selection_of

FIRST_SEED = 10**9  # the search's own seed is added, as it is for trials: no search has so many of them

Attributes = Mapping[str, Any]  # of one run: `params`, `seed`, and the `trial` that they are from
RunAll = Callable[[int, int, Sequence[Attributes]], None]


@dataclass(frozen=True)
class Setting:
    """Values of the searched keys. `trial` found them with validation loss `value`; None for the schema's defaults."""

    params: Mapping[str, Any]
    trial: int | None = None
    value: float | None = None

    @property
    def name(self) -> str:
        return "default" if self.trial is None else f"trial {self.trial}"


@dataclass(frozen=True)
class Confirmed:
    """A setting with its best validation value for each of M seeds; None where the run diverged."""

    setting: Setting
    losses: tuple[float | None, ...]

    @property
    def mean(self) -> float | None:
        """None if a run diverged: a mean of the others would reward it."""
        known = [loss for loss in self.losses if loss is not None]
        return float(np.mean(known)) if len(known) == len(self.losses) else None

    def shown(self) -> tuple[str, str]:
        """Mean and standard deviation, as text."""
        if self.mean is None:
            return f"{self.losses.count(None)} diverged", ""
        return f"{self.mean:.5f}", f"{np.std(np.asarray(self.losses, np.float64), ddof=1):.5f}"


@dataclass(frozen=True)
class Outcome:
    """All confirmed settings, the chosen one and the default one, which may be the same. sought: by which value."""

    sought: Selection
    keep: int  # how many settings were asked for
    seeds: tuple[int, ...]
    settings: tuple[Confirmed, ...]
    chosen: Confirmed
    default: Confirmed

    @property
    def compared(self) -> int:
        """How many settings the default one was up against."""
        return sum(one is not self.default and one.mean is not None for one in self.settings)

    def verdict(self) -> str:
        """Whether the chosen setting can be told from the default one, in a sentence."""
        if self.chosen is self.default:
            return f"the default setting has the {self.sought.end} mean: nothing that was found is better"
        if self.default.mean is None:
            return "the default setting has no mean to compare with"
        assert self.chosen.mean is not None
        # the best of so many on these very seeds: without Bonferroni's share, luck alone would pass for a difference
        low, high = interval(self.chosen.losses, self.default.losses, tail=0.025 / self.compared)
        better = high < 0 if self.sought.direction == "min" else low > 0
        verdict = "better than the default" if better else "can't be told from the default"
        return (f"{self.chosen.mean - self.default.mean:+.5f} against the default, paired by seed (95 % t interval, "
                f"corrected for the choice out of {self.compared}: {low:+.5f} to {high:+.5f}): {verdict}")


def read_confirm(text: str) -> tuple[int, int] | None:
    """`8x5`: how many settings, how many seeds each; None for `none` and `0`. Raises UserError."""
    if text in ("none", "0"):
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if match is None or int(match[2]) < 2:
        raise UserError(f"--confirm {text}: expected SETTINGSxSEEDS such as 8x5, with at least 2 seeds; or none")
    return int(match[1]), int(match[2])


def confirm_seeds(task: Task, count: int) -> tuple[int, ...]:
    """The seeds that every setting gets. Raises UserError where the search seed leaves no room for them."""
    seeds = tuple(FIRST_SEED + task.seed + place for place in range(count))
    make_config({**task.fixed, "seed": seeds[-1]}, {"seed": "--search_seed and --confirm"})
    return seeds


def confirm(task: Task, study: optuna.Study, space: Space, keep: int, seeds: tuple[int, ...], run_all: RunAll
            ) -> Outcome:
    """Run what is missing of `keep` settings and the default, and choose. `run_all(done, of, wanted)` starts workers.

    Raises RunFailed when no setting has a finite loss for each seed.
    """
    runs = open_confirmation(task)
    runs.set_user_attr("confirms", task.study)
    settings, default = _settings(task, study, runs, space, keep)
    wanted = [{"params": dict(setting.params), "seed": seed, "trial": setting.trial}
              for seed in seeds for setting in settings]
    missing = _missing(runs, wanted)
    console.print(f"confirmation: {_count(settings)}, {len(seeds)} seeds each: "
                  f"{len(wanted) - len(missing)} of {len(wanted)} runs done")
    elsewhere: tuple[TrialState, ...] = (TrialState.RUNNING,)  # left to others, until there is nothing else to do
    while missing:
        release_lost(runs)
        taken = {_key(trial.user_attrs) for trial in _runs(runs, TrialState.WAITING, *elsewhere)}
        for run in missing:
            if _key(run) not in taken:
                runs.enqueue_trial({}, user_attrs=dict(run))
        run_all(len(wanted) - len(missing), len(wanted), wanted)
        missing, elsewhere = _missing(runs, wanted), ()
    results = _results(runs)
    confirmed = [Confirmed(setting, tuple(results[_key({"params": setting.params, "seed": seed})] for seed in seeds))
                 for setting in settings]
    return _choose(task, keep, seeds, confirmed, default)


def open_confirmation(task: Task) -> optuna.Study:
    """The study of the runs, made on the first call. Nothing is sampled: each run is put there with its setting."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a run that failed is told of here, without its traceback
    study = optuna.create_study(study_name=f"{task.study}-confirm", storage=open_storage(task.storage),
                                sampler=optuna.samplers.RandomSampler(), pruner=optuna.pruners.NopPruner(),
                                direction=task.optimised, load_if_exists=True)
    if "space" in study.user_attrs:
        raise UserError(f"study {study.study_name} in {task.storage}: is a search, and that of the confirming runs of "
                        f"{task.study} has the same name; use another --study")
    check_study(study, task.storage, task.optimised)
    return study


def work(task: Task, worker: int, wanted: Sequence[Attributes]) -> None:
    """Do the runs that wait in the storage, as long as they are `wanted` and nobody else has finished them.

    Tells `("run", "of trial 3, seed 7", state, value)`. A run whose loss stops being finite counts as failed.
    """
    config = base_config(task)
    runs, dataset, sought = open_confirmation(task), for_selection(load_dataset(config)), selection_of(config).key
    keys = {_key(run) for run in wanted}

    def run(trial: Trial) -> float:
        given = trial.user_attrs
        if "params" not in given or _key(given) not in keys or _key(given) in _results(runs):
            raise optuna.TrialPruned
        return train_setting(
            task, trial, given["params"], given["seed"], dataset,
            lambda row: None if row[sought] is None else trial.report(row[sought], row["epoch"]))

    def after(_: optuna.Study, trial: FrozenTrial) -> None:
        if trial.state != TrialState.PRUNED:
            given = trial.user_attrs
            label = f"of {Setting({}, given['trial']).name}, seed {given['seed']}"
            tell(("run", label, trial.state.name, trial.value))

    while any(_runs(runs, TrialState.WAITING)):
        with naming_the_fault():
            runs.optimize(run, n_trials=1, catch=(RunFailed,), callbacks=[after])


def _settings(task: Task, study: optuna.Study, runs: optuna.Study, space: Space, keep: int
              ) -> tuple[list[Setting], Setting]:
    """The settings to confirm, and which of them is the default.

    Machines that help each other may see different trials end last. So the list is put into the storage, and the first
    one there counts; it belongs to a number of trials, so that more trials make a new one.
    """
    plan, defaults = [task.trials, keep], default_setting(space, task.fixed)
    while True:
        for trial in runs.get_trials(deepcopy=False):
            if trial.user_attrs.get("plan") == plan:
                settings = [Setting(**setting) for setting in trial.user_attrs["settings"]]
                default = next((setting for setting in settings if setting.params == defaults), None)
                if default is None:
                    raise UserError(f"--storage {task.storage}: study {runs.study_name}, trial {trial.number}: its "
                                    f"settings lack the default one; {AGAIN}")
                return settings, default
        best = _best(task, study, space, defaults, keep)
        runs.add_trial(create_trial(state=TrialState.FAIL, user_attrs={
            "plan": plan, "settings": [asdict(setting) for setting in best]}))


def _best(task: Task, study: optuna.Study, space: Space, defaults: Mapping[str, Any], keep: int) -> list[Setting]:
    """The `keep` best different settings of trials that were not pruned, and the default where it isn't one of them."""
    found: dict[str, Setting] = {}
    for trial in sorted(_runs(study, TrialState.COMPLETE), key=lambda trial: (task.rank(trial.value), trial.number)):
        params = {key: trial.params[key] for key in space if key in trial.params}
        found.setdefault(json.dumps(params), Setting(params, trial.number, trial.value))
    best = list(found.values())[:keep]
    return best if any(setting.params == defaults for setting in best) else [*best, Setting(defaults)]


def _runs(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=states)


def _key(run: Attributes) -> tuple[str, int]:
    """What tells runs apart: a run with the same setting and seed has the same result."""
    return json.dumps(run.get("params"), sort_keys=True), run.get("seed", -1)


def _results(runs: optuna.Study) -> dict[tuple[str, int], float | None]:
    """The value of each finished run; None where it diverged. One that was lost with its process has none."""
    return {_key(trial.user_attrs): trial.value for trial in _runs(runs, TrialState.COMPLETE, TrialState.FAIL)
            if trial.state == TrialState.COMPLETE or "error" in trial.user_attrs}


def _missing(runs: optuna.Study, wanted: Sequence[Attributes]) -> list[Attributes]:
    done = _results(runs)
    return [run for run in wanted if _key(run) not in done]


def _choose(task: Task, keep: int, seeds: tuple[int, ...], confirmed: Sequence[Confirmed], default: Setting
            ) -> Outcome:
    """The best mean; a setting that diverged with any seed is out."""
    means = [(task.rank(one.mean), place) for place, one in enumerate(confirmed) if one.mean is not None]
    if not means:
        raise RunFailed("no setting could be confirmed: each diverged with at least one seed; lower the learning rates")
    return Outcome(selection_of(base_config(task)), keep, seeds, tuple(confirmed), confirmed[min(means)[1]],
                   next(one for one in confirmed if one.setting is default))


def print_outcome(outcome: Outcome, title: str) -> None:
    """A row per setting: the trial's own value, mean and spread of the new ones, and each of them."""
    table = Table(title=f"best {outcome.sought.title} with seeds {outcome.seeds[0]} to {outcome.seeds[-1]}, {title}",
                  title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)  # fits 80 columns
    seeds = (f"seed {place + 1}" for place in range(len(outcome.seeds)))
    for name in ("trial", f"its {outcome.sought.metric}", "mean", "std", *seeds):
        table.add_column(name, justify="left" if name == "trial" else "right")
    for one in sorted(outcome.settings, key=lambda one: rank(one.mean, outcome.sought.direction)):
        value, found = one.setting.value, one.setting.trial is not None
        name = (str(one.setting.trial) if found else "") + (" default" if one is outcome.default else "")
        table.add_row(name.strip() + (" *" if one is outcome.chosen else ""), "" if value is None else f"{value:.5f}",
                      *one.shown(), *("diverged" if loss is None else f"{loss:.4f}" for loss in one.losses))
    console.print(table)
    console.print(f"* chosen; {outcome.verdict()}", soft_wrap=True)


def outcome_lines(outcome: Outcome) -> list[str]:
    """What the found file says about the choice."""
    seeds, out = outcome.seeds, sum(one.mean is None for one in outcome.settings)
    chosen, default = (" +- ".join(filter(None, one.shown())) for one in (outcome.chosen, outcome.default))
    return [
        f"Confirmed: {_count(outcome.settings)}, each with {len(seeds)} new seeds ({seeds[0]} to "
        f"{seeds[-1]}) and no pruning" + (f"; {out} left out because a run diverged" if out else "")
        + f"; chosen by the {outcome.sought.end} mean {outcome.sought.title}.",
        f"Chosen: {outcome.chosen.setting.name}, {chosen} (mean, standard deviation); default: {default}.",
        f"Verdict: {outcome.verdict()}.",
    ]


def _count(settings: Sequence[Setting | Confirmed]) -> str:
    """How many settings, in words."""
    return f"{len(settings) - 1} {'setting' if len(settings) == 2 else 'settings'} and the default"
