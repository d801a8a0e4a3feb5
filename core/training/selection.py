"""What a selection may see: training and validation rows, and nothing else.

Early stopping, the choice of the best epoch and the hyperparameter search get their data through here. A score on the
test split that decides anything is no test score any more: the Ascend port and MMSA's tuner choose by it.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from core.common.arrays import Array
from core.common.errors import RunFailed
from core.config import Config
from core.data.record import Dataset, Split
from core.data.specs import Task
from core.training.metrics import evaluate
from core.training.progress import Progress
from core.training.run_folder import Row

SEEN = ("train", "valid")


class SelectionSplits(Mapping[str, Split]):
    """The splits `train` and `valid`; asking for another is an error, not an empty answer."""

    def __init__(self, splits: Mapping[str, Split]) -> None:
        self._splits = {name: splits[name] for name in SEEN}

    def __getitem__(self, name: str) -> Split:
        if name not in self._splits:
            raise RunFailed(f"split {name!r}: a selection may see only {' and '.join(SEEN)}; evaluate on {name!r} "
                            "after the selection is made")
        return self._splits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)


def rank(value: float | None, direction: Literal["min", "max"]) -> float:
    """The lower, the better; None, which is no value, comes last."""
    return float("inf") if value is None else value if direction == "min" else -value


@dataclass(frozen=True)
class Selection:
    """What chooses the best epoch: the validation loss, or a metric of the validation rows, lowest or highest.

    An undefined metric is never the best.
    """

    metric: str
    direction: Literal["min", "max"]
    task: Task

    @property
    def key(self) -> str:
        """Where an epoch's row holds the value."""
        return "valid_loss" if self.metric == "loss" else f"valid_{self.metric}"

    @property
    def title(self) -> str:
        """`validation loss`."""
        return f"validation {self.metric}"

    @property
    def end(self) -> str:
        """Which values are the best: `lowest` or `highest`."""
        return "lowest" if self.direction == "min" else "highest"

    @property
    def extreme(self) -> str:
        """`lowest validation loss`."""
        return f"{self.end} {self.title}"

    def noted(self, output: Array, label: Array) -> Row:
        """What an epoch's row holds beside its losses: the metric, where one selects."""
        return {} if self.metric == "loss" else {self.key: evaluate(self.task, output, label)[self.metric]}

    def better(self, row: Row, before: Progress) -> bool:
        """Whether the epoch of `row` is better than the best one before it."""
        value = row.get(self.key)
        if value is None or before.best_epoch is None:
            return value is not None
        best = before.history[before.best_epoch - 1][self.key]
        return bool(value < best if self.direction == "min" else value > best)


def selection_of(config: Config) -> Selection:
    """What `config` selects by."""
    task = config.described.task
    natural = task.metrics.get(config.selection, "min")  # the loss is none of them
    direction = natural if config.selection_direction == "auto" else config.selection_direction
    return Selection(config.selection, direction, task)


def for_selection(dataset: Dataset) -> Dataset:
    """`dataset` without its test split."""
    return replace(dataset, splits=SelectionSplits(dataset.splits))
