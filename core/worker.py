"""One process per backend: frameworks can't share one (importing Paddle first breaks MindSpore).

The parent exchanges plain values and NumPy arrays with it and never imports a framework.
"""
from __future__ import annotations

import importlib
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from core.backend import missing_reason, open_session
from core.config import make_config
from core.errors import RunFailed, UserError
from core.models import InputDims, build_spec

Listener = Callable[[Any], None]
_parent: Connection | None = None  # set in a worker process


class Worker:
    """A process that holds sessions of one backend. Raises UserError when the framework is missing."""

    def __init__(self, backend: str) -> None:
        reason = missing_reason(backend)
        if reason:
            raise UserError(reason)
        self.backend = backend
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, backend), daemon=True)
        self._process.start()
        child.close()  # so that a dead worker reads as the end of the pipe

    def open(self, key: str, values: Mapping[str, Any], dims: InputDims) -> RemoteSession:
        """Open a session under `key`, replacing the one that was there."""
        self.call("open", key, dict(values), dims)
        return RemoteSession(self, key)

    def run(self, function: str, *args: Any, listener: Listener | None = None) -> Any:
        """Call `module:function` in the worker, with plain values. `listener` hears what it `tell`s."""
        return self.call("run", function, *args, listener=listener)

    def call(self, *message: Any, listener: Listener | None = None) -> Any:
        """Send a call, wait for the answer. Raises what the call raised, or RunFailed if the worker died."""
        try:
            self._connection.send(message)
            kind, answer = self._connection.recv()
            while kind == "news":
                if listener:
                    listener(answer)
                kind, answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(5)
            raise RunFailed(f"worker of {self.backend}: died with exit code {self._process.exitcode} during "
                            f"{message[0]!r}; run the same with --debug in one process") from error
        if kind == "user":
            raise UserError(answer)
        if kind == "failed":
            raise RunFailed(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._connection.send(("close",))
        self._process.join(30)
        self._connection.close()


class RemoteSession:
    """A session that lives in a worker; every method of core.backend.Session, by name."""

    def __init__(self, worker: Worker, key: str) -> None:
        self._worker, self._key = worker, key

    def __getattr__(self, method: str) -> Any:
        return lambda *args: self._worker.call("session", self._key, method, *args)


def tell(news: Any) -> None:
    """Within a worker: report progress of the running call to the parent's listener."""
    if _parent is not None:
        _parent.send(("news", news))


def _serve(connection: Connection, backend: str) -> None:
    """The worker's loop. It runs in a scratch folder: MindSpore writes files where it stands."""
    global _parent
    _parent = connection
    with tempfile.TemporaryDirectory(prefix=f"lmf-{backend}-") as scratch:
        os.chdir(scratch)
        sessions: dict[str, Any] = {}
        while True:
            try:
                message = connection.recv()
            except EOFError:  # the parent is gone
                return
            if message[0] == "close":
                return
            connection.send(_answer(backend, sessions, message))


def _answer(backend: str, sessions: dict[str, Any], message: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        if message[0] == "open":
            _, key, values, dims = message
            config = make_config(values)
            sessions[key] = open_session(backend, build_spec(config, dims), config)
            return "ok", None
        if message[0] == "run":
            module, function = message[1].split(":")
            return "ok", getattr(importlib.import_module(module), function)(*message[2:])
        _, key, method, *args = message
        return "ok", getattr(sessions[key], method)(*args)
    except UserError as error:
        return "user", str(error)
    except Exception:
        return "failed", f"worker of {backend}: {traceback.format_exc()}"
