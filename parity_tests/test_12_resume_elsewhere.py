"""Rung 12: a run that moves to another framework after some epochs ends as the run that never moved."""
from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.runtime.backend import BACKENDS, missing_reason
from core.runtime.worker import Worker

VALUES = {"dataset": "pom", "data": "synthetic", "modalities": "audio,video", "epochs": 6, "batch_size": 64,
          "precision": "float64", "learning_rate": 0.003, "weight_decay": 0.001}


def run(workers: dict[str, Worker], backend: str, path: Path, resume: bool,
        stop_after: int = 0) -> list[dict[str, Any]]:
    reason = missing_reason(backend)
    if reason:
        pytest.skip(reason)
    if backend not in workers:
        workers[backend] = Worker(backend)
    history: list[dict[str, Any]] = workers[backend].run(
        "parity_tests.stopping:train", backend, VALUES, path, resume, stop_after)
    return history


@pytest.mark.parametrize(("start", "end"), list(itertools.permutations(BACKENDS, 2)))
def test_a_run_moves(workers: dict[str, Worker], tmp_path: Path, start: str, end: str) -> None:
    """Weights, statistics, moments, step count and early stopping all go along: 1e-12 after six epochs."""
    stayed = run(workers, start, tmp_path / "stayed", False)
    assert len(run(workers, start, tmp_path / "moved", False, stop_after=3)) == 3
    moved = run(workers, end, tmp_path / "moved", True)
    assert [row["epoch"] for row in moved] == [1, 2, 3, 4, 5, 6]
    assert [row["best"] for row in moved] == [row["best"] for row in stayed]
    for key in ("train_loss", "valid_loss"):
        np.testing.assert_allclose([row[key] for row in moved], [row[key] for row in stayed], rtol=1e-12)
    assert moved[:3] == stayed[:3]
