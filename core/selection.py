"""What a selection may see: training and validation rows, and nothing else.

Early stopping, the choice of the best epoch and the hyperparameter search get their data through here. A score on the
test split that decides anything is no test score any more: the Ascend port and MMSA's tuner choose by it.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from core.data.record import Dataset, Split
from core.errors import RunFailed

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


def for_selection(dataset: Dataset) -> Dataset:
    """`dataset` without its test split."""
    return replace(dataset, splits=SelectionSplits(dataset.splits))
