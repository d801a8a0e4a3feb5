"""The one epoch loop: early stopping on validation loss, checkpoints, resume, the best model before test."""
from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.backend import Session
from core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.config import Config
from core.data import Dataset
from core.errors import RunFailed, UserError
from core.losses import mean_loss
from core.metrics import evaluate
from core.models import ModelSpec
from core.plan import make_plan
from core.run_folder import Row, RunFolder
from core.scaler import initial_scale
from core.state import State, initial_state

Report = Callable[[Row], None]


@dataclass
class Progress:
    """Where a run stands after its last finished epoch. `stale` counts epochs without improvement."""

    epoch: int = 0  # finished epochs
    best_loss: float | None = None
    best_epoch: int | None = None
    stale: int = 0
    history: list[Row] = field(default_factory=list)


class Trainer:
    """Runs `config` on `session`; every decision is made here, from NumPy arrays."""

    def __init__(self, session: Session, spec: ModelSpec, config: Config, dataset: Dataset, folder: RunFolder,
                 backend: str) -> None:
        self.session, self.spec, self.config, self.dataset = session, spec, config, dataset
        self.folder, self.backend = folder, backend
        self.progress = Progress()
        self.timing = {"train_seconds": 0.0, "train_rows": 0}

    def load(self) -> None:
        """Put the data on the device and set the state before the first step."""
        for name, split in self.dataset.splits.items():
            self.session.load_data(name, split.arrays)
        config = self.config
        self.session.load_state(initial_state(self.spec, config.seed, config.precision, initial_scale(config)))

    def resume(self) -> None:
        """Continue after the last finished epoch, or at the start if none was finished.

        Raises UserError when the checkpoint belongs to another configuration or other data.
        """
        if not self.folder.last.is_file():
            if self.folder.has_history():
                raise UserError(f"{self.folder.last}: is missing, but the run has finished epochs; "
                                "put the file back or start a new run")
            return
        checkpoint = load_checkpoint(self.folder.last)
        refuse_changes(self.config, checkpoint.config)
        if checkpoint.fingerprint != self.dataset.fingerprint:
            raise UserError(f"{self.folder.last}: was made from other data (fingerprint {checkpoint.fingerprint[:12]}, "
                            f"now {self.dataset.fingerprint[:12]}); restore the data or start a new run")
        self.session.load_state(checkpoint.state)
        self.progress = Progress(**checkpoint.progress)

    def run(self, report: Report) -> dict[str, Any]:
        """Train to the end, restore the best model, evaluate it. Returns what metrics.json holds.

        Raises RunFailed, naming epoch and step, when the loss stops being finite.
        """
        try:
            self.folder.write_history(self.progress.history)
            self.folder.restart_curves(self.progress.history)
            while not self._finished():
                row = self._epoch()
                self.folder.add_curves(row)
                report(row)
        finally:
            self.folder.close()
        return self._test()

    def _finished(self) -> bool:
        return self.progress.epoch >= (self.config.epochs or 0) or self.progress.stale >= self.config.patience

    def _epoch(self) -> Row:
        config, before = self.config, self.progress
        epoch, train = before.epoch, self.dataset.splits["train"]
        start = time.perf_counter()
        plan = make_plan(self.spec, config.seed, epoch, train.rows, config.batch_size, config.precision)
        result = self.session.train_epoch(plan)
        self.timing["train_seconds"] += time.perf_counter() - start
        self.timing["train_rows"] += train.rows
        broken = np.flatnonzero(~np.isfinite(result.losses))
        if len(broken):
            step, steps = int(broken[0]), len(result.losses)
            self._fail(epoch, f"training loss of step {step + 1} of {steps} is {result.losses[step]}")
        valid = self.dataset.splits["valid"]
        valid_loss = mean_loss(self.session.predict("valid"), valid.arrays["label"])
        if not math.isfinite(valid_loss):
            self._fail(epoch, f"validation loss after step {len(result.losses)} is {valid_loss}")
        improved = before.best_loss is None or valid_loss < before.best_loss
        row = {"epoch": epoch + 1, "train_loss": float(result.losses.sum()) / train.rows, "valid_loss": valid_loss,
               "best": improved, "skipped_steps": result.skipped}
        progress = Progress(epoch + 1, before.best_loss, before.best_epoch, before.stale + 1, [*before.history, row])
        if improved:
            progress.best_loss, progress.best_epoch, progress.stale = valid_loss, epoch + 1, 0
        state = self.session.state()
        if improved:
            self._save(self.folder.best, State(state.weights, step=state.step), progress)
        self._save(self.folder.last, state, progress)  # last, so that a kill between the two repeats this epoch
        self.progress = progress  # not before: an interrupt reports the epochs that are kept
        self.folder.write_history(progress.history)
        return row

    def _save(self, path: Path, state: State, progress: Progress) -> None:
        save_checkpoint(path, Checkpoint(self.config, self.spec.dims, self.backend, self.dataset.fingerprint, state,
                                         asdict(progress)))

    def _fail(self, epoch: int, what: str) -> None:
        kept = f"the best model so far (epoch {self.progress.best_epoch}) is in {self.folder.best}"
        if self.progress.best_epoch is None:
            kept = "no epoch was finished before"
        raise RunFailed(f"epoch {epoch + 1}: {what}, expected a finite number; {kept}; "
                        "lower learning_rate and factor_learning_rate")

    def _test(self) -> dict[str, Any]:
        best = load_checkpoint(self.folder.best)
        self.session.load_state(full_state(best, self.spec, self.config))
        metrics: dict[str, Any] = {
            "data": self.dataset.title, "synthetic": self.dataset.synthetic, "notes": list(self.dataset.notes),
            "epochs": self.progress.epoch, "best_epoch": self.progress.best_epoch,
            "best_valid_loss": self.progress.best_loss, "parameters": self.spec.parameter_count,
        }
        for name in ("valid", "test"):
            split = self.dataset.splits[name]
            output, label = self.session.predict(name), split.arrays["label"]
            metrics[name] = {"loss": mean_loss(output, label),
                             **evaluate(self.dataset.task, output, label, self.dataset.label_names)}
            self.folder.write_predictions(name, output, label, self.dataset)
        self.folder.write_metrics(metrics)
        return metrics


def full_state(checkpoint: Checkpoint, spec: ModelSpec, config: Config) -> State:
    """The weights of a checkpoint with moments of zero where it holds none (`best` has only weights)."""
    zero = initial_state(spec, 0, config.precision)
    weights = {name: value.astype(config.precision) for name, value in checkpoint.state.weights.items()}
    return State(weights, zero.exp_avg, zero.exp_avg_sq)


def refuse_changes(config: Config, saved: Config) -> None:
    """Raises UserError naming every result-deciding key that differs between the two."""
    now, then = config.identity(), saved.identity()
    changed = [f"{key} ({json.dumps(then[key])} before, {json.dumps(now[key])} now)"
               for key in then if then[key] != now[key]]
    if changed:
        raise UserError(f"--resume: the configuration changed: {', '.join(changed)}; "
                        "resume with the old values or start a new run")
