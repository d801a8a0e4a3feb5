"""Runs inside a worker: begin a run and stop it after some epochs, carry one on, or run on rows that are given."""
from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from core.common.arrays import Array
from core.config import build_graph, make_config
from core.data import Dataset, Split
from core.runtime.backend import open_session
from core.training.prepare import prepare
from core.training.progress import Progress
from core.training.run_folder import Row, RunFolder
from core.training.trainer import Trainer
from parity.runs import Recorder


class Stop(Exception):
    """Raised where a user's Ctrl-C or a power cut would strike."""


def train(backend: str, values: dict[str, Any], path: Path, resume: bool, stop_after: int) -> list[Row]:
    """Train in run folder `path` until the end, or until epoch `stop_after` is finished. Returns the history."""
    config = make_config(values)
    dataset, graph = prepare(config)
    trainer = Trainer(open_session(backend, graph, config), graph, config, dataset, RunFolder(path, config), backend)
    finish(trainer, resume, stop_after)
    return trainer.progress.history


def finish(trainer: Trainer, resume: bool, stop_after: int) -> None:
    """Until the end, or until epoch `stop_after` is finished."""
    trainer.load()
    if resume:
        trainer.resume()

    def report(row: Row) -> None:
        if row["epoch"] == stop_after:
            raise Stop

    with contextlib.suppress(Stop):
        trainer.run(report)


def on_rows(backend: str, values: dict[str, Any], splits: dict[str, dict[str, Array]], path: Path,
            resume: bool = False, stop_after: int = 0) -> tuple[list[float], Progress, Array | None]:
    """The same on the rows of `splits`: loss of every step, progress, and at the end scores of the test rows."""
    config = make_config(values)
    described = config.described.measured(splits["train"])
    dataset = Dataset(described, None, {name: Split(arrays) for name, arrays in splits.items()}, True, "", {}, None)
    graph = build_graph(config, described.inputs)
    session = Recorder(open_session(backend, graph, config), config.loss_reduction)
    trainer = Trainer(session, graph, config, dataset, RunFolder(path, config), backend)
    finish(trainer, resume, stop_after)
    return session.steps, trainer.progress, None if stop_after else session.predict("test")
