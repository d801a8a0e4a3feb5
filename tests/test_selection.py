"""No selection can see the test split: not early stopping, not the best epoch, not the search."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from core.data import Dataset, Split
from core.errors import RunFailed
from core.randomness import Array
from core.selection import SEEN, for_selection
from core.state import State
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
    dataset = Dataset("mosi", None, "regression", {name: Split(arrays) for name in ("train", "valid", "test")},
                      ("audio",), None, ("score",), False, "", {}, None)  # type: ignore[arg-type]
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
