"""From a configuration to a run that is ready to train."""
from __future__ import annotations

from pathlib import Path

from core.config import Config
from core.runtime.backend import check_device, open_session
from core.training.prepare import prepare
from core.training.run_folder import RunFolder, new_run_folder
from core.training.trainer import Trainer


def start_run(backend: str, config: Config, path: Path | None, resume: bool) -> Trainer:
    """A trainer at the beginning of a run, or with `resume` after its last finished epoch.

    `path` is its run folder; None makes a new one, once all else is known to work. The folder is claimed until the run
    ends. Raises UserError, for a folder that another process works in too.
    """
    check_device(backend, config)
    dataset, graph = prepare(config)
    session = open_session(backend, graph, config)
    path = path or new_run_folder(config, backend)
    folder = RunFolder(path, config)
    try:
        folder.claim()
        trainer = Trainer(session, graph, config, dataset, folder, backend)
        trainer.load()
        if resume:
            trainer.resume()
        folder.write_start(config, dataset, backend, graph.parameter_count, session.observed())
        return trainer
    except BaseException:
        folder.close()
        raise
