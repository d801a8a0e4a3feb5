"""Where a run stands, and whether a file says so rightly."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.common.errors import UserError, one_line
from core.common.records import check_record
from core.common.text import shown
from core.training.run_folder import Row
from core.training.written import PROGRESS

WAY_OUT = "put the run's own last.safetensors back or start a new run"


@dataclass
class Progress:
    """Where a run stands after its last finished epoch. `stale` counts epochs without improvement.

    best_loss: the validation loss of the best epoch, whatever chose it.
    """

    epoch: int = 0  # finished epochs
    best_loss: float | None = None
    best_epoch: int | None = None
    stale: int = 0
    history: list[Row] = field(default_factory=list)


def read_progress(values: Mapping[str, Any], origin: Path, better: Callable[[Row, Progress], bool]) -> Progress:
    """The progress in a checkpoint's record; `better`: whether a row is better than the best before it.

    Raises UserError where it isn't what its own history makes of it.
    """
    rows = check_record(values, PROGRESS, f"{origin}: its record of epochs", WAY_OUT).history
    found = Progress(history=values["history"])  # not the checked rows: later versions may have more keys
    for row, whole in zip(rows, found.history, strict=True):
        found.epoch, found.stale = found.epoch + 1, found.stale + 1
        try:
            improved = better(whole, found)
        except TypeError as error:  # whatever chose the best epoch isn't among the checked keys
            raise UserError(f"{origin}: row {found.epoch} of its history has a validation value that is no number "
                            f"({one_line(error)}); {WAY_OUT}") from error
        if improved:
            found.best_loss, found.best_epoch, found.stale = row.valid_loss, found.epoch, 0
        if (row.epoch, row.best) != (found.epoch, found.stale == 0):
            raise UserError(f"{origin}: row {found.epoch} of its history is not what the rows before it lead to "
                            f"(epoch {row.epoch}, best: {row.best}); {WAY_OUT}")
    for key, value in vars(found).items():
        if values.get(key) != value:
            raise UserError(f"{origin}: its progress has {key} = {shown(values.get(key), 80)}, by its history "
                            f"{shown(value, 80)}; {WAY_OUT}")
    return found
