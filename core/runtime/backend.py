"""The registry of backends, which imports one only when asked. What a session is: core.training.session."""
from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

from core.common import signals
from core.common.errors import UserError
from core.config import Config, build_graph
from core.models.graph import Graph
from core.training.session import Session

BACKENDS = {"torch": "torch", "mindspore": "mindspore", "paddle": "paddle"}  # backend -> module it needs


def missing_reason(backend: str) -> str | None:
    """Why `backend` can't run here, in one line with the way out; None when it can. Imports nothing."""
    if importlib.util.find_spec(BACKENDS[backend]) is None:
        return f"{backend} is not installed; install it with: pip install -c constraints.txt -e '.[{backend}]'"
    return None


def open_session(backend: str, graph: Graph, config: Config) -> Session:
    """Import `backend` and build its session. Raises UserError when framework or device is missing."""
    with signals.at_once():
        session: Session = _module(backend, "session", config).open_session(graph, config)
    return session


def check_device(backend: str, config: Config) -> None:
    """Raises UserError when the device is missing, or its framework, or has no kernels for the model in that precision:
    before any data is read.
    """
    if config.device != "cpu":
        with signals.at_once():
            _module(backend, "runtime", config).find_device(config.device)
            graph = build_graph(config, config.described.inputs)  # its kinds of blocks, whatever the widths
            _module(backend, "precision", config).check_precision(graph, config)


def _module(backend: str, name: str, config: Config) -> ModuleType:
    reason = missing_reason(backend)
    if reason:
        raise UserError(reason)
    limit_threads(config.threads)
    package = importlib.import_module(f"backends.{backend}")
    if hasattr(package, "prepare"):  # what has to happen before the framework is imported
        package.prepare(config)
    return importlib.import_module(f"backends.{backend}.{name}")


def limit_threads(threads: int) -> None:
    """Say the thread count to the native libraries. They read it once, when first imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
