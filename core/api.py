"""Train, evaluate, infer, export: what the commands do, as functions. They print nothing.

    from core import api
    from core.config import make_config

    metrics = api.train("torch", make_config({"dataset": "pom", "data": "synthetic", "epochs": 2}))
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from core.common.arrays import Array
from core.common.errors import RunFailed
from core.config import Config, build_graph
from core.data import Dataset
from core.data.ranges import outside
from core.data.unlabelled import read_unlabelled
from core.models.graph import Graph
from core.models.precision import Observed
from core.runtime.backend import check_device, open_session
from core.runtime.start import start_run
from core.training.checkpoint import Checkpoint
from core.training.losses import loss_of
from core.training.metrics import Value
from core.training.metrics import evaluate as all_metrics
from core.training.prepare import prepare
from core.training.session import Session
from core.training.state import check_weights
from core.training.trainer import Report, Trainer, full_state


@dataclass(frozen=True)
class Evaluation:
    """A checkpoint on a split: its outputs (N, O), its metrics, the data that it was held against, where and in what it
    was computed.
    """

    dataset: Dataset
    output: Array
    metrics: dict[str, Value]
    computed: Observed


@dataclass(frozen=True)
class Prediction:
    """Outputs (N, O) for the rows of a file, what these were, per input how much of it was cleaned, where and in what
    they were computed.
    """

    output: Array
    arrays: Mapping[str, Array]
    cleaned: Mapping[str, Mapping[str, int]]
    computed: Observed


def train(backend: str, config: Config, folder: Path | None = None, resume: bool = False,
          started: Callable[[Trainer], object] = lambda trainer: None,
          report: Report = lambda row: None) -> dict[str, Any]:
    """Train in `folder`, or in a new one, or go on there after its last epoch. Returns what metrics.json holds.

    started hears of the run before its first epoch, report of every epoch. Raises UserError, and RunFailed when a loss
    stops being finite.
    """
    trainer = start_run(backend, config, folder, resume)
    try:
        started(trainer)
    except BaseException:
        trainer.run_folder.close()
        raise
    return trainer.run(report)


def evaluate(backend: str, checkpoint: Checkpoint, config: Config, split: str = "test") -> Evaluation:
    """The metrics of `checkpoint` on a split of the data of `config`. Raises UserError where they don't fit."""
    check_device(backend, config)
    dataset, graph = prepare(config)
    session = _open(backend, checkpoint, config, graph)
    arrays = dataset.splits[split].arrays
    session.load_data(split, arrays)
    output, label = session.predict(split), arrays["label"]
    return Evaluation(dataset, output, {"loss": loss_of(config).shown(output, label),
                                        **all_metrics(dataset.task, output, label)}, session.observed())


def infer(backend: str, checkpoint: Checkpoint, config: Config, path: Path) -> Prediction:
    """Outputs for the rows of `path`, without labels. Raises UserError for a file that doesn't fit.

    Raises RunFailed naming the first row without a finite prediction, and its furthest value where that is known.
    """
    check_device(backend, config)
    arrays, cleaned = read_unlabelled(path, checkpoint.inputs, config.max_len, config.known.padding)
    inputs = [replace(one, shape=arrays[one.name].shape[1:]) for one in checkpoint.inputs]  # steps as they are here
    session = _open(backend, checkpoint, config, build_graph(config, inputs))
    session.load_data("input", arrays)
    output = session.predict("input")
    _refuse_broken(path, arrays, output, checkpoint)
    return Prediction(output, arrays, cleaned, session.observed())


def export(backend: str, checkpoint: Checkpoint, config: Config, path: Path) -> list[Path]:
    """Write the network for deployment, in the form that the ending of `path` names. Returns the files."""
    session = _open(backend, checkpoint, config, build_graph(config, checkpoint.inputs))
    return session.export(path, path.suffix.removeprefix("."))


def _open(backend: str, checkpoint: Checkpoint, config: Config, graph: Graph) -> Session:
    """A session with the weights of `checkpoint`, refused where they don't fit the data or the flags."""
    check_weights(graph, checkpoint.state.weights, "checkpoint")
    session = open_session(backend, graph, config)
    session.load_state(full_state(checkpoint, graph, config))
    return session


def _refuse_broken(path: Path, arrays: Mapping[str, Array], output: Array, checkpoint: Checkpoint) -> None:
    broken = np.flatnonzero(~np.isfinite(output).all(axis=1))
    if not len(broken):
        return
    row = int(broken[0])
    found = [f"; {name} {beyond.furthest}" for name, array in arrays.items()
             if checkpoint.ranges and (beyond := outside(name, array, checkpoint.ranges, [row]))]
    raise RunFailed(f"{path}: row {row} has no finite prediction ({len(broken)} of {len(output)} rows){''.join(found)}"
                    "; repair, rescale or drop these rows, nothing was written")
