"""Where a run stands, and whether a file says so rightly."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.records import check_record
from core.run_folder import Row
from core.text import shown
from core.written import PROGRESS

WAY_OUT = "put the run's own last.safetensors back or start a new run"


@dataclass
class Progress:
    """Where a run stands after its last finished epoch. `stale` counts epochs without improvement."""

    epoch: int = 0  # finished epochs
    best_loss: float | None = None
    best_epoch: int | None = None
    stale: int = 0
    history: list[Row] = field(default_factory=list)


def read_progress(values: Mapping[str, Any], origin: Path) -> Progress:
    """The progress in a checkpoint's record. Raises UserError where it isn't what its own history makes of it."""
    rows = check_record(values, PROGRESS, f"{origin}: its record of epochs", WAY_OUT).history
    found = Progress(history=values["history"])  # not the checked rows: later versions may have more keys
    for row in rows:
        found.epoch, found.stale = found.epoch + 1, found.stale + 1
        if found.best_loss is None or row.valid_loss < found.best_loss:
            found.best_loss, found.best_epoch, found.stale = row.valid_loss, found.epoch, 0
        if (row.epoch, row.best) != (found.epoch, found.stale == 0):
            raise UserError(f"{origin}: row {found.epoch} of its history is not what the rows before it lead to "
                            f"(epoch {row.epoch}, best: {row.best}); {WAY_OUT}")
    for key, value in vars(found).items():
        if values.get(key) != value:
            raise UserError(f"{origin}: its progress has {key} = {shown(values.get(key), 80)}, by its history "
                            f"{shown(value, 80)}; {WAY_OUT}")
    return found
