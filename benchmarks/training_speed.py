"""Training speed of every installed backend, beside its framework's own layers.

    python -m benchmarks.training_speed [--backends torch,paddle] [--rounds 7] [--json FILE] [--profile]

One interleaved run: each round trains one epoch per backend and cell and then runs the floor as often as the
epoch had steps. The floor is what the table says, forward and backward. Ratios of medians hold on a busy machine,
absolute times don't. Data: random numbers of the published shapes.
"""
from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rounds import choose_backends, interleave, make_parser, open_workers, ratios
from core.common.files import write_json
from core.common.guard import guarded
from core.data.published import DATASETS

SHAPES = {name: (spec.published.rows[0], spec.inputs) for name, spec in DATASETS.items()}  # rows to train on, inputs
CELLS: dict[str, dict[str, Any]] = {
    "iemocap happy, batch 128": {"dataset": "iemocap", "audio_hidden": 4, "video_hidden": 16, "text_hidden": 128,
                                 "text_dropout": 0.5, "video_dropout": 0.1, "rank": 1, "batch_size": 128},
    "iemocap neutral, batch 16": {"dataset": "iemocap", "emotion": "neutral", "audio_hidden": 32, "video_hidden": 8,
                                  "audio_dropout": 0.2, "rank": 16, "batch_size": 16},
    "mosi, batch 32": {"dataset": "mosi", "batch_size": 32},
    "pom, batch 16": {"dataset": "pom", "batch_size": 16},
    "mosi_aligned, LSTM, batch 16": {"dataset": "mosi_aligned", "model": "msa", "batch_size": 16},
    "mosi_aligned, Transformer, batch 16": {"dataset": "mosi_aligned", "model": "msa", "encoder": "transformer",
                                            "batch_size": 16},
}


def main() -> None:
    parser = make_parser("benchmarks.training_speed", __doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    parser.add_argument("--profile", action="store_const", const=True, help="also print where an epoch spends its time")
    given = parser.parse(sys.argv[1:])
    rounds, threads = given.get("rounds", 7), given.get("threads", 1)
    with open_workers(choose_backends(given)) as workers:
        jobs, floors = {}, {}
        for cell, values in CELLS.items():
            rows, inputs = SHAPES[values["dataset"]]
            for name, worker in workers.items():
                floors[cell] = worker.run("benchmarks.measure:prepare", name, cell, {**values, "threads": threads},
                                          inputs, rows)
                jobs[cell, name] = partial(worker.run, "benchmarks.measure:measure", cell, rows)
        times = interleave(jobs, rounds, "training")
        results = [summary(cell, name, SHAPES[CELLS[cell]["dataset"]][0], floors[cell], pairs)
                   for (cell, name), pairs in times.items()]
        show(results, rounds, threads)
        if "profile" in given:
            for cell, values in CELLS.items():
                for name, worker in workers.items():
                    rows = SHAPES[values["dataset"]][0]
                    show_profile(cell, name, worker.run("benchmarks.measure:profile", cell, rows))
    if "json" in given:
        write_json(given["json"], results)


def summary(cell: str, backend: str, rows: int, floor: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians over the rounds of one cell and backend."""
    trained, bare = zip(*pairs, strict=True)
    ratio = ratios(trained, bare)
    return {"cell": cell, "backend": backend, "samples_per_second": rows / statistics.median(trained),
            "floor": floor, "ratio_to_floor": ratio.median, "lowest": ratio.lowest, "highest": ratio.highest}


def show(results: list[dict[str, Any]], rounds: int, threads: int) -> None:
    """The table."""
    table = Table("data shape and batch", "backend", "samples/s", "floor", "step / floor", "lowest", "highest",
                  title=f"training, median of {rounds} interleaved rounds, {threads} thread(s), CPU")
    for row in results:
        table.add_row(row["cell"], row["backend"], f"{row['samples_per_second']:.0f}", row["floor"],
                      *(f"{row[key]:.2f}" for key in ("ratio_to_floor", "lowest", "highest")))
    Console().print(table)


def show_profile(cell: str, backend: str, lines: list[tuple[str, int, float]]) -> None:
    """Own time per function."""
    table = Table("function", "calls", "share", title=f"{cell}, {backend}: own time within an epoch")
    for function, calls, share in lines:
        table.add_row(function, str(calls), f"{share:.0%}")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(guarded(sys.argv[1:], main))
