"""Loss curves for TensorBoard: one event file per run, written through tensorboardX."""
from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.files import naming_errors


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Hide PyTorch from an import: tensorboardX loads it where it is installed, and needs it for nothing here."""
    modules: dict[str, Any] = sys.modules  # None under a name makes its import fail
    kept = modules.get("torch")
    modules["torch"] = None
    try:
        yield
    finally:
        if kept is None:
            del modules["torch"]
        else:
            modules["torch"] = kept


class Curves:
    """Writes the losses of every epoch to `folder`. Raises RunFailed naming it when the disk is full.

    tensorboardX's plain event writer: SummaryWriter's thread would lose the error of a full disk.
    """

    def __init__(self, folder: Path) -> None:
        with without_torch():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.summary import scalar
        self._folder, self._event, self._scalar = folder, Event, scalar
        shutil.rmtree(folder, ignore_errors=True)
        with naming_errors(folder):
            folder.mkdir(parents=True)
            self._writer = EventsWriter(str(folder / "events"))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the losses of an epoch."""
        with naming_errors(self._folder):
            for key in ("train_loss", "valid_loss"):
                event = self._event(wall_time=time.time(), step=row["epoch"], summary=self._scalar(key, row[key]))
                self._writer.write_event(event)
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with naming_errors(self._folder):
            self._writer.close()
