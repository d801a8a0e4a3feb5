"""Training speed of every installed backend, beside its framework's own LSTM.

    python -m benchmarks.training_speed [--backends torch,paddle] [--rounds 7] [--json FILE] [--profile]

One interleaved run: each round trains one epoch per backend and cell and then runs the floor as often as the
epoch had steps. Ratios of medians hold on a busy machine, absolute times don't. Data: random numbers of the
published shapes.
"""
from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from core.backend import BACKENDS, missing_reason
from core.files import write_json
from core.models import InputDims
from core.worker import Worker

SHAPES = {  # rows and widths of the published data
    "iemocap": (2717, InputDims(74, 35, 300, 20)), "pom": (600, InputDims(43, 43, 300, 20)),
    "mosi": (1284, InputDims(5, 20, 300, 20)),
}
CELLS: dict[str, dict[str, Any]] = {
    "iemocap happy, batch 128": {"dataset": "iemocap", "audio_hidden": 4, "video_hidden": 16, "text_hidden": 128,
                                 "text_dropout": 0.5, "video_dropout": 0.1, "rank": 1, "batch_size": 128},
    "iemocap neutral, batch 16": {"dataset": "iemocap", "emotion": "neutral", "audio_hidden": 32, "video_hidden": 8,
                                  "audio_dropout": 0.2, "rank": 16, "batch_size": 16},
    "mosi, batch 32": {"dataset": "mosi", "batch_size": 32},
    "pom, batch 16": {"dataset": "pom", "batch_size": 16},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", action="store_true", help="also print where an epoch spends its time")
    options = parser.parse_args()
    backends = [name for name in options.backends.split(",") if not missing_reason(name)]
    workers = {name: Worker(name) for name in backends}
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for cell, values in CELLS.items():
        rows, dims = SHAPES[values["dataset"]]
        for name, worker in workers.items():
            worker.run("benchmarks.measure:prepare", name, cell, {**values, "threads": options.threads}, dims, rows)
    for epoch in range(options.rounds):
        for cell, values in CELLS.items():
            for name, worker in workers.items():
                seconds = worker.run("benchmarks.measure:measure", cell, SHAPES[values["dataset"]][0], epoch)
                times.setdefault((cell, name), []).append(seconds)
    results = [summary(cell, name, SHAPES[CELLS[cell]["dataset"]][0], pairs) for (cell, name), pairs in times.items()]
    show(results, options.rounds, options.threads)
    if options.profile:
        for cell, values in CELLS.items():
            for name, worker in workers.items():
                show_profile(cell, name, worker.run("benchmarks.measure:profile", cell, SHAPES[values["dataset"]][0]))
    if options.json:
        write_json(options.json, results)
    for worker in workers.values():
        worker.close()


def summary(cell: str, backend: str, rows: int, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians over the rounds of one cell and backend."""
    ratios = sorted(train / floor for train, floor in pairs)
    return {"cell": cell, "backend": backend, "samples_per_second": rows / statistics.median(t for t, _ in pairs),
            "ratio_to_lstm": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}


def show(results: list[dict[str, Any]], rounds: int, threads: int) -> None:
    """The table."""
    table = Table("data shape and batch", "backend", "samples/s", "step / bare LSTM", "lowest", "highest",
                  title=f"training, median of {rounds} interleaved rounds, {threads} thread(s), CPU")
    for row in results:
        table.add_row(row["cell"], row["backend"], f"{row['samples_per_second']:.0f}",
                      *(f"{row[key]:.2f}" for key in ("ratio_to_lstm", "lowest", "highest")))
    Console().print(table)


def show_profile(cell: str, backend: str, lines: list[tuple[str, int, float]]) -> None:
    """Own time per function."""
    table = Table("function", "calls", "share", title=f"{cell}, {backend}: own time within an epoch")
    for function, calls, share in lines:
        table.add_row(function, str(calls), f"{share:.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
