"""`python -m parity`: is it one result?

    python -m parity --dataset mosi --data_dir DIR --backends torch,mindspore,paddle --output parity.html
    python -m parity --dataset pom --data synthetic --backends torch,paddle --rungs forward,gradients
    python -m parity --checkpoint runs/mosi-torch-1 --data_dir DIR

Exits with 1 when a difference is found.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from core.backend import BACKENDS, missing_reason
from core.checkpoint import load_checkpoint
from core.config import Config, make_config
from core.console import PlainConsole
from core.data import load_dataset
from core.errors import RunFailed, UserError
from core.flags import Parser, make_parser, read_values
from core.guard import guarded
from core.models import ModelSpec, build_spec
from core.run_folder import versions
from core.state import State, check_weights, initial_state
from core.trainer import full_state
from core.worker import Worker
from parity.ladder import RUNGS, Rung, climb, subject
from parity.report import write_report
from parity.runs import Record, Verdict, judge

console = PlainConsole(highlight=False)


def parser() -> Parser:
    """All flags of the schema, and those of the comparison."""
    made = make_parser("python -m parity", "Compare backends rung by rung and run by run; write one HTML report.")
    made.add_argument("--backends", metavar="NAMES", help="two or more of torch,mindspore,paddle; the first is the "
                                                          "reference [every installed one]")
    made.add_argument("--rungs", metavar="NAMES", help=f"comma-separated, of: {', '.join([*RUNGS, 'run'])} [all]")
    made.add_argument("--checkpoint", metavar="FILE", help="begin from this checkpoint's configuration and weights")
    made.add_argument("--nudges", metavar="N", help="per backend, runs with one weight moved by one unit "
                                                  "in the last place [3]")
    made.add_argument("--output", metavar="FILE", help="the report [parity.html]")
    return made


class Board:
    """The live table: a row per rung, a column per backend."""

    def __init__(self, backends: Sequence[str], rungs: Sequence[str]) -> None:
        self.cells = {name: dict.fromkeys(rungs, "") for name in backends}
        self.live = Live(self.table(), console=console, refresh_per_second=4)

    def table(self) -> Table:
        table = Table("rung", *self.cells)
        for rung in next(iter(self.cells.values())):
            table.add_row(rung, *(cells[rung] for cells in self.cells.values()))
        return table

    def put(self, backend: str, rung: str, text: str) -> None:
        self.cells[backend][rung] = text
        self.live.update(self.table())


def main() -> None:
    """Run the comparison that the command line asks for. Raises RunFailed when backends differ."""
    given = parser().parse(sys.argv[1:])
    backends = _names(given, "backends", list(BACKENDS), [b for b in BACKENDS if not missing_reason(b)])
    rungs = _names(given, "rungs", [*RUNGS, "run"], [*RUNGS, "run"])
    if len(backends) < 2:
        raise UserError(f"--backends {','.join(backends)}: expected two or more; install another framework or name two")
    for name in backends:
        if reason := missing_reason(name):
            raise UserError(reason)
    if not str(given.get("nudges", 3)).isdigit():
        raise UserError(f"--nudges {given['nudges']}: expected a whole number")
    config, state, dataset, spec = _start(given)
    workers = {name: Worker(name) for name in backends}
    board = Board(backends, rungs)
    try:
        with board.live:
            climbed = _climb(workers, [r for r in rungs if r in RUNGS], config, state, dataset, spec, board)
            runs = _run(workers, config, spec, int(given.get("nudges", 3)), board) if "run" in rungs else None
    finally:
        for worker in workers.values():
            worker.close()
    problems = [f"{r.backend} {r.name}: {r.first_difference}" for r in climbed if r.first_difference]
    if runs:
        problems += [f"{v.backend} run: {problem}" for v in runs[2] for problem in v.problems]
    path = Path(given.get("output", "parity.html"))
    machine = {name: versions(name) for name in backends}
    write_report(path, dataset.title, config, machine, climbed, runs, problems)
    console.print()
    for problem in problems:
        console.print(f"differs: {problem}")
    console.print(f"report: {path}")
    if problems:
        raise RunFailed(f"parity: {len(problems)} differences, the first: {problems[0]}")


def _names(given: dict[str, Any], key: str, allowed: list[str], default: list[str]) -> list[str]:
    names = [name.strip() for name in given[key].split(",")] if key in given else default
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise UserError(f"--{key}: unknown {unknown[0]!r}, expected some of {', '.join(allowed)}")
    return names


def _start(given: dict[str, Any]) -> tuple[Config, State, Any, ModelSpec]:
    """Configuration (float64 unless said otherwise), state to begin from, data and model."""
    values, origin = read_values(given)
    checkpoint = None
    if "checkpoint" in given:
        checkpoint = load_checkpoint(Path(given["checkpoint"]))
        values = {**checkpoint.config.model_dump(mode="json"), "precision": "float64", **values}
    config = make_config({"precision": "float64", **values}, origin)
    dataset = load_dataset(config)
    spec = build_spec(config, dataset.dims)
    if checkpoint is None:
        return config, initial_state(spec, config.seed, config.precision), dataset, spec
    check_weights(spec, checkpoint.state.weights, given["checkpoint"])
    return config, full_state(checkpoint, spec, config), dataset, spec


def _climb(workers: dict[str, Worker], rungs: list[str], config: Config, state: State, dataset: Any, spec: ModelSpec,
           board: Board) -> list[Rung]:
    values = config.model_dump(mode="json")
    subjects = [subject(name, worker.open("ladder", values, dataset.dims), spec, config, state, dataset)
                for name, worker in workers.items()]
    climbed = []
    for name in rungs:
        for one in subjects:
            board.put(one.backend, name, "...")
            rung = climb(name, one, subjects[0])
            climbed.append(rung)
            worst = f"{max((g.relative for g in rung.gaps.values()), default=0.0):.0e}"
            board.put(one.backend, name, "[red]differs[/]" if rung.first_difference else worst.replace("0e+00", "0"))
    return climbed


def _run(workers: dict[str, Worker], config: Config, spec: ModelSpec, nudges: int,
         board: Board) -> tuple[list[Record], list[Record], list[Verdict]]:
    """Whole runs: one per backend, and several with one weight nudged."""
    values = config.model_dump(mode="json")
    for key in ("data_dir", "store_dir"):  # the worker stands elsewhere
        values[key] = str(Path(values[key]).absolute()) if values[key] else None
    reference = next(iter(workers))
    trained = [p.name for p in spec.trainable if p.init in ("normal", "uniform")]
    nudged = [trained[i * len(trained) // max(1, nudges)] for i in range(min(nudges, len(trained)))]

    def whole(name: str, weight: str | None, label: str) -> Record:
        start = time.perf_counter()

        def show(news: tuple[int, int]) -> None:
            board.put(name, "run", f"{label} epoch {news[0]}, {time.perf_counter() - start:.0f} s")

        record: Record = workers[name].run("parity.runs:whole_run", name, values, weight, listener=show)
        return record

    records = [whole(name, None, "run") for name in workers]
    floors = [whole(name, weight, f"nudge {i + 1}/{len(nudged)}")
              for name in workers for i, weight in enumerate(nudged)]
    board.put(reference, "run", "reference")
    verdicts = []
    for record in records[1:]:
        verdict = judge(records[0], record, floors, config.precision)
        verdicts.append(verdict)
        board.put(record.backend, "run", "[red]differs[/]" if verdict.problems else
                  f"{verdict.worst_ratio:.1f} x floor, "
                  + (f"calm until epoch {verdict.left_at}" if verdict.left_at else "calm to the end"))
    return records, floors, verdicts


if __name__ == "__main__":
    sys.exit(guarded(sys.argv[1:], main))
