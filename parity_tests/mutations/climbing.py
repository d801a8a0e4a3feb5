"""The ladder on tiny shapes, with a fault in one backend or in none."""
from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.runtime.worker import Worker
from core.training.state import initial_state
from parity.ground import DECAY, Ground
from parity.ladder import Rung, climb, subject
from parity_tests.conftest import SIZES, make_arrays
from parity_tests.divergences import installed

# Factors of one width, so that they can change places; no decay, so that a rung has to bring its own.
VALUES = {"dataset": "iemocap", "audio_hidden": 4, "video_hidden": 4, "text_hidden": 6, "rank": 3, "batch_size": 8,
          "weight_decay": 0.0}


@lru_cache
def ground(precision: str) -> Ground:
    """21 rows, in batches of 8 with a ragged last one."""
    config = make_config({**VALUES, "precision": precision})
    graph = build_graph(config, feature_inputs(**SIZES))
    arrays = make_arrays(graph, precision)
    return Ground(graph, config, initial_state(graph, 3, precision), arrays, arrays)


def climbed(workers: Mapping[str, Worker], precision: str, rungs: Sequence[str], faulty: str | None = None,
            fault: str = "") -> list[Rung]:
    """Those rungs of all workers' backends, with `fault` in the backend `faulty`."""
    common = ground(precision)
    with installed(workers[faulty], fault, "parity_tests.mutations") if faulty else contextlib.nullcontext():
        subjects = []
        for name, worker in workers.items():
            values = {**VALUES, "precision": precision}
            sessions = [worker.open(f"mutation {key}", {**values, "weight_decay": decay}, common.graph.inputs)
                        for key, decay in (("ladder", 0.0), ("decay", DECAY))]
            subjects.append(subject(name, *sessions, common))
        return [rung for name in rungs for rung in climb(name, subjects)]


def accused(rungs: Sequence[Rung]) -> dict[str, list[str]]:
    """Backend -> the rungs in which a difference is laid to it, to it alone or beside others."""
    found: dict[str, list[str]] = {}
    for rung in rungs:
        if rung.problem:
            for name in rung.accused:
                found.setdefault(name, []).append(rung.name)
    return found
