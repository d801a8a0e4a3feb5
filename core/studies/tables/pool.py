"""Runs in parallel worker processes, each on its own cores; one that fails or dies doesn't stop the others."""
from __future__ import annotations

import faulthandler
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.common.errors import RunFailed, UserError, one_line
from core.common.files import naming_errors
from core.config import make_config
from core.runtime.backend import limit_threads
from core.runtime.cores import settle_thread
from core.runtime.start import start_run
from core.runtime.worker import Crew, Worker, WorkerDied, tell
from core.studies.tables.plan import Run, run_path

LOG = "worker.log"  # in a run folder: what its process said; removed when that was nothing


@dataclass(frozen=True)
class Event:
    """What happens to a run. epoch: finished ones; best_loss: on validation rows; seconds: since it began here."""

    kind: Literal["begun", "epoch", "finished", "failed"]
    run: Run
    epoch: int = 0
    best_loss: float | None = None
    error: str = ""
    seconds: float = 0.0


class Pool:
    """`jobs` slots, each with one worker process at a time, which keeps its backend while there are runs for it.

    `cores`: the cores of each slot; empty: wherever the scheduler puts them.
    """

    def __init__(self, output: Path, runs: Sequence[Run], jobs: int, threads: int, cores: Sequence[Sequence[int]]
                 ) -> None:
        self._output, self._threads, self._cores = output, threads, cores
        self._slots = min(jobs, len(runs))
        self._waiting: dict[str, deque[Run]] = {}
        for run in runs:
            self._waiting.setdefault(run.backend, deque()).append(run)
        self._active: Counter[str] = Counter()
        self._crew, self._workers = Crew(), dict[int, Worker]()  # _workers: slot -> its own
        self._lock = threading.Lock()
        self._events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

    def run(self, listener: Callable[[Event], None]) -> None:
        """Work until nothing is left; `listener` gets every event, in this thread.

        When it is interrupted, or `listener` raises, every worker is killed: what they have finished is on disk.
        """
        limit_threads(self._threads)  # workers read it when they import NumPy
        slots = [threading.Thread(target=self._slot, args=(index,)) for index in range(self._slots)]
        try:
            for slot in slots:
                slot.start()
            ended = 0
            while ended < len(slots):
                event = self._events.get()
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    ended += 1
                else:
                    listener(event)
        finally:
            self._crew.stop()
            for slot in slots:
                if slot.ident is not None:  # it was started
                    slot.join()

    def _slot(self, index: int) -> None:
        """A thread, with one worker at a time."""
        settle_thread(self._cores[index] if self._cores else ())
        backend = ""
        try:
            while run := self._next(backend):
                if run.backend != backend:
                    self._end_worker(index)
                backend = run.backend
                self._do(index, run)
        except BaseException as error:
            self._events.put(error)
        finally:
            self._end_worker(index)
            self._events.put(None)

    def _next(self, backend: str) -> Run | None:
        """The next run of `backend`; where none is left, one of the backend that has most per slot."""
        with self._lock:
            self._active[backend] -= 1
            waiting = {name: runs for name, runs in self._waiting.items() if runs}
            if self._crew.stopped or not waiting:
                return None
            if backend not in waiting:
                backend = max(waiting, key=lambda name: len(waiting[name]) / (1 + self._active[name]))
            self._active[backend] += 1
            return waiting[backend].popleft()

    def _do(self, index: int, run: Run) -> None:
        """One run, to its end or failure. A worker in which something failed is not used again."""
        start = time.monotonic()
        path = run_path(self._output, run.name).absolute()
        self._events.put(Event("begun", run))

        def hear(news: tuple[int, float | None]) -> None:
            self._events.put(Event("epoch", run, *news, seconds=time.monotonic() - start))

        try:
            epochs, best = self._worker(index, run.backend).run(
                "core.studies.tables.pool:work", run.backend, dict(run.jobs[0].values), str(path), listener=hear)
        except (UserError, RunFailed) as error:
            self._end_worker(index)
            if self._crew.stopped:
                return
            said = one_line(error) if not isinstance(error, WorkerDied) else (
                f"its process died ({ended_by(error.code)}); what it said is in {path / LOG}; run the same again")
            self._events.put(Event("failed", run, error=said, seconds=time.monotonic() - start))
        else:
            self._events.put(Event("finished", run, epochs, best, seconds=time.monotonic() - start))

    def _worker(self, index: int, backend: str) -> Worker:
        if index not in self._workers:
            self._workers[index] = self._crew.start(backend)
        return self._workers[index]

    def _end_worker(self, index: int) -> None:
        worker = self._workers.pop(index, None)
        if worker:
            self._crew.end(worker)


def ended_by(code: int | None) -> str:
    """An exit code in words: negative ones are signals."""
    if code is not None and -code in list(signal.Signals):
        return signal.Signals(-code).name
    return f"exit code {code}"


def work(backend: str, values: dict[str, Any], path: str) -> tuple[int, float | None]:
    """In a worker: do or continue the run of `values` in the folder `path`. Returns epochs and best validation loss.

    Tells them after every epoch. What the process prints goes to a file in that folder: the terminal shows a table.
    Raises UserError or RunFailed, each with one line.
    """
    folder = Path(path)
    with naming_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOG, "w", encoding="utf-8") as log:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
    faulthandler.enable()
    try:
        trainer = start_run(backend, make_config(values), folder, resume=(folder / "config.yaml").is_file())
        progress = trainer.progress
        tell((progress.epoch, progress.best_loss))
        trainer.run(lambda row: tell((row["epoch"], trainer.progress.best_loss)))
    except (UserError, RunFailed):
        raise
    except Exception as error:
        traceback.print_exc()
        raise RunFailed(f"{type(error).__name__}: {one_line(error)}; the traceback is in {folder / LOG}") from error
    sys.stderr.flush()
    if (folder / LOG).stat().st_size == 0:
        (folder / LOG).unlink()
    return trainer.progress.epoch, trainer.progress.best_loss
