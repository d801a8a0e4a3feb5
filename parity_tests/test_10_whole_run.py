"""Rung 10: whole runs with early stopping, side by side. The long ones are run by `make test-slow`."""
from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from core.runtime.backend import missing_reason
from core.runtime.worker import Worker
from parity.runs import Record, judge

ROOT = Path(__file__).parents[1]
SHORT = {"dataset": "pom", "data": "synthetic", "modalities": "audio,video", "epochs": 6, "patience": 2,
         "batch_size": 64, "learning_rate": 0.003, "factor_learning_rate": 0.003, "weight_decay": 0.001}
NUDGED = ("audio_factor", "fusion_weights", "video_subnet.linear_1.weight")


def whole(workers: dict[str, Worker], backend: str, values: dict[str, Any], nudged: str | None = None) -> Record:
    reason = missing_reason(backend)
    if reason:
        pytest.skip(reason)
    if backend not in workers:
        workers[backend] = Worker(backend)
    record: Record = workers[backend].run("parity.runs:whole_run", backend, values, nudged)
    return record


@pytest.fixture(scope="module")
def reference(workers: dict[str, Worker]) -> dict[str, tuple[Record, list[Record]]]:
    """torch, and torch with one weight nudged, per precision."""
    return {precision: (whole(workers, "torch", {**SHORT, "precision": precision}),
                        [whole(workers, "torch", {**SHORT, "precision": precision}, name) for name in NUDGED])
            for precision in ("float64", "float32")}


@pytest.mark.parametrize("name", ["mindspore", "paddle"])
def test_a_short_run_is_the_same_run(workers: dict[str, Worker], reference: Any, name: str, precision: str) -> None:
    base, nudges = reference[precision]
    verdict = judge(base, whole(workers, name, {**SHORT, "precision": precision}), nudges, precision)
    assert verdict.problems == ()
    if precision == "float64":
        assert verdict.left_at is None and verdict.same_end


@pytest.mark.parametrize("key", ["learning_rate", "weight_decay", "seed"])
def test_another_run_is_told_apart(workers: dict[str, Worker], reference: Any, key: str) -> None:
    """The judgement can fail: another rate, decay or seed is a difference."""
    base, nudges = reference["float64"]
    changed = {"learning_rate": 0.003001, "weight_decay": 0.0011, "seed": 1}[key]
    other = whole(workers, "torch", {**SHORT, "precision": "float64", key: changed})
    assert judge(base, other, nudges, "float64").problems


def record(**changes: Any) -> Record:
    """A run of one step in one epoch."""
    one = np.ones(1)
    return replace(Record("torch", None, one, one, one, 1, 1, np.full((2, 1), 4.0), {"MAE": 0.12345}, "", {}, 1e-9),
                   **changes)


def test_a_printed_digit_decides_in_float64_only() -> None:
    """0.12345 and what float32 makes of it on another CPU are printed as .1235 and .1234."""
    base, nudges = record(), [record(nudged="audio_factor")]
    other = record(backend="paddle", metrics={"MAE": 0.12345 - 1e-8}, predictions=np.full((2, 1), 4.0 + 1e-7))
    verdict = judge(base, other, nudges, "float32")
    assert verdict.problems == () and not verdict.same_end
    assert judge(base, other, nudges, "float64").problems
    for changes in ({"best_epoch": 2}, {"stop_epoch": 2}, {"predictions": np.full((2, 1), 4.001)}):
        assert judge(base, replace(other, **changes), nudges, "float32").problems, changes


CELLS = {
    "mosi": ["--config", "configs/parity/mosi.yaml"],
    "pom": ["--config", "configs/pom/expertise.yaml", "--modalities", "audio,video"],
    "iemocap": ["--config", "configs/iemocap/angry.yaml", "--data", "synthetic"],
}


@pytest.mark.slow
@pytest.mark.parametrize("cell", list(CELLS))
def test_full_length_runs(tmp_path: Path, cell: str, precision: str) -> None:
    """Real MOSI and POM, synthetic IEMOCAP: every installed backend, early stopping left to run its course.

    Reports are kept in the folder that LMF_REPORTS names.
    """
    real = Path(os.environ.get("LMF_REAL_DATA", ROOT.parent / "shared" / "data"))
    if cell != "iemocap":
        if not (real / "build_reference_pickles.py").is_file():
            pytest.skip(f"no real data in {real}; LMF_REAL_DATA names its folder")
        subprocess.run([sys.executable, str(real / "build_reference_pickles.py"), str(tmp_path)], check=True)
    report = Path(os.environ.get("LMF_REPORTS", tmp_path)) / f"parity-{cell}-{precision}.html"
    done = subprocess.run([sys.executable, "-m", "parity", *CELLS[cell], "--data_dir", str(tmp_path),
                           "--precision", precision, "--output", str(report)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert report.is_file()


def test_every_cell_is_a_configuration() -> None:
    for arguments in CELLS.values():
        assert isinstance(yaml.safe_load((ROOT / arguments[1]).read_text()), dict)
