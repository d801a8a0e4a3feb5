"""The one epoch loop: early stopping on validation loss, checkpoints, resume, the best model before test.

The test split reaches the session after the last epoch, and the loop itself can't read it (core.training.selection).
"""
from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from core.common.arrays import Array
from core.common.errors import RunFailed, UserError
from core.config import Config, changes
from core.data import Dataset
from core.data.ranges import FAR, outside
from core.models.graph import Graph
from core.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.training.losses import loss_of
from core.training.metrics import evaluate
from core.training.plan import make_plan
from core.training.progress import Progress, read_progress
from core.training.run_folder import Row, RunFolder
from core.training.scaler import initial_scale
from core.training.selection import for_selection, selection_of
from core.training.session import Session
from core.training.state import State, bad_numbers, initial_state

Report = Callable[[Row], None]
LOWER = "lower learning_rate and factor_learning_rate"


class Trainer:
    """Runs `config` on `session`; every decision is made here, from NumPy arrays. Without a folder, `fit` alone."""

    def __init__(self, session: Session, graph: Graph, config: Config, dataset: Dataset, folder: RunFolder | None,
                 backend: str) -> None:
        self.session, self.graph, self.config, self.dataset = session, graph, config, dataset
        self.seen = for_selection(dataset).splits
        self.folder, self.backend = folder, backend
        self.loss, self.selection = loss_of(config), selection_of(config)
        self.progress = Progress()
        self.timing = {"train_seconds": 0.0, "train_rows": 0}

    @property
    def run_folder(self) -> RunFolder:
        """The folder that this run writes to. Raises ValueError without one."""
        if self.folder is None:
            raise ValueError("this trainer has no run folder: it can only fit")
        return self.folder

    def load(self) -> None:
        """Put training and validation rows on the device and set the state before the first step."""
        for name, split in self.seen.items():
            self.session.load_data(name, split.arrays)
        config = self.config
        self.session.load_state(initial_state(self.graph, config.seed, config.precision, initial_scale(config)))

    def resume(self) -> None:
        """Continue after the last finished epoch, or at the start if none was finished.

        Raises UserError when the checkpoint belongs to another configuration or other data.
        """
        folder = self.run_folder
        if not folder.last.is_file():
            if folder.has_history():
                raise UserError(f"{folder.last}: is missing, but the run has finished epochs; "
                                "put the file back or start a new run")
            return
        checkpoint = load_checkpoint(folder.last)
        refuse_changes(self.config, checkpoint.config)
        if checkpoint.fingerprint != self.dataset.fingerprint:
            raise UserError(f"{folder.last}: was made from other data (fingerprint {checkpoint.fingerprint[:12]}, "
                            f"now {self.dataset.fingerprint[:12]}); restore the data or start a new run")
        if not checkpoint.state.exp_avg:
            raise UserError(f"{folder.last}: has no moments of Adam, a run can't go on from it; put the run's own "
                            "last.safetensors back")
        self.progress = read_progress(checkpoint.progress, folder.last, self.selection.better)
        if self.progress.best_epoch is not None:
            load_checkpoint(folder.best)  # before more is trained: the run will end with it
        self.session.load_state(checkpoint.state)

    def run(self, report: Report) -> dict[str, Any]:
        """Train to the end, restore the best model, evaluate it. Returns what metrics.json holds.

        Raises RunFailed, naming epoch and step, when the loss stops being finite.
        """
        folder = self.run_folder

        def keep(row: Row) -> None:
            folder.add_curves(row)
            report(row)

        try:
            folder.write_history(self.progress.history)
            folder.restart_curves(self.graph, self.progress.history)
            self.fit(keep)
            metrics = self._test(folder)
            if self.timing["train_rows"]:  # a finished run that was resumed keeps what it measured
                folder.write_timing(self.timing)
            folder.check()
            return metrics
        finally:
            folder.close()

    def fit(self, report: Report) -> Progress:
        """Train until validation loss stops falling; `report` gets every epoch and may end it by raising."""
        while not self._finished():
            report(self._epoch())
        return self.progress

    def _finished(self) -> bool:
        return self.progress.epoch >= (self.config.epochs or 0) or self.progress.stale >= self.config.patience

    def _epoch(self) -> Row:
        config, before = self.config, self.progress
        epoch, train = before.epoch, self.seen["train"]
        start = time.perf_counter()
        plan = make_plan(self.graph, config, epoch, train.rows)
        result = self.session.train_epoch(plan)
        self.timing["train_seconds"] += time.perf_counter() - start
        self.timing["train_rows"] += train.rows
        broken = np.flatnonzero(~np.isfinite(result.losses))
        if len(broken):
            step, steps = int(broken[0]), len(result.losses)
            self._fail(epoch, f"training loss of step {step + 1} of {steps} is {result.losses[step]}")
        output = self.session.predict("valid")
        label = self.seen["valid"].arrays["label"]
        valid_loss = self.loss.shown(output, label)
        if not math.isfinite(valid_loss):
            self._fail(epoch, f"validation loss after step {len(result.losses)} is {valid_loss}",
                       self._at_fault(output))
        row = {"epoch": epoch + 1, "train_loss": self.loss.of_epoch(result.losses, plan.sizes),
               "valid_loss": valid_loss, "best": False, "skipped_steps": result.skipped,
               **self.selection.noted(output, label)}
        row["best"] = improved = self.selection.better(row, before)
        progress = Progress(epoch + 1, before.best_loss, before.best_epoch, before.stale + 1, [*before.history, row])
        if improved:
            progress.best_loss, progress.best_epoch, progress.stale = valid_loss, epoch + 1, 0
        if self.folder:
            state = self.session.state()
            bad = bad_numbers(state)
            if bad:
                raise RunFailed(f"epoch {epoch + 1}: after step {len(result.losses)} {bad[0]}; {self._kept()}; "
                                "scale the features (running_mean and running_var are theirs), or lower the learning "
                                "rates")
            if improved:
                self._save(self.folder.best, State(state.weights, step=state.step), progress)
            self._save(self.folder.last, state, progress)  # last, so that a kill between the two repeats this epoch
        self.progress = progress  # not before: an interrupt reports the epochs that are kept
        if self.folder:
            self.folder.write_history(progress.history)
        return row

    def _save(self, path: Path, state: State, progress: Progress) -> None:
        self.run_folder.check()
        save_checkpoint(path, Checkpoint(self.config, self.graph.inputs, self.backend, self.dataset.fingerprint, state,
                                         asdict(progress), self.dataset.ranges))

    def _at_fault(self, output: Array) -> str:
        """What to change when `output` of the validation rows isn't finite: those rows, if the same weights bear all
        training rows and break down on one far beyond them; else the rates."""
        broken = np.flatnonzero(~np.isfinite(output).all(axis=1))
        if self.dataset.ranges and np.isfinite(self.session.predict("train")).all():
            for modality, array in self.seen["valid"].inputs.items():
                found = outside(modality, array, self.dataset.ranges, broken.tolist())
                if found and found.widths >= FAR:
                    return ("the validation data is at fault: the training rows pass with the same weights, but valid "
                            f"{modality} {found.furthest}; repair or rescale it")
        return LOWER

    def _fail(self, epoch: int, what: str, way_out: str = LOWER) -> None:
        raise RunFailed(f"epoch {epoch + 1}: {what}, expected a finite number; {self._kept()}; {way_out}")

    def _kept(self) -> str:
        if self.progress.best_epoch is None:
            return "no epoch was finished before"
        place = f"is in {self.folder.best}" if self.folder else "was not kept"
        return f"the best model so far (epoch {self.progress.best_epoch}) {place}"

    def _test(self, folder: RunFolder) -> dict[str, Any]:
        if self.progress.best_epoch is None:
            raise RunFailed(f"validation {self.selection.metric} is undefined after every epoch, so none is the best; "
                            "use --selection loss")
        best = load_checkpoint(folder.best)
        self.session.load_data("test", self.dataset.splits["test"].arrays)
        self.session.load_state(full_state(best, self.graph, self.config))
        metrics: dict[str, Any] = {
            "data": self.dataset.title, "synthetic": self.dataset.synthetic, "notes": list(self.dataset.notes),
            "epochs": self.progress.epoch, "best_epoch": self.progress.best_epoch,
            "best_valid_loss": self.progress.best_loss, "parameters": self.graph.parameter_count,
            "computed": str(self.session.observed()),
        }
        for name in ("valid", "test"):
            split = self.dataset.splits[name]
            output, label = self.session.predict(name), split.arrays["label"]
            metrics[name] = {"loss": self.loss.shown(output, label), **evaluate(self.dataset.task, output, label)}
            folder.write_predictions(name, output, label, self.dataset)
        folder.write_metrics(metrics)
        return metrics


def full_state(checkpoint: Checkpoint, graph: Graph, config: Config) -> State:
    """The weights of a checkpoint with moments of zero where it holds none (`best` has only weights)."""
    zero = initial_state(graph, 0, config.precision)
    weights = {name: value.astype(config.precision) for name, value in checkpoint.state.weights.items()}
    return State(weights, zero.exp_avg, zero.exp_avg_sq)


def refuse_changes(config: Config, saved: Config) -> None:
    """Raises UserError naming every result-deciding key that differs between the two."""
    changed = [f"{key} ({json.dumps(then)} before, {json.dumps(now)} now)"
               for key, (then, now) in changes(config, saved).items()]
    if changed:
        raise UserError(f"--resume: the configuration changed: {', '.join(changed)}; "
                        "resume with the old values or start a new run")
