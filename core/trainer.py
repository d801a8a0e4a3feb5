"""The one epoch loop: early stopping on validation loss, checkpoints, resume, the best model before test.

The test split reaches the session after the last epoch, and the loop itself can't read it (core.selection).
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

from core.backend import Session, open_session
from core.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.config import Config
from core.data import Dataset, load_dataset
from core.data.ranges import FAR, outside
from core.errors import RunFailed, UserError
from core.losses import mean_loss
from core.metrics import evaluate
from core.models import ModelSpec, build_spec
from core.plan import make_plan
from core.progress import Progress, read_progress
from core.randomness import Array
from core.run_folder import Row, RunFolder, new_run_folder
from core.scaler import initial_scale
from core.selection import for_selection
from core.state import State, bad_numbers, initial_state

Report = Callable[[Row], None]
LOWER = "lower learning_rate and factor_learning_rate"


class Trainer:
    """Runs `config` on `session`; every decision is made here, from NumPy arrays. Without a folder, `fit` alone."""

    def __init__(self, session: Session, spec: ModelSpec, config: Config, dataset: Dataset, folder: RunFolder | None,
                 backend: str) -> None:
        self.session, self.spec, self.config, self.dataset = session, spec, config, dataset
        self.seen = for_selection(dataset).splits
        self.folder, self.backend = folder, backend
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
        self.session.load_state(initial_state(self.spec, config.seed, config.precision, initial_scale(config)))

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
        self.progress = read_progress(checkpoint.progress, folder.last)
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
            folder.restart_curves(self.progress.history)
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
        plan = make_plan(self.spec, config.seed, epoch, train.rows, config.batch_size, config.precision)
        result = self.session.train_epoch(plan)
        self.timing["train_seconds"] += time.perf_counter() - start
        self.timing["train_rows"] += train.rows
        broken = np.flatnonzero(~np.isfinite(result.losses))
        if len(broken):
            step, steps = int(broken[0]), len(result.losses)
            self._fail(epoch, f"training loss of step {step + 1} of {steps} is {result.losses[step]}")
        output = self.session.predict("valid")
        valid_loss = mean_loss(output, self.seen["valid"].arrays["label"])
        if not math.isfinite(valid_loss):
            self._fail(epoch, f"validation loss after step {len(result.losses)} is {valid_loss}",
                       self._at_fault(output))
        improved = before.best_loss is None or valid_loss < before.best_loss
        row = {"epoch": epoch + 1, "train_loss": float(result.losses.sum()) / train.rows, "valid_loss": valid_loss,
               "best": improved, "skipped_steps": result.skipped}
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
        save_checkpoint(path, Checkpoint(self.config, self.spec.dims, self.backend, self.dataset.fingerprint, state,
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
        best = load_checkpoint(folder.best)
        self.session.load_data("test", self.dataset.splits["test"].arrays)
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
            folder.write_predictions(name, output, label, self.dataset)
        folder.write_metrics(metrics)
        return metrics


def start_run(backend: str, config: Config, path: Path | None, resume: bool) -> Trainer:
    """A trainer at the beginning of a run, or with `resume` after its last finished epoch.

    `path` is its run folder; None makes a new one, once all else is known to work. The folder is claimed until the run
    ends. Raises UserError, for a folder that another process works in too.
    """
    dataset = load_dataset(config)
    spec = build_spec(config, dataset.dims)
    session = open_session(backend, spec, config)
    path = path or new_run_folder(config, backend)
    folder = RunFolder(path, config)
    try:
        folder.claim()
        trainer = Trainer(session, spec, config, dataset, folder, backend)
        trainer.load()
        if resume:
            trainer.resume()
        folder.write_start(config, dataset, backend, spec.parameter_count)
        return trainer
    except BaseException:
        folder.close()
        raise


def full_state(checkpoint: Checkpoint, spec: ModelSpec, config: Config) -> State:
    """The weights of a checkpoint with moments of zero where it holds none (`best` has only weights)."""
    zero = initial_state(spec, 0, config.precision)
    weights = {name: value.astype(config.precision) for name, value in checkpoint.state.weights.items()}
    return State(weights, zero.exp_avg, zero.exp_avg_sq)


def refuse_changes(config: Config, saved: Config) -> None:
    """Raises UserError naming every result-deciding key that differs between the two."""
    changed = [f"{key} ({json.dumps(then)} before, {json.dumps(now)} now)"
               for key, (then, now) in config.changes(saved).items()]
    if changed:
        raise UserError(f"--resume: the configuration changed: {', '.join(changed)}; "
                        "resume with the old values or start a new run")
