"""The journal of a search: Optuna's file of one JSON object a line, which a full disk or a kill doesn't leave damaged.

Optuna appends to whatever is there. Half a line, left by a process that was killed or found the disk full, would so
spoil the next one, and with it the study.
"""
from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from core.common.errors import RunFailed, UserError, one_line
from core.common.files import naming_errors
from core.common.records import check_record
from core.studies.search_space import Space, drawn
from core.training.written import STUDY, TRIAL

AGAIN = "put a copy of it back, or give another --storage or --study"
BEGINNING = b'{"op_code":'  # of every line that Optuna writes


class Journal(JournalFileBackend):
    """Records are written whole or not at all. `line`: the one that is being read, counted from 1."""

    def __init__(self, path: Path) -> None:
        self.path, self.line = path, 0
        self.lock = JournalFileSymlinkLock(str(path))
        super().__init__(str(path), self.lock)
        with self._held(), open(path, "r+b", buffering=0) as file:
            self._cut(file)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        self.line = log_number_from + 1
        for log in super().read_logs(log_number_from):
            yield log
            self.line += 1

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Raises RunFailed naming the file when the disk is full; the file is then as it was."""
        raw = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with naming_errors(self.path), self._held(), open(self.path, "r+b", buffering=0) as file:
            end = self._cut(file)
            try:
                while raw:
                    raw = raw[file.write(raw):]
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Nobody else writes meanwhile, on this machine or another."""
        self.lock.acquire()
        try:
            yield
        finally:
            self.lock.release()

    def _cut(self, file: Any) -> int:
        """Remove an unfinished last line; only a writer that is gone can have left it. Returns where the file ends.

        Raises ValueError where the line isn't one of Optuna's: this is another file.
        """
        end = int(file.seek(0, os.SEEK_END))
        if end == 0:
            return 0
        file.seek(end - 1)
        if file.read(1) == b"\n":
            return end
        file.seek(0)
        kept = file.read(end).rpartition(b"\n")
        if not (kept[2].startswith(BEGINNING) or BEGINNING.startswith(kept[2])):
            raise ValueError(f"its last line {kept[2][:40]!r} is not finished")
        end = len(kept[0]) + len(kept[1])
        file.truncate(end)
        return int(file.seek(end))


def open_journal(path: Path) -> JournalStorage:
    """The journal at `path`, made where there is none. Raises UserError naming file, line and fault."""
    journal = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_garbage_at_the_end(path)
        journal = Journal(path)
        return JournalStorage(journal)
    except OSError as error:
        raise UserError(f"--storage {path}: can't be opened ({error.strerror or error}); give a file") from error
    except Exception as error:  # Optuna trusts the file: what it meets may end in any exception
        line = f"line {journal.line} of the journal" if journal else "the journal"
        fault = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UserError(f"--storage {path}: {line} is damaged ({fault}); {AGAIN}") from error


def _refuse_garbage_at_the_end(path: Path) -> None:
    """Optuna doesn't mind a last whole line that is no JSON, and would write behind it."""
    last = b""
    if path.exists() and not path.is_file():
        raise OSError("no regular file")
    if path.is_file():
        with open(path, "rb") as file:
            for line in file:
                last = line if line.endswith(b"\n") else last
    if last:
        json.loads(last)


@contextlib.contextmanager
def naming_the_fault() -> Iterator[None]:
    """Around `study.optimize`: where writing fails, Optuna ends in an AssertionError that hides why."""
    try:
        yield
    except AssertionError as error:
        cause = error.__context__
        while cause is not None and not isinstance(cause, RunFailed):
            cause = cause.__context__
        if cause is None:
            raise
        raise RunFailed(str(cause)) from error


def check_study(study: optuna.Study, place: str, direction: StudyDirection) -> optuna.Study:
    """`study`, if it and its trials are what a search writes. Raises UserError naming study, trial and fault."""
    where = f"--storage {place}: study {study.study_name}"
    if study.directions != [direction]:
        word = "minimise" if direction == StudyDirection.MINIMIZE else "maximise"
        raise UserError(f"{where}: is one of another program or selection, it doesn't {word} one value; {AGAIN}")
    check_record(study.user_attrs, STUDY, where, AGAIN)
    for trial in study.get_trials(deepcopy=False):
        here = f"{where}, trial {trial.number}"
        check_record(trial.user_attrs, TRIAL, here, AGAIN)
        values = [*(trial.values or ()), *trial.intermediate_values.values()]
        if any(type(value) not in (int, float) for value in values) \
                or any(type(step) is not int for step in trial.intermediate_values):
            raise UserError(f"{here}: has losses that are no numbers; {AGAIN}")
        if trial.state == TrialState.COMPLETE and not (trial.values and math.isfinite(trial.values[0])):
            raise UserError(f"{here}: is complete without a finite loss; {AGAIN}")
    return study


def _useful(trial: FrozenTrial, space: Space, fixed: Mapping[str, Any]) -> set[str]:
    """The keys that have a use beside the others of `trial`."""
    return set(drawn(space, fixed, lambda key, choices: trial.params.get(key, choices[0])))


def check_trials(study: optuna.Study, space: Space, fixed: Mapping[str, Any], place: str) -> None:
    """Raises UserError where a trial was drawn from another space, or a finished one lacks a key or a fact."""
    known = {key: CategoricalDistribution(choices) for key, choices in space.items()}
    for trial in study.get_trials(deepcopy=False):
        finished = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        facts = {"seed", "best_epoch"} if trial.state == TrialState.COMPLETE else {"seed"} if finished else set()
        whole = trial.distributions.items() <= known.items() and set(trial.params) == set(trial.distributions)
        if whole and finished:
            whole = set(trial.params) == _useful(trial, space, fixed)
        if not whole or not facts <= set(trial.user_attrs):
            raise UserError(f"--storage {place}: study {study.study_name}, trial {trial.number}: isn't one of this "
                            f"search (its setting{' or its ' * bool(facts)}{' or '.join(sorted(facts))}); {AGAIN}")
