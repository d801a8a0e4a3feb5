"""The contract that every backend fulfils, and the registry that imports one only when asked."""
from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from core import signals
from core.config import Config
from core.errors import UserError
from core.models import ModelSpec
from core.plan import Batch, EpochPlan, EpochResult
from core.randomness import Array
from core.state import State

BACKENDS = {"torch": "torch", "mindspore": "mindspore", "paddle": "paddle"}  # backend -> module it needs


class Session(Protocol):
    """One model on one device. Arrays cross the border as NumPy, names and layouts are neutral.

    Calls are coarse, so that a backend can be fast inside: no host synchronisation within an epoch.
    """

    def load_data(self, split: str, arrays: Mapping[str, Array]) -> None:
        """Put a split on the device, once. Keys: the modalities and, where known, `label`."""

    def load_state(self, state: State) -> None:
        """Replace weights, BatchNorm statistics, Adam's moments and counters."""

    def state(self) -> State:
        """A copy of everything that the next step depends on."""

    def train_epoch(self, plan: EpochPlan) -> EpochResult:
        """Train on split `train`, step by step as planned."""

    def predict(self, split: str) -> Array:
        """Outputs (N, O) in evaluation mode, in row order: scores, or logits."""

    def forward(self, batch: Batch, train: bool) -> dict[str, Array]:
        """Named activations, as `core.oracle.forward` names them. Changes no state."""

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        """Summed loss in train mode and its gradient for every trained parameter. Changes no state."""

    def optimizer_groups(self) -> dict[str, list[str]]:
        """Names of the parameters in each optimizer group, as the framework's optimizer holds them."""

    def export(self, path: Path, form: str) -> list[Path]:
        """Write the network for deployment; returns the files. Raises UserError for an unknown form."""


def missing_reason(backend: str) -> str | None:
    """Why `backend` can't run here, in one line with the way out; None when it can. Imports nothing."""
    if importlib.util.find_spec(BACKENDS[backend]) is None:
        return f"{backend} is not installed; install it with: pip install -c constraints.txt -e '.[{backend}]'"
    return None


def open_session(backend: str, spec: ModelSpec, config: Config) -> Session:
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
        session: Session = module.open_session(spec, config)
    return session


def limit_threads(threads: int) -> None:
    """Say the thread count to the native libraries. They read it once, when first imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
