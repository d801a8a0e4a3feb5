"""False alarms: float32 rungs over many seeds, on data sets of the published shapes.

    python -m parity_tests.alarms --data_dir DIR [--seeds 200] [--rungs "forward,train mode"]

Without DIR, the folder of mosi.pkl and pom.pkl, only synthetic IEMOCAP is climbed. Exits with 1 when a rung says
that a correct backend differs.
"""
from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.config import make_config, to_values
from core.runtime.backend import BACKENDS, missing_reason
from core.runtime.worker import Worker
from core.training.prepare import prepare
from core.training.state import initial_state
from parity.ground import DECAY, Ground
from parity.ladder import Rung, Subject, climb, subject

CELLS: dict[str, dict[str, Any]] = {
    "mosi": {"dataset": "mosi"}, "pom": {"dataset": "pom", "modalities": "audio,video"},
    "iemocap": {"dataset": "iemocap", "data": "synthetic"},
}
RUNGS = ("forward", "train mode", "loss", "gradients", "adam")
BATCHES = (16, 128)


def climbed(workers: Mapping[str, Worker], values: Mapping[str, Any], seeds: Sequence[int],
            rungs: Sequence[str] = RUNGS, batches: Sequence[int] = BATCHES) -> Iterator[tuple[int, int, Rung]]:
    """(seed, batch size, rung) of every backend, in sessions that are opened once."""
    config = make_config(values)
    dataset, graph = prepare(config)
    resolved = to_values(config)
    for key in ("data_dir", "store_dir"):  # the worker stands elsewhere
        resolved.pop(key)
    kept: list[Subject] = []
    for seed in seeds:
        for batch in batches:
            one = config.model_copy(update={"seed": seed, "batch_size": batch})
            ground = Ground(graph, one, initial_state(graph, seed, config.precision), dataset.splits["train"].arrays,
                            dataset.splits["valid"].arrays)
            if not kept:
                decaying = {**resolved, "weight_decay": DECAY}
                kept = [subject(name, worker.open("alarms", resolved, graph.inputs),
                                worker.open("alarms decay", decaying, graph.inputs), ground)
                        for name, worker in workers.items()]
            subjects = [Subject(s.backend, s.session, s.decaying, ground) for s in kept]
            for name in rungs:
                for rung in climb(name, subjects):
                    yield seed, batch, rung


def main() -> int:
    """Print, per cell and rung, how many alarms there were and the largest share of what is allowed."""
    parser = argparse.ArgumentParser(prog="python -m parity_tests.alarms", description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=Path, help="the folder of mosi.pkl and pom.pkl")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--rungs", default=",".join(RUNGS))
    given = parser.parse_args()
    cells = {name: {**values, "precision": "float32", **({"data_dir": str(given.data_dir)} if given.data_dir else {})}
             for name, values in CELLS.items() if given.data_dir or "data" in values}
    workers = {name: Worker(name) for name in BACKENDS if not missing_reason(name)}
    alarms = 0
    print(f"| cell | batch | rung | climbed | alarms | allowed | largest: {' | '.join(workers)} |")
    print("|---" * (6 + len(workers)) + "|")
    try:
        for cell, values in cells.items():
            found: dict[tuple[int, str], list[Rung]] = defaultdict(list)
            for seed, batch, rung in climbed(workers, values, range(given.seeds), given.rungs.split(",")):
                found[batch, rung.name].append(rung)
                if rung.problem:
                    alarms += 1
                    print(f"{cell}, seed {seed}, batch {batch}: {rung.problem}", file=sys.stderr)
            for (batch, name), rungs in found.items():
                largest = [max(gap.relative for rung in rungs if rung.backend == backend for gap in rung.gaps.values())
                           for backend in workers]
                print(f"| {cell} | {batch} | {name} | {len(rungs)} | {sum(bool(r.problem) for r in rungs)} | "
                      f"{rungs[0].tolerance:.0e} | {' | '.join(f'{value:.1e}' for value in largest)} |", flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    print(f"{alarms} alarms")
    return int(alarms > 0)


if __name__ == "__main__":
    sys.exit(main())
