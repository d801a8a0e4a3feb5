"""Rung 12: a run that moves to another framework after some epochs ends as the run that never moved."""
from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.runtime.backend import BACKENDS, missing_reason
from core.runtime.worker import Worker
from parity_tests.conftest import ALIGNED, padded_rows

VALUES = {"dataset": "pom", "data": "synthetic", "modalities": "audio,video", "epochs": 6, "batch_size": 64,
          "precision": "float64", "learning_rate": 0.003, "weight_decay": 0.001}


def start_worker(workers: dict[str, Worker], backend: str) -> None:
    reason = missing_reason(backend)
    if reason:
        pytest.skip(reason)
    if backend not in workers:
        workers[backend] = Worker(backend)


def run(workers: dict[str, Worker], backend: str, path: Path, resume: bool,
        stop_after: int = 0) -> list[dict[str, Any]]:
    start_worker(workers, backend)
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


@pytest.mark.parametrize(("start", "end"), list(itertools.permutations(BACKENDS, 2)))
def test_a_run_of_the_sequence_model_moves(workers: dict[str, Worker], tmp_path: Path, start: str, end: str) -> None:
    """In the middle of its cosine, with weights of attention among those that go along; the best epoch's Corr too.

    Within 1e-9, as long as a run is calm.
    """
    values = {"dataset": "mosi_aligned", "model": "msa", "encoder": "transformer", "attention_heads": 2, "epochs": 4,
              "feed_forward_dim": 5, "hidden_dim": 4, "learning_rate": 0.01, "precision": "float64"}
    pool = padded_rows(ALIGNED, 70)
    splits = {split: {name: x[place] for name, x in pool.items()} for split, place in
              {"train": slice(0, 40), "valid": slice(40, 55), "test": slice(55, 70)}.items()}

    def trained(backend: str, folder: str, resume: bool, stop_after: int) -> Any:
        start_worker(workers, backend)
        return workers[backend].run("parity_tests.stopping:on_rows", backend, values, splits, tmp_path / folder, resume,
                                    stop_after)

    _, stayed, want = trained(start, "stayed", False, 0)
    assert trained(start, "moved", False, 2)[1].epoch == 2
    steps, moved, got = trained(end, "moved", True, 0)
    assert len(steps) == 6, "three in each of the epochs that were left"
    for key in ("train_loss", "valid_loss", "valid_Corr"):
        np.testing.assert_allclose([row[key] for row in moved.history], [row[key] for row in stayed.history],
                                   rtol=1e-9, atol=1e-9)
    assert moved.best_epoch == stayed.best_epoch and moved.history[:2] == stayed.history[:2]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)
