"""`python -m core.search`: hyperparameters by validation data alone, over the schema's grid, on one or many machines.

Every worker process takes its next trial from the shared storage, so the same command on another machine, with the same
--storage and --study, helps with the same search.
"""
from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from core.common.errors import RunFailed, UserError
from core.common.files import write_text
from core.common.guard import guarded, resumable
from core.config import RUN_PLACES, all_keys, identity, make_config, own_keys, to_values
from core.config.flags import Parser, make_parser, read_count, read_values
from core.console import console
from core.data import Dataset
from core.runtime.backend import BACKENDS, limit_threads
from core.runtime.cores import quietest_cores, settle_thread, slices
from core.runtime.worker import Crew
from core.studies.defaults import plain
from core.studies.journal import check_trials
from core.studies.search_confirm import Outcome, confirm, confirm_seeds, outcome_lines, print_outcome, read_confirm
from core.studies.search_space import Space, default_setting, search_space
from core.studies.search_worker import (
    PRUNED_AFTER,
    PRUNED_FROM,
    STARTUP_TRIALS,
    Task,
    base_config,
    enough,
    open_study,
    release_lost,
)
from core.training.prepare import prepare
from core.training.run_folder import versions
from core.training.selection import Selection, for_selection, selection_of

PLANNED = ("seed", *RUN_PLACES)  # a search has no runs to name
PLACES = ("data_dir", "store_dir")  # absolute, because a worker stands elsewhere; not part of what was found


def main(argv: Sequence[str] | None = None) -> int:
    """0: done. 2: a usage or data error. 1: no trial finished. 128 + n: signal n ended it."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guarded(argv, lambda: search(_parser().parse(argv)))


def _parser() -> Parser:
    parser = make_parser("python -m core.search",
                         "Search hyperparameters by the validation value that also selects the epoch of a run "
                         "(--selection), with Optuna: TPE, median pruning. A key that is given, as a flag or in "
                         "--config, stays fixed; the test split is never used.")
    parser.add_argument("--backend", metavar="NAME", help=f"{', '.join(BACKENDS)} [torch]")
    parser.add_argument("--trials", metavar="N", help="stop when the study has this many [200]")
    parser.add_argument("--confirm", metavar="KxM",
                        help="afterwards, run the K best settings and the default one with M new seeds each and choose "
                             "by the mean; none: choose the best trial [8x5]")
    parser.add_argument("--jobs", metavar="N", help="worker processes on this machine [1]")
    parser.add_argument("--storage", metavar="PLACE",
                        help="journal file, or Optuna storage URL for many machines [search/STUDY.journal]")
    parser.add_argument("--study", metavar="NAME", help="name of the study [made of data, modalities and model]")
    parser.add_argument("--search_seed", metavar="N",
                        help="seed of the sampler; a trial trains with it + its number [0]")
    parser.add_argument("--found", metavar="FILE", help="write the best setting there, as YAML [search/STUDY.yaml]")
    return parser


def search(given: Mapping[str, Any]) -> None:
    """Run or continue a study, print its best trials, confirm them, write the chosen one as a configuration."""
    jobs, task = read_count(given.get("jobs", "1"), "jobs"), _task(given)
    confirming = read_confirm(given.get("confirm", "8x5"))
    seeds = confirm_seeds(task, confirming[1]) if confirming else ()
    config = base_config(task)
    space = search_space(config, task.fixed)
    if not default_setting(space, task.fixed):
        raise UserError("every key of the search space is fixed; leave at least one of its flags out")
    dataset = for_selection(prepare(config)[0])  # a wrong name in `frozen` is refused here, not by every worker
    study = open_study(task)
    _refuse_other(study, task, space, dataset)
    check_trials(study, space, task.fixed, task.storage)
    lost = release_lost(study)
    console.print(f"study {task.study} in {task.storage}: {len(study.trials)} trials so far, "
                  f"{len(space)} keys searched, {dataset.title}" + (f"; {lost} lost ones given up" if lost else ""))
    if not enough(task, study):
        _run_workers(task, jobs, len(study.trials), task.trials, "core.studies.search_worker:work")
    found = Path(given.get("found", f"search/{task.study}.yaml"))
    trials = sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: task.rank(trial.value))
    if not trials:
        raise RunFailed(f"study {task.study}: no trial finished; lower the learning rates or look at --debug")
    _print_best(trials[:5], space, dataset, selection_of(config))
    outcome = None
    if confirming:
        outcome = confirm(task, study, space, confirming[0], seeds, lambda done, total, wanted: _run_workers(
            task, jobs, done, total, "core.studies.search_confirm:work", wanted))
        print_outcome(outcome, dataset.title)
    write_text(found, found_file(study, task, trials[0], outcome, dataset, found))
    console.print(f"best setting: {found}")


def _task(given: Mapping[str, Any]) -> Task:
    """What the workers need, checked."""
    values, origin = read_values(given)
    for key in PLANNED:
        if key in values:
            raise UserError(f"{key} = {values[key]!r} (from {origin[key]}): a search sets it itself; leave it out"
                            + ("; --search_seed seeds the search" if key == "seed" else ""))
    for key in PLACES:
        if values.get(key):
            values[key] = str(Path(values[key]).absolute())
    backend = given.get("backend", "torch")
    if backend not in BACKENDS:
        raise UserError(f"--backend {backend}: expected one of {', '.join(BACKENDS)}")
    fixed = {"data_dir": str(Path("data").absolute()), **values}
    config = make_config(fixed, origin)
    if config.description:  # what the file says, for a worker stands elsewhere, and the found file needs no other
        fixed |= {key: to_values(config)[key] for key in ("dataset", "description")}
    natural = selection_of(make_config({**fixed, "selection_direction": "auto"}))
    if selection_of(config) != natural:
        raise UserError(f"selection_direction = {config.selection_direction!r} (from {origin['selection_direction']}): "
                        f"a search looks for the {natural.extreme}; leave it out")
    parts = [config.dataset, config.emotion, "synthetic" if config.data == "synthetic" else None,
             "_".join(config.modalities), config.model]
    name = given.get("study", "-".join(part for part in parts if part))
    storage = given.get("storage", f"search/{name}.journal")
    storage = storage if "://" in storage else str(Path(storage).absolute())
    return Task(backend, storage, name, fixed, read_count(given.get("trials", "200"), "trials"),
                read_count(given.get("search_seed", "0"), "search_seed", 0), natural.direction)


def _refuse_other(study: optuna.Study, task: Task, space: Space, dataset: Dataset) -> None:
    """A study compares what was trained alike: refuse other data, other fixed keys or another space."""
    now = {"data": dataset.fingerprint, "space": space,
           "fixed": {key: value for key, value in identity(base_config(task)).items() if key not in space}}
    if "confirms" in study.user_attrs:
        raise UserError(f"study {task.study} in {task.storage}: holds the confirming runs of "
                        f"{study.user_attrs['confirms']}; use another --study")
    defaults = identity(plain(base_config(task)))  # of keys that came after the study
    now = json.loads(json.dumps(now))  # as the storage gives it back
    for key, value in now.items():
        before = study.user_attrs.get(key, value)
        if key == "fixed":
            before = {**{name: defaults[name] for name in value}, **own_keys(before)}
        if before != value:
            changed = [name for name in {**before, **value} if before.get(name) != value.get(name)] \
                if isinstance(value, dict) else [key]
            raise UserError(f"study {task.study} in {task.storage}: was begun with another {key} "
                            f"({', '.join(changed)}); use the old values or another --study")
        study.set_user_attr(key, value)


def _run_workers(task: Task, jobs: int, before: int, total: int, function: str, *arguments: Any) -> None:
    """Start the worker processes and show what they tell; raises what one of them raised.

    Each calls `function(task, number, *arguments)`; `before` of the `total` trials or runs are done.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())
    lock, best, sought = threading.Lock(), float("inf"), selection_of(base_config(task)).title
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(sought, total=total, completed=min(before, total))

        def hear(news: tuple[Any, ...]) -> None:
            nonlocal best
            if news[0] not in ("trial", "run"):
                return
            kind, number, state, value = news
            with lock:
                if task.rank(value) < best:
                    best = task.rank(value)
                    progress.update(bar, description=f"best {sought} {value:.5f}")
                shown = "" if value is None else f"  valid {value:.5f}"
                progress.console.print(f"{kind} {number:>4}  {state.lower()}{shown}")
                progress.advance(bar)

        crew = Crew()
        cores = slices(quietest_cores(), jobs, base_config(task).threads)
        limit_threads(base_config(task).threads)  # workers read it when they import NumPy

        def help_out(number: int) -> None:
            settle_thread(cores[number] if cores else ())
            worker = crew.start(task.backend)
            try:
                worker.run(function, task, number, *arguments, listener=hear)
            finally:
                crew.end(worker)

        with ThreadPoolExecutor(jobs) as pool, \
                resumable(lambda: f"finished trials are kept in {task.storage}; the same command goes on"):
            try:
                for future in [pool.submit(help_out, number) for number in range(jobs)]:
                    future.result()
            finally:  # nothing to kill when all is well; else the others would search on
                crew.stop()


def _print_best(trials: Sequence[FrozenTrial], space: Space, dataset: Dataset, sought: Selection) -> None:
    """The best trials beside each other, a row per key: so many keys fit no line."""
    table = Table(title=f"best trials by {sought.title}, {dataset.title}", title_justify="left")
    for name in ("trial", *(str(trial.number) for trial in trials)):
        table.add_column(name, justify="left" if name == "trial" else "right")
    table.add_row(sought.title, *(f"{trial.value:.5f}" for trial in trials))
    table.add_row("best epoch", *(str(trial.user_attrs["best_epoch"]) for trial in trials), end_section=True)
    for key in space:
        table.add_row(key, *(_shown(trial.params.get(key)) for trial in trials))
    console.print(table)
    for note in dataset.notes:
        console.print(f"note: {note}")


def _shown(value: Any) -> str:
    """A choice; nothing for a key that a trial had no use for."""
    if value is None:
        return ""
    return yaml.safe_dump(value).split()[0] if isinstance(value, (str, bool)) else f"{value:g}"


def found_file(study: optuna.Study, task: Task, best: FrozenTrial, outcome: Outcome | None, dataset: Dataset,
               path: Path) -> str:
    """The chosen setting as YAML, with how it was found above it; without an `outcome`, that of the `best` trial."""
    given = {key: value for key, value in to_values(base_config(task)).items()
             if key in task.fixed and key not in PLACES}
    states = Counter(trial.state.name.lower() for trial in study.trials)
    known, sought = versions(task.backend), selection_of(base_config(task))
    chosen = f", chosen by {sought.title} {best.value:.5f}" if outcome is None \
        else f", the one with the {sought.extreme}, {best.value:.5f}"
    lines = [
        f"python -m backends.{task.backend}.train --config {path}",
        f"Found by: {search_command(task, given, outcome)}",
        f"Trial {best.number} of {len(study.trials)} ({', '.join(f'{n} {s}' for s, n in sorted(states.items()))}), "
        f"run seed {best.user_attrs['seed']}{chosen} (epoch {best.user_attrs['best_epoch']}).",
        f"TPE after {STARTUP_TRIALS} random trials; median pruning from epoch {PRUNED_FROM} and {PRUNED_AFTER} trials "
        "on. The test split was not read.",
        *(outcome_lines(outcome) if outcome else ()),
        f"Data: {dataset.title}, {', '.join(f'{name} {split.rows}' for name, split in dataset.splits.items())} rows, "
        f"fingerprint {dataset.fingerprint[:12]}.",
        *(f"Note: {note}." for note in dataset.notes),
        f"Optuna {optuna.__version__}, {', '.join(f'{name} {version}' for name, version in known.items())}.",
    ]
    found = outcome.chosen.setting.params if outcome else best.params
    ordered = [*(key for key in all_keys() if key in given), *search_space(base_config(task), task.fixed)]
    keys = {key: found.get(key, given.get(key)) for key in ordered if key in found or key in given}
    keys = {key: ",".join(value) if isinstance(value, list) else value for key, value in keys.items()}
    return "".join(f"# {line}\n" for line in lines) + yaml.safe_dump(keys, sort_keys=False)


def search_command(task: Task, given: Mapping[str, Any], outcome: Outcome | None) -> str:
    """The command that makes this search."""
    flags = [f"--{key} {','.join(value) if isinstance(value, list) else value}" for key, value in given.items()]
    return " ".join(["python -m core.search", *flags, f"--backend {task.backend} --trials {task.trials}",
                     f"--confirm {f'{outcome.keep}x{len(outcome.seeds)}' if outcome else 'none'}",
                     f"--search_seed {task.seed} --data_dir DIR"])
