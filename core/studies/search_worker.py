"""What a worker process of the search does: trials, one after the other, until the study has enough."""
from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from core.common.errors import RunFailed, UserError, one_line
from core.config import Config, build_graph, make_config
from core.data import Dataset
from core.runtime.backend import open_session
from core.runtime.worker import tell
from core.studies.journal import check_study, naming_the_fault, open_journal
from core.studies.search_space import drawn, search_space
from core.training.prepare import prepare
from core.training.progress import Progress
from core.training.run_folder import Row
from core.training.selection import Selection, for_selection, rank, selection_of
from core.training.trainer import Report, Trainer

STARTUP_TRIALS = 20  # drawn at random before TPE takes over
PRUNED_FROM = 5  # epoch before which no trial is pruned
PRUNED_AFTER = 10  # trials that must have finished before one is pruned
HEARTBEAT = 60  # seconds; a database learns by it that a machine is gone


@dataclass(frozen=True)
class Task:
    """What all workers of a search share. `fixed` are the keys that the user set; seed is the search's own.

    direction: whether the lowest or the highest validation value is the best.
    """

    backend: str
    storage: str
    study: str
    fixed: Mapping[str, Any]
    trials: int
    seed: int
    direction: Literal["min", "max"] = "min"

    @property
    def optimised(self) -> StudyDirection:
        """The direction, as Optuna has it."""
        return StudyDirection.MINIMIZE if self.direction == "min" else StudyDirection.MAXIMIZE

    def rank(self, value: float | None) -> float:
        """The lower, the better; None, of a run that diverged, comes last."""
        return rank(value, self.direction)


def open_storage(place: str) -> BaseStorage:
    """A database for an URL, else a journal file. Raises UserError when it can't be opened.

    Machines that begin at the same moment all create the tables; the second time they are there.
    """
    if "://" not in place:
        return open_journal(Path(place))
    for last in (False, True):
        try:
            with warnings.catch_warnings():  # Optuna marks the heartbeat as experimental
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return RDBStorage(place, engine_kwargs={"pool_pre_ping": True}, heartbeat_interval=HEARTBEAT)
        except Exception as error:  # SQLAlchemy, its drivers and Optuna each have their own
            if last:
                reason = one_line(error)[:200]
                raise UserError(f"--storage {place}: can't be opened ({reason}); give a file, or an Optuna storage URL "
                                "such as postgresql+psycopg2://user:password@host/database") from error
            time.sleep(1)
    raise AssertionError("unreachable")


def open_study(task: Task, worker: int = 0) -> optuna.Study:
    """The study, made on the first call: TPE, and median pruning on the validation value."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a trial that failed is told of here, without its traceback
    # a worker's own seed: with one for all, workers that start together would draw the same trials
    sampler = optuna.samplers.TPESampler(seed=task.seed * 1000 + worker, n_startup_trials=STARTUP_TRIALS,
                                         constant_liar=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=PRUNED_AFTER, n_warmup_steps=PRUNED_FROM)
    study = optuna.create_study(study_name=task.study, storage=open_storage(task.storage), sampler=sampler,
                                pruner=pruner, direction=task.optimised, load_if_exists=True)
    return check_study(study, task.storage, task.optimised)


def base_config(task: Task) -> Config:
    """The configuration that every trial starts from."""
    return make_config(dict(task.fixed))


def enough(task: Task, study: optuna.Study) -> bool:
    """Whether the study holds the trials asked for. One that was lost with its process doesn't count."""
    counted = [trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or "error" in trial.user_attrs
               for trial in study.get_trials(deepcopy=False)]
    return sum(counted) >= task.trials


def release_lost(study: optuna.Study) -> int:
    """Mark trials as failed that a process of this machine left running when it ended. Returns how many.

    A journal file has no heartbeat; in a database Optuna's own finds those of other machines too.
    """
    lost = [trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if trial.user_attrs.get("host") == platform.node() and not alive(trial.user_attrs.get("pid"))]
    for number in lost:
        study.tell(number, state=TrialState.FAIL)
    return len(lost)


def alive(pid: int | None) -> bool:
    """Whether this machine has a running process of that number; one that has ended and waits for its parent hasn't."""
    if pid is None:
        return False
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except PermissionError:  # someone else's
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")  # Linux: `number (name) state ...`
    except OSError:  # another system, whose signal 0 has to do
        return True
    return stat.rpartition(")")[2].split()[0] != "Z"


def work(task: Task, worker: int) -> None:
    """Run trials until the study holds `task.trials`; several workers may finish a few more than that together.

    Tells `("epoch", trial, epoch, loss)` and `("trial", trial, state, value)`. A trial whose loss stops being finite
    counts as failed. The test split is left out before anything is trained (core.training.selection).
    """
    study, dataset = open_study(task, worker), for_selection(prepare(base_config(task))[0])

    def after(study: optuna.Study, trial: FrozenTrial) -> None:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        tell(("trial", trial.number, trial.state.name, value))
        if enough(task, study):
            study.stop()

    if not enough(task, study):
        with naming_the_fault():
            study.optimize(lambda trial: run_trial(task, trial, dataset), catch=(RunFailed,), callbacks=[after])


def run_trial(task: Task, trial: Trial, dataset: Dataset) -> float:
    """Train one setting; returns its best validation value. The run's seed is the search's plus the trial's number.

    Raises TrialPruned when it is worse than the median at that epoch, RunFailed when its loss is not finite.
    """
    config = base_config(task)
    chosen = drawn(search_space(config, task.fixed), task.fixed, trial.suggest_categorical)
    key = selection_of(config).key
    return train_setting(task, trial, chosen, task.seed + trial.number, dataset, lambda row: _report(trial, row, key))


def train_setting(task: Task, trial: Trial, chosen: Mapping[str, Any], seed: int, dataset: Dataset,
                  report: Report) -> float:
    """Train `chosen` values of the searched keys with `seed`; returns the validation value of the best epoch.

    `report` gets every epoch and may end the run by raising. Raises RunFailed when a loss is not finite, or the value
    is undefined after every epoch.
    """
    start = time.perf_counter()
    note(trial, seed=seed, backend=task.backend, pid=os.getpid(), host=platform.node())  # a host never without its pid
    config = make_config({**task.fixed, **chosen, "seed": seed})
    graph = build_graph(config, dataset.inputs)
    trainer = Trainer(open_session(task.backend, graph, config), graph, config, dataset, None, task.backend)
    trainer.load()
    try:
        progress = trainer.fit(report)
        best = best_value(selection_of(config), progress)
    except RunFailed as error:
        trial.set_user_attr("error", str(error))
        raise
    note(trial, best_epoch=progress.best_epoch, epochs=progress.epoch, parameters=graph.parameter_count,
         seconds=round(time.perf_counter() - start, 2))
    return best


def best_value(selection: Selection, progress: Progress) -> float:
    """What chose the best epoch, there. Raises RunFailed where it was undefined after every epoch."""
    if progress.best_epoch is None:
        raise RunFailed(f"validation {selection.metric} is undefined after every epoch, so none is the best; use "
                        "--selection loss")
    return float(progress.history[progress.best_epoch - 1][selection.key])


def note(trial: Trial, **facts: Any) -> None:
    """Keep `facts` with the trial, in the storage."""
    for key, value in facts.items():
        trial.set_user_attr(key, value)


def _report(trial: Trial, row: Row, key: str) -> None:
    """Of an epoch after which the value is undefined the study hears nothing."""
    if row[key] is not None:
        trial.report(row[key], row["epoch"])
    tell(("epoch", trial.number, row["epoch"], row[key]))
    if trial.should_prune():
        raise optuna.TrialPruned
