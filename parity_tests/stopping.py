"""Runs inside a worker: begin a run and stop it after some epochs, or carry one on."""
from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from core.config import make_config
from core.runtime.backend import open_session
from core.training.prepare import prepare
from core.training.run_folder import Row, RunFolder
from core.training.trainer import Trainer


class Stop(Exception):
    """Raised where a user's Ctrl-C or a power cut would strike."""


def train(backend: str, values: dict[str, Any], path: Path, resume: bool, stop_after: int) -> list[Row]:
    """Train in run folder `path` until the end, or until epoch `stop_after` is finished. Returns the history."""
    config = make_config(values)
    dataset, graph = prepare(config)
    trainer = Trainer(open_session(backend, graph, config), graph, config, dataset, RunFolder(path, config), backend)
    trainer.load()
    if resume:
        trainer.resume()

    def report(row: Row) -> None:
        if row["epoch"] == stop_after:
            raise Stop

    with contextlib.suppress(Stop):
        trainer.run(report)
    return trainer.progress.history
