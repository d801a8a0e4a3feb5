"""Output folders of a plan, written by hand: what `core.studies.tables` reads, with numbers that a test knows."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.common.arrays import Array
from core.data.specs import Task
from core.data.tables import TABLES
from core.studies.tables.plan import Job, run_path, save_plan
from core.training.metrics import evaluate
from core.training.run_folder import write_predictions

LEAK = "LEAKING: these video features seem fitted to labels of the test rows; test scores are too high"
NOT_PUBLISHED = "mosi.pkl is not the published file (sha256 00ff, published 9640)"
SYNTHETIC = "synthetic data: its scores say nothing about the published data set"
NO_TEXT = "pom without text"
ROWS = 20


def job(table: str, cell: str = "", backend: str = "torch", seed: int = 1, model: str = "lmf",
        modalities: tuple[str, ...] | None = None, variant: str = "", data: str = "published", **values: Any) -> Job:
    """A planned job. Its run is its own."""
    dataset = TABLES[table].data
    cell, modalities = cell or dataset.name, modalities or dataset.names
    emotion = {"emotion": cell} if table == "iemocap" else {}
    name = "-".join([table, cell, model, "+".join(modalities), variant, data, backend, f"seed{seed}"])
    return Job(table, cell, variant, model, modalities, backend, seed, name, f"configs/{table}/{cell}.yaml", data,
               {"dataset": dataset.name, **emotion, "model": model, "modalities": list(modalities), "data": data,
                "seed": seed, **values})


def task_of(table: str, emotion: str | None = None) -> Task:
    """What a run of `table` predicts."""
    data = TABLES[table].data
    return data.part(emotion or next(iter(data.parts), None)).task


def outputs_of(table: str, seed: int, noise: float = 0.5) -> tuple[Array, Array]:
    """Scores (N, O) or logits (N, 2), and labels, of the test split: the same labels in every run."""
    task = task_of(table)
    truth = np.random.default_rng(0)
    draw = np.random.default_rng(seed + 1)
    if task.kind == "classification":
        label = truth.permutation(np.arange(ROWS) % 2)
        return np.eye(2)[label] + draw.normal(0, noise, (ROWS, 2)), label
    label = np.round(truth.uniform(*(task.label_range or ()), (ROWS, task.outputs)), 1)
    return label + draw.normal(0, noise, label.shape), label


def finish(output: Path, done: Job, *, noise: float = 0.5, draw: int | None = None, notes: Sequence[str] = (),
           test: Mapping[str, float | None] | None = None, fingerprint: str = "f" * 64, parameters: int = 1234,
           valid_loss: float = 1.0, predictions: bool = False) -> None:
    """Write the run folder of a finished job. `test` replaces metrics; figures need `predictions`."""
    path = run_path(output, done.run)
    path.mkdir(parents=True, exist_ok=True)
    emotion = done.cell if done.table == "iemocap" else None
    task = task_of(done.table, emotion)
    scores, label = outputs_of(done.table, done.seed if draw is None else draw, noise)
    if predictions:
        write_predictions(path / "predictions_test", scores, label, task)
    synthetic = done.data == "synthetic"
    title = " ".join(filter(None, (done.table, emotion))) + (" (synthetic)" if synthetic else "")
    said = [*([SYNTHETIC] if synthetic else []), *notes]
    (path / "config.yaml").write_text("")
    (path / "history.jsonl").write_text("".join(json.dumps(
        {"epoch": epoch, "train_loss": 2 / epoch, "valid_loss": valid_loss + abs(epoch - 3), "best": epoch <= 3,
         "skipped_steps": 0}) + "\n" for epoch in range(1, 6)))
    (path / "run.json").write_text(json.dumps(
        {"data_fingerprint": fingerprint, "versions": {"python": "3.11", done.backend: "1"}}))
    (path / "metrics.json").write_text(json.dumps({
        "data": title, "synthetic": synthetic, "notes": said, "epochs": 5, "best_epoch": 3,
        "best_valid_loss": valid_loss, "parameters": parameters, "valid": {},
        "test": {**evaluate(task, scores, label), **(test or {})}}))


def plan(output: Path, *jobs: Job, failures: Mapping[str, str] | None = None) -> None:
    """Write plan.json, and failures.json with run -> error."""
    save_plan(output, jobs)
    (output / "failures.json").write_text(json.dumps([
        {"run": run, "cell": "", "backend": "", "seed": 0, "error": error} for run, error in (failures or {}).items()]))
