"""The registry of backends, which imports one only when asked. What a session is: core.training.session."""
from __future__ import annotations

import importlib
import importlib.util
import os

from core.common import signals
from core.common.errors import UserError
from core.config import Config
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
    reason = missing_reason(backend)
    if reason:
        raise UserError(reason)
    limit_threads(config.threads)
    with signals.at_once():
        package = importlib.import_module(f"backends.{backend}")
        if hasattr(package, "prepare"):  # what has to happen before the framework is imported
            package.prepare(config)
        module = importlib.import_module(f"backends.{backend}.session")
        session: Session = module.open_session(graph, config)
    return session


def limit_threads(threads: int) -> None:
    """Say the thread count to the native libraries. They read it once, when first imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
