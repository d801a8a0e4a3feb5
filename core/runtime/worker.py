"""One process per backend: frameworks can't share one (importing Paddle first breaks MindSpore).

The parent exchanges plain values and NumPy arrays with it and never imports a framework.
"""
from __future__ import annotations

import atexit
import contextlib
import importlib
import multiprocessing
import os
import shutil
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from core.common import signals
from core.common.arrays import Array
from core.common.errors import RunFailed, UserError
from core.config import build_graph, make_config
from core.data.specs import InputSpec
from core.models.precision import Observed
from core.runtime.backend import missing_reason, open_session
from core.training.plan import Batch, EpochPlan, EpochResult
from core.training.session import Session
from core.training.state import State

Listener = Callable[[Any], None]
NAME = "lmf-worker-"
_parent: Connection | None = None  # set in a worker process


class WorkerDied(RunFailed):
    """A worker process ended in the middle of a call. `code`: its exit code, negative for a signal."""

    def __init__(self, backend: str, call: str, code: int | None) -> None:
        super().__init__(f"worker of {backend}: died with exit code {code} during {call!r}; "
                         "run the same with --debug in one process")
        self.code = code


class Worker:
    """A process that holds sessions of one backend. Raises UserError when the framework is missing."""

    def __init__(self, backend: str) -> None:
        reason = missing_reason(backend)
        if reason:
            raise UserError(reason)
        self.backend = backend
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._scratch = tempfile.TemporaryDirectory(prefix=f"lmf-{backend}-", ignore_cleanup_errors=True)
        self._process = context.Process(target=_serve, args=(child, backend, self._scratch.name),
                                        name=f"{NAME}{backend}", daemon=True)
        with signals.blocked():
            resource_tracker.ensure_running()  # its first start unblocks two of the signals
        with signals.blocked():  # they are for the parent, which ends its workers
            self._process.start()
        child.close()  # so that a dead worker reads as the end of the pipe

    def open(self, key: str, values: Mapping[str, Any], inputs: Sequence[InputSpec]) -> RemoteSession:
        """Open a session under `key`, replacing the one that was there."""
        self.call("open", key, dict(values), tuple(inputs))
        return RemoteSession(self, key)

    def run(self, function: str, *args: Any, listener: Listener | None = None) -> Any:
        """Call `module:function` in the worker, with plain values. `listener` hears what it `tell`s."""
        return self.call("run", function, *args, listener=listener)

    def call(self, *message: Any, listener: Listener | None = None) -> Any:
        """Send a call, wait for the answer. Raises what the call raised, or WorkerDied."""
        try:
            with self._noticing_death(message[0]):
                self._connection.send(message)
                kind, answer = self._connection.recv()
            while kind == "news":
                if listener:
                    listener(answer)
                with self._noticing_death(message[0]):
                    kind, answer = self._connection.recv()
        except BaseException:  # interrupted: its answer would be taken for the next call's, and close would wait for it
            self._process.kill()
            raise
        if kind == "user":
            raise UserError(answer)
        if kind == "failed":
            raise RunFailed(answer)
        return answer

    @contextlib.contextmanager
    def _noticing_death(self, call: str) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self._process.join(60)  # its end of the pipe is closed: it is ending, slowly where all cores are busy
            raise WorkerDied(self.backend, call, self._process.exitcode) from error

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):  # it has just ended by itself
            if self._process.is_alive():
                self._connection.send(("close",))
        self._process.join(30)
        self._process.kill()  # no effect on one that has ended
        self._connection.close()
        self._scratch.cleanup()

    def terminate(self) -> None:
        """Kill the process, from any thread. A call that waits for its answer then raises WorkerDied."""
        self._process.kill()


class Crew:
    """Workers that several threads start and end, and that one call ends, those too that are just being started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self.stopped = False

    def start(self, backend: str) -> Worker:
        """A new worker; once the crew was stopped, one that is dead."""
        worker = Worker(backend)
        with self._lock:
            self._workers.add(worker)
            if self.stopped:  # it was started while the others were killed
                worker.terminate()
        return worker

    def end(self, worker: Worker) -> None:
        """End a worker that has no call to answer."""
        with self._lock:
            self._workers.discard(worker)
        worker.close()

    def stop(self) -> None:
        """Kill them all, from any thread, for good."""
        with self._lock:
            self.stopped = True
            for worker in self._workers:
                worker.terminate()


class RemoteSession:
    """A session that lives in a worker: core.training.session.Session, each call one message there and back."""

    def __init__(self, worker: Worker, key: str) -> None:
        self._worker, self._key = worker, key

    def load_data(self, split: str, arrays: Mapping[str, Array]) -> None:
        self._call("load_data", split, arrays)

    def load_state(self, state: State) -> None:
        self._call("load_state", state)

    def state(self) -> State:
        found: State = self._call("state")
        return found

    def train_epoch(self, plan: EpochPlan) -> EpochResult:
        result: EpochResult = self._call("train_epoch", plan)
        return result

    def predict(self, split: str) -> Array:
        output: Array = self._call("predict", split)
        return output

    def forward(self, batch: Batch, train: bool) -> dict[str, Array]:
        layers: dict[str, Array] = self._call("forward", batch, train)
        return layers

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        found: tuple[float, dict[str, Array]] = self._call("gradients", batch)
        return found

    def optimizer_groups(self) -> dict[str, list[str]]:
        groups: dict[str, list[str]] = self._call("optimizer_groups")
        return groups

    def observed(self) -> Observed:
        found: Observed = self._call("observed")
        return found

    def export(self, path: Path, form: str) -> list[Path]:
        files: list[Path] = self._call("export", path, form)
        return files

    def _call(self, method: str, *args: Any) -> Any:
        return self._worker.call("session", self._key, method, *args)


@atexit.register
def _kill_workers() -> None:
    """At exit no worker is left but one whose start was interrupted. multiprocessing would send it a signal that it has
    blocked, and wait.
    """
    for process in multiprocessing.active_children():
        if process.name.startswith(NAME):
            process.kill()


def tell(news: Any) -> None:
    """Within a worker: report progress of the running call to the parent's listener."""
    if _parent is not None:
        _parent.send(("news", news))


def _serve(connection: Connection, backend: str, scratch: str) -> None:
    """The worker's loop. It runs in a scratch folder: MindSpore writes files where it stands."""
    global _parent
    _parent = connection
    os.chdir(scratch)
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    sessions: dict[str, Session] = {}
    while True:
        try:
            message = connection.recv()
            if message[0] == "close":
                return
            connection.send(_answer(backend, sessions, message))
        except (EOFError, ConnectionError):  # the parent is gone
            return


def _end_with_parent(scratch: str) -> None:
    """End this process when its parent has ended, however that came: nobody waits for the answer any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in a worker
    wait([parent.sentinel])
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(1)


def _answer(backend: str, sessions: dict[str, Session], message: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        if message[0] == "open":
            _, key, values, inputs = message
            config = make_config(values)
            sessions[key] = open_session(backend, build_graph(config, inputs), config)
            return "ok", None
        if message[0] == "run":
            module, function = message[1].split(":")
            return "ok", getattr(importlib.import_module(module), function)(*message[2:])
        _, key, method, *args = message
        return "ok", getattr(sessions[key], method)(*args)
    except UserError as error:
        return "user", str(error)
    except RunFailed as error:
        return "failed", str(error)
    except Exception:
        return "failed", f"worker of {backend}: {traceback.format_exc()}"
