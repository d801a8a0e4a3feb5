"""No selection can see the test split: not early stopping, not the best epoch, not the search."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.errors import RunFailed, UserError
from core.config import make_config
from core.console import print_epoch
from core.data import Dataset, Split
from core.training.checkpoint import load_checkpoint
from core.training.progress import read_progress
from core.training.selection import SEEN, for_selection, selection_of
from core.training.state import State
from core.training.trainer import Trainer
from tests.running import assert_same_run
from tests.test_trainer import Scripted, trainer_of


class Watched(Scripted):
    """Writes down which splits it was given and which it was asked for, in order."""

    def __init__(self, valid: list[float]) -> None:
        super().__init__(valid)
        self.log: list[str] = []

    def load_data(self, split: str, arrays: Mapping[str, Array]) -> None:
        self.log.append(f"load {split}")

    def load_state(self, state: State) -> None:
        super().load_state(state)
        self.log.append("state")

    def predict(self, split: str) -> Array:
        self.log.append(f"predict {split}")
        return super().predict(split)


def test_a_selection_has_no_test_split() -> None:
    arrays = {"audio": np.zeros((3, 2), np.float32), "label": np.zeros((3, 1), np.float32)}
    described = make_config({"dataset": "mosi", "modalities": "audio"}).described
    splits = {name: Split(arrays) for name in ("train", "valid", "test")}
    dataset = Dataset(described, None, splits, False, "", {}, None)
    seen = for_selection(dataset)
    assert list(seen.splits) == list(SEEN) == ["train", "valid"] and len(seen.splits) == 2
    assert "test" in dataset.splits
    with pytest.raises(RunFailed, match="'test': a selection may see only train and valid"):
        seen.splits["test"]
    with pytest.raises(RunFailed):
        for_selection(seen).splits["test"]


def test_the_test_split_reaches_the_session_after_the_last_epoch(tmp_path: Path) -> None:
    session = Watched([3.0, 2.0, 2.5, 2.6])
    trainer = trainer_of(session, tmp_path, epochs=4)
    trainer.load()
    trainer.run(lambda row: None)
    first = next(place for place, entry in enumerate(session.log) if "test" in entry)
    assert session.log[first] == "load test"
    assert session.log[:first].count("predict valid") == 4, "the epochs came first"
    assert session.log[first + 1] == "state", "the best model, chosen before, is loaded next"


def test_the_loop_reads_its_rows_through_the_guard(tmp_path: Path) -> None:
    trainer = trainer_of(Scripted([1.0]), tmp_path, epochs=1)
    with pytest.raises(RunFailed):
        trainer.seen["test"]


def test_without_a_folder_only_a_fit_is_possible(tmp_path: Path) -> None:
    trainer = trainer_of(Scripted([2.0, 1.0]), tmp_path, epochs=2)
    trainer.folder = None
    trainer.load()
    assert trainer.fit(lambda row: None).best_loss == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no run folder"):
        trainer.run(lambda row: None)


LABEL = np.array([[-1.0], [0.0], [2.0]], np.float32)
GOOD, POOR, FLAT = [[-1.0], [0.1], [1.5]], [[0.0], [-1.0], [0.2]], [[0.7], [0.7], [0.7]]  # Corr .99, .52, undefined


class Predicting(Scripted):
    """After epoch i the outputs of every split are `outputs[i]`."""

    def __init__(self, *outputs: list[list[float]]) -> None:
        super().__init__([])
        self.outputs = [np.float32(output) for output in outputs]

    def predict(self, split: str) -> Array:
        return self.outputs[self.mark - 1]


def fitted(folder: Path, *outputs: list[list[float]], **values: object) -> Trainer:
    trainer = trainer_of(Predicting(*outputs), folder, label=LABEL, epochs=len(outputs), **values)
    trainer.run(lambda row: None)
    return trainer


FAR = [[-10.0], [9.0], [15.0]]  # Corr .91, and the largest loss
CHOICES: list[tuple[dict[str, object], int]] = [
    ({}, 2), ({"selection": "loss", "selection_direction": "min"}, 2), ({"selection_direction": "max"}, 3),
    ({"selection": "MAE"}, 2), ({"selection": "MAE", "selection_direction": "max"}, 3),
    ({"selection": "Corr", "selection_direction": "max"}, 2), ({"selection": "Corr"}, 2),
    ({"selection": "Corr", "selection_direction": "min"}, 1), ({"selection": "Mult_acc_7"}, 2),
]


@pytest.mark.parametrize(("values", "best"), CHOICES, ids=lambda value: str(value))
def test_what_the_best_epoch_is(tmp_path: Path, values: dict[str, object], best: int) -> None:
    """Of a poor one, a good one, and one that correlates well but is far off."""
    trainer = fitted(tmp_path, POOR, GOOD, FAR, **values)
    rows, key = trainer.progress.history, trainer.selection.key
    assert trainer.progress.best_epoch == best
    assert trainer.progress.best_loss == rows[best - 1]["valid_loss"], "the loss of that epoch, whatever chose it"
    kept = load_checkpoint(tmp_path / "best.safetensors")
    assert all((value == best).all() for value in kept.state.weights.values())
    assert all(isinstance(row[key], float) for row in rows)
    assert list(rows[0])[5:] == ([] if trainer.selection.metric == "loss" else [key])


@pytest.mark.parametrize(("dataset", "metric", "direction"), [
    ("pom", "MAE", "min"), ("pom", "MAE vivid", "min"), ("pom", "Corr vivid", "max"), ("pom", "Acc", "max"),
    ("iemocap", "F1", "max"), ("mosi", "Mult_acc_7", "max"), ("mosi", "loss", "min")])
def test_what_a_metric_means(dataset: str, metric: str, direction: str) -> None:
    assert selection_of(make_config({"dataset": dataset, "selection": metric})).direction == direction


def test_of_equal_values_the_first_is_the_best(tmp_path: Path) -> None:
    trainer = fitted(tmp_path, GOOD, GOOD, selection="Corr")
    assert trainer.progress.best_epoch == 1 and trainer.progress.stale == 1


def test_an_undefined_metric_is_never_the_best(tmp_path: Path) -> None:
    """Nor does it forget the best one before; patience counts it."""
    trainer = fitted(tmp_path / "a", FLAT, POOR, FLAT, GOOD, FLAT, selection="Corr")
    assert [row["best"] for row in trainer.progress.history] == [False, True, False, True, False]
    assert [row["valid_Corr"] is None for row in trainer.progress.history] == [True, False, True, False, True]
    stopped = trainer_of(Predicting(FLAT, POOR, FLAT, FLAT, GOOD), tmp_path / "b", label=LABEL, epochs=5, patience=2,
                         selection="Corr")
    stopped.run(lambda row: None)
    assert (stopped.progress.epoch, stopped.progress.best_epoch, stopped.progress.stale) == (4, 2, 2)


def test_a_metric_that_is_never_defined(tmp_path: Path) -> None:
    """One line with the way out; the run can still be resumed to the same end, there is just no best model."""
    for resumed in (False, True):
        trainer = trainer_of(Predicting(FLAT, FLAT), tmp_path, label=LABEL, epochs=2, selection="Corr")
        if resumed:
            trainer.resume()
        with pytest.raises(RunFailed, match=r"^validation Corr is undefined after every epoch, so none is the best; "
                                            "use --selection loss$"):
            trainer.run(lambda row: None)
        assert trainer.progress.epoch == 2 and trainer.progress.best_epoch is None
        assert not (tmp_path / "best.safetensors").exists() and not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_that_selects_by_a_metric_goes_on(tmp_path: Path, stop: int) -> None:
    """Killed after any epoch, an undefined one too: the same files in the end."""
    outputs, keys = (FLAT, POOR, FLAT, GOOD), {"label": LABEL, "epochs": 4, "selection": "Corr"}
    fitted(tmp_path / "whole", *outputs, selection="Corr")
    first = trainer_of(Predicting(*outputs), tmp_path / "run", **keys)  # type: ignore[arg-type]
    for _ in range(stop):
        first._epoch()
    again = trainer_of(Predicting(*outputs), tmp_path / "run", **keys)  # type: ignore[arg-type]
    again.resume()
    assert again.progress == first.progress
    again.run(lambda row: None)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("row", "change", "words"), [
    (2, {"valid_Corr": "high"}, "row 3 of its history has a validation value that is no number"),
    (2, {"valid_Corr": 2.0}, "row 3 of its history is not what the rows before it lead to"),
    (1, {"valid_Corr": None}, "row 2 of its history is not what the rows before it lead to"),
])
def test_a_history_whose_metric_is_another(tmp_path: Path, row: int, change: dict[str, object], words: str) -> None:
    progress = asdict(fitted(tmp_path, POOR, GOOD, POOR, selection="Corr").progress)
    progress["history"][row].update(change)
    better = selection_of(make_config({"dataset": "mosi", "selection": "Corr"})).better
    with pytest.raises(UserError, match=words):
        read_progress(progress, Path("last.safetensors"), better)


def test_a_row_with_another_selection_is_another_run(tmp_path: Path) -> None:
    fitted(tmp_path, POOR, GOOD, selection="Corr")
    other = trainer_of(Predicting(POOR, GOOD), tmp_path, label=LABEL, epochs=2)
    with pytest.raises(UserError, match=r'the configuration changed: selection \("Corr" before, "loss" now\)'):
        other.resume()


def test_an_epoch_s_line_says_what_selects(capsys: pytest.CaptureFixture[str]) -> None:
    row: dict[str, Any] = {"epoch": 3, "train_loss": 1.0, "valid_loss": 2.0, "best": True, "skipped_steps": 0}
    metrics: list[dict[str, Any]] = [{}, {"valid_Corr": 0.5}, {"valid_Corr": None}]
    for more in metrics:
        print_epoch({**row, **more})
    begin = "epoch   3  train 1.00000  valid 2.00000"
    assert capsys.readouterr().out.splitlines() == [
        f"{begin}  best", f"{begin}  Corr 0.5000  best", f"{begin}  Corr undefined  best"]
