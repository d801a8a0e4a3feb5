"""The epoch loop's decisions, on a session without a framework whose losses are written down beforehand."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import core.common.files
from core.common.arrays import Array
from core.common.errors import RunFailed, UserError
from core.config import Config, build_graph, make_config
from core.data import Dataset, Split
from core.data.published import feature_inputs
from core.data.ranges import ranges_of
from core.models.precision import Observed
from core.training.checkpoint import load_checkpoint
from core.training.plan import EpochPlan, EpochResult
from core.training.run_folder import RunFolder
from core.training.state import State
from core.training.trainer import Trainer
from tests.running import assert_same_run

STEPS = 3
INPUTS = feature_inputs(audio=2, video=0, text=0, steps=0)
ZERO = np.zeros((STEPS, 1), np.float32)


class Scripted:
    """Epoch i ends with validation loss `valid[i]`; its weights are all i + 1, so that they tell which they are."""

    def __init__(self, valid: Sequence[float], broken: tuple[int, int, float] | None = None) -> None:
        self.valid, self.broken, self.mark = valid, broken, 0
        self.weights: Mapping[str, Array] = {}

    def load_data(self, split: str, arrays: Mapping[str, Array]) -> None:
        pass

    def load_state(self, state: State) -> None:
        self.weights = state.weights
        self.mark = int(next(iter(state.weights.values())).flat[0]) if state.exp_avg else self.mark

    def state(self) -> State:
        weights = {name: np.full_like(value, self.mark) for name, value in self.weights.items()}
        moments = {name: value for name, value in weights.items() if "running" not in name}
        return State(weights, moments, moments, step=self.mark * STEPS)

    def train_epoch(self, plan: EpochPlan) -> EpochResult:
        self.mark = plan.epoch + 1
        losses = np.ones(STEPS)
        if self.broken and self.broken[0] == plan.epoch:
            losses[self.broken[1]:] = self.broken[2]
        return EpochResult(losses)

    def predict(self, split: str) -> Array:
        return ZERO + np.float32(self.valid[self.mark - 1])

    def observed(self) -> Observed:
        return Observed("cpu", "float32")


def trainer_of(session: Scripted, folder: Path, valid: Sequence[float] = (0, 0), label: Array = ZERO,
               **values: object) -> Trainer:
    """Training and test rows are zeros and ones, each validation row is `valid`; `label` is that of all splits."""
    config: Config = make_config({"dataset": "mosi", "modalities": "audio", "batch_size": 1, **values})
    arrays: dict[str, Array] = {"audio": np.eye(STEPS, 2, dtype=np.float32), "label": label}
    other: dict[str, Array] = {"audio": np.tile(np.float32(valid), (STEPS, 1)), "label": label}
    splits = {"train": Split(arrays), "valid": Split(other), "test": Split(arrays)}
    dataset = Dataset(replace(config.described, inputs=INPUTS), None, splits, False, "f" * 64, {}, None, (),
                      ranges_of({"audio": arrays["audio"]}))
    trainer = Trainer(session, build_graph(config, INPUTS), config, dataset, RunFolder(folder, config),  # type: ignore[arg-type]
                      "torch")
    trainer.load()
    return trainer


def epochs_of(trainer: Trainer) -> list[int]:
    done: list[int] = []
    trainer.run(lambda row: done.append(row["epoch"]))
    return done


@pytest.mark.parametrize(("valid", "patience", "epochs", "best"), [
    ([3, 2, 1, 2, 3, 4, 5], 2, 5, 3),
    ([3, 2, 2, 2, 1, 9, 9], 2, 4, 2),  # equal is no improvement: the original compares with <
    ([3, 2, 2, 1, 2, 2, 2], 2, 6, 4),  # an improvement starts the count anew
    ([1, 2, 3, 4, 5, 6, 7], 1, 2, 1),
    ([7, 6, 5, 4, 3, 2, 1], 1, 7, 7),
])
def test_early_stopping(tmp_path: Path, valid: list[float], patience: int, epochs: int, best: int) -> None:
    trainer = trainer_of(Scripted(valid), tmp_path, patience=patience, epochs=7)
    assert len(epochs_of(trainer)) == epochs
    assert (trainer.progress.best_epoch, trainer.progress.best_loss) == (best, valid[best - 1])
    kept = load_checkpoint(tmp_path / "best.safetensors").state.weights
    assert all((value == best).all() for value in kept.values())


def test_the_best_model_is_the_one_tested(tmp_path: Path) -> None:
    metrics = trainer_of(Scripted([3, 1, 2, 2]), tmp_path, epochs=4).run(lambda row: None)
    assert metrics["test"]["loss"] == metrics["best_valid_loss"] == 1 and metrics["best_epoch"] == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite(tmp_path: Path, value: float) -> None:
    trainer = trainer_of(Scripted([2, 1, 1, 1], broken=(2, 1, value)), tmp_path, epochs=4)
    with pytest.raises(RunFailed) as caught:
        epochs_of(trainer)
    assert str(caught.value).startswith(f"epoch 3: training loss of step 2 of 3 is {value}, expected a finite number; "
                                        f"the best model so far (epoch 2) is in {tmp_path / 'best.safetensors'}")
    assert load_checkpoint(tmp_path / "last.safetensors").progress["epoch"] == 2


def test_the_first_epoch_leaves_nothing_to_keep(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"epoch 1: training loss of step 1 of 3 is nan.*; no epoch was finished"):
        epochs_of(trainer_of(Scripted([1], broken=(0, 0, np.nan)), tmp_path))
    with pytest.raises(RunFailed, match=r"epoch 1: validation loss after step 3 is nan"):
        epochs_of(trainer_of(Scripted([np.nan]), tmp_path))


def test_a_state_that_could_not_be_read_again(tmp_path: Path) -> None:
    """Losses may stay finite when BatchNorm's variance overflows: the features are lost then, without a sign."""
    class Overflowing(Scripted):
        def state(self) -> State:
            state = super().state()
            if self.mark == 2:
                state.weights["audio_subnet.norm.running_var"][0] = np.inf
            return state

    trainer = trainer_of(Overflowing([3, 2, 1]), tmp_path, epochs=3)
    with pytest.raises(RunFailed) as caught:
        epochs_of(trainer)
    assert str(caught.value).startswith("epoch 2: after step 3 audio_subnet.norm.running_var has 1 values that are NaN "
                                        "or inf; the best model so far (epoch 1) is in ")
    assert load_checkpoint(tmp_path / "last.safetensors").progress["epoch"] == 1


class Breaking(Scripted):
    """The validation rows `rows` have no finite output; with `everywhere`, the training rows neither."""

    def __init__(self, rows: Sequence[int], everywhere: bool = False) -> None:
        super().__init__([1, 1])
        self.rows, self.everywhere = list(rows), everywhere

    def predict(self, split: str) -> Array:
        output = ZERO.copy()
        if split == "valid" or self.everywhere:
            output[self.rows] = np.nan
        return output


@pytest.mark.parametrize(("valid", "everywhere", "words"), [
    ((0, 1e30), False, "the validation data is at fault: the training rows pass with the same weights, but valid audio "
                       "row 1, column 1 is 1e+30, trained on 0 to 1; repair or rescale it"),
    ((0, 1e30), True, "lower learning_rate"),  # training rows break down too: the weights are at fault
    ((0, 1.5), False, "lower learning_rate"),  # nothing extraordinary about the rows
    ((0, 0), False, "lower learning_rate"),
])
def test_who_is_at_fault(tmp_path: Path, valid: Sequence[float], everywhere: bool, words: str) -> None:
    with pytest.raises(RunFailed) as caught:
        epochs_of(trainer_of(Breaking([1, 2], everywhere), tmp_path, valid))
    assert "validation loss after step 3 is nan" in str(caught.value) and words in str(caught.value)
    assert ("learning_rate" in str(caught.value)) is ("learning_rate" in words)


def test_both_checkpoints_keep_the_training_range(tmp_path: Path) -> None:
    epochs_of(trainer_of(Scripted([1, 2]), tmp_path, (7, 7), epochs=2))
    for name in ("best", "last"):
        ranges = load_checkpoint(tmp_path / f"{name}.safetensors").ranges
        assert {key: value.tolist() for key, value in ranges.items()} == {"audio_low": [0, 0], "audio_high": [1, 1]}


@pytest.mark.parametrize(("file", "time", "kept"), [("best", 1, 0), ("last", 1, 0), ("best", 2, 1), ("last", 2, 1),
                                                    ("history", 3, 2), ("history", 4, 3)])
def test_an_interrupt_while_writing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, time: int, kept: int) -> None:
    """The epochs reported are those that can be resumed; what was half done is done again, alike."""
    trainer, seen = trainer_of(Scripted([3, 2, 1]), tmp_path / "run", epochs=3), []
    replace = core.common.files.os.replace

    def stop(source: Path, target: Path) -> None:
        seen.append(Path(target).stem)
        if seen.count(file) == time:  # the history is also written at the start
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(core.common.files.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        epochs_of(trainer)
    monkeypatch.undo()
    assert trainer.progress.epoch == kept
    again, whole = trainer_of(Scripted([3, 2, 1]), tmp_path / "run", epochs=3), tmp_path / "whole"
    again.resume()
    assert again.progress.epoch == kept
    assert epochs_of(again) == list(range(kept + 1, 4))
    epochs_of(trainer_of(Scripted([3, 2, 1]), whole, epochs=3))
    assert_same_run(tmp_path / "run", whole)
    for name in ("best.safetensors", "last.safetensors"):
        one, other = load_checkpoint(tmp_path / "run" / name), load_checkpoint(whole / name)
        assert (one.progress, one.state.step) == (other.progress, other.state.step), name


def test_a_damaged_best_model_is_found_before_more_is_trained(tmp_path: Path) -> None:
    """The run would go on for hours and then have nothing to test."""
    trainer_of(Scripted([3, 2, 1]), tmp_path, epochs=3)._epoch()
    best = tmp_path / "best.safetensors"
    best.write_bytes(best.read_bytes()[:-1] + b"\x01")
    again = trainer_of(Scripted([3, 2, 1]), tmp_path, epochs=3)
    with pytest.raises(UserError, match=r"best\.safetensors: weights/.* is not what was written"):
        again.resume()
    best.unlink()
    with pytest.raises(UserError, match=r"best\.safetensors: no such checkpoint file"):
        again.resume()


def test_plans_depend_on_the_epoch_alone(tmp_path: Path) -> None:
    """A resumed run draws what the uninterrupted one draws: nothing is carried from epoch to epoch."""
    plans: list[list[int]] = []

    class Watching(Scripted):
        def train_epoch(self, plan: EpochPlan) -> EpochResult:
            plans.append([plan.epoch, *plan.order.tolist()])
            return super().train_epoch(plan)

    epochs_of(trainer_of(Watching([4, 3, 2, 1]), tmp_path / "a", epochs=4))
    whole, plans[:] = list(plans), []
    for epochs in (2, 4):
        trainer = trainer_of(Watching([4, 3, 2, 1]), tmp_path / "b", epochs=4)
        trainer.resume()
        while trainer.progress.epoch < epochs:
            trainer._epoch()
    assert plans == whole
