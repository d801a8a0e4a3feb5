"""`python -m parity`: is it one result?

    python -m parity --dataset mosi --data_dir DIR --backends torch,mindspore,paddle --output parity.html
    python -m parity --dataset pom --data synthetic --backends torch,paddle --rungs forward,gradients
    python -m parity --checkpoint runs/mosi-torch-1 --data_dir DIR

Exits with 1 when a difference is found.
"""
from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.common.errors import RunFailed, UserError
from core.common.guard import guarded
from core.config import Config, build_graph, changed, make_config, to_values
from core.config.flags import Parser, make_parser, read_count, read_values
from core.console import PlainConsole
from core.data import Dataset
from core.runtime.backend import BACKENDS, missing_reason
from core.runtime.worker import Worker
from core.training.checkpoint import load_checkpoint
from core.training.prepare import prepare
from core.training.run_folder import versions
from core.training.state import check_weights, initial_state
from core.training.trainer import full_state
from parity.board import DIFFERS, Board
from parity.ground import DECAY, Ground
from parity.ladder import MIXED, PLAIN, RUNGS, Rung, climb, subject
from parity.report import write_report
from parity.runs import Record, Runs, judge_all

PRECISIONS = ["float64", "float32"]  # what a constant means shows in the first, what training runs is the second
console = PlainConsole(highlight=False)


def parser() -> Parser:
    """All flags of the schema, and those of the comparison."""
    made = make_parser("python -m parity", "Compare backends rung by rung and run by run; write one HTML report.",
                       without={"precision"})
    made.add_argument("--backends", metavar="NAMES", help="two or more of torch,mindspore,paddle [every installed one]")
    made.add_argument("--precision", metavar="NAME", help="float64 or float32 alone, in rungs and runs; a checkpoint's "
                                                          "own is climbed in any case [both]")
    made.add_argument("--rungs", metavar="NAMES", help=f"comma-separated, of: {', '.join([*PLAIN, 'run'])}; of "
                                                          f"mixed precision: {', '.join([*MIXED, 'run'])} [all]")
    made.add_argument("--checkpoint", metavar="FILE", help="begin from this checkpoint's configuration and weights")
    made.add_argument("--nudges", metavar="N", help="per backend, runs with one weight moved by one unit "
                                                  "in the last place [3]")
    made.add_argument("--output", metavar="FILE", help="the report [parity.html]")
    return made


def main() -> None:
    """Run the comparison that the command line asks for. Raises RunFailed when backends differ."""
    given = parser().parse(sys.argv[1:])
    backends = _names(given, "backends", list(BACKENDS), [b for b in BACKENDS if not missing_reason(b)])
    if len(backends) < 2:
        raise UserError(f"--backends {','.join(backends)}: expected two or more; install another framework or name two")
    for name in backends:
        if reason := missing_reason(name):
            raise UserError(reason)
    _names(given, "rungs", [*RUNGS, "run"], [])
    dataset, grounds = _start(given)
    possible = PLAIN if next(iter(grounds.values())).config.amp_level == "O0" else MIXED
    rungs = _names(given, "rungs", [*possible, "run"], [*possible, "run"])
    nudges = read_count(given.get("nudges", "3"), "nudges", least=int("run" in rungs))
    say(f"{dataset.title}: {', '.join(backends)} in {' and '.join(grounds)}")
    for note in dataset.notes:
        say(f"note: {note}")
    workers = {name: Worker(name) for name in backends}
    board = Board(console, backends, list(grounds), rungs)
    climbed: list[Rung] = []
    runs: list[Runs] = []
    try:
        with board.live:
            for ground in grounds.values():
                climbed += _climb(workers, [name for name in rungs if name in RUNGS], ground, board)
            if "run" in rungs:
                runs += [_run(workers, ground, nudges, board) for ground in grounds.values()]
    finally:
        for worker in workers.values():
            worker.close()
    problems = [rung.problem for rung in climbed if rung.problem]
    problems += [problem for one in runs for verdict in one.verdicts for problem in verdict.sentences(one.precision)]
    path = Path(given.get("output", "parity.html"))
    config = next(iter(grounds.values())).config
    write_report(path, dataset, config, list(grounds), {name: versions(name) for name in backends}, climbed, runs,
                 problems)
    console.print()
    for problem in problems:
        say(f"differs: {problem}")
    say(f"report: {path}")
    if problems:
        raise RunFailed(f"parity: {len(problems)} differences, the first: {problems[0]}")


def say(line: str) -> None:
    """Print a line as it is."""
    console.print(line, soft_wrap=True, markup=False)


def _names(given: dict[str, Any], key: str, allowed: list[str], default: list[str]) -> list[str]:
    names = [name.strip() for name in given[key].split(",")] if key in given else default
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise UserError(f"--{key}: unknown {unknown[0]!r}, expected some of {', '.join(allowed)}")
    return names


def _start(given: dict[str, Any]) -> tuple[Dataset, dict[str, Ground]]:
    """The data, and per precision what is begun from: both, or the one that is asked for and the checkpoint's own."""
    values, origin = read_values(given)
    checkpoint = load_checkpoint(Path(given["checkpoint"])) if "checkpoint" in given else None
    precisions = [values["precision"]] if "precision" in values else PRECISIONS
    if values.get("amp_level", "O0") != "O0":
        precisions = ["float32"]
    if checkpoint:
        values = to_values(changed(checkpoint.config, values))
        if values["amp_level"] != "O0":
            precisions = ["float32"]
        if checkpoint.config.precision not in precisions:
            precisions = [*precisions, checkpoint.config.precision]
    configs = {name: make_config({**values, "precision": name}, origin) for name in precisions}
    dataset, _ = prepare(next(iter(configs.values())))
    grounds = {}
    for precision, config in configs.items():
        graph = build_graph(config, dataset.inputs)
        if checkpoint:
            check_weights(graph, checkpoint.state.weights, given["checkpoint"])
        state = full_state(checkpoint, graph, config) if checkpoint else initial_state(graph, config.seed, precision)
        train, valid = (dataset.splits[name].arrays for name in ("train", "valid"))
        ground = Ground(graph, config, state, train, valid)
        grounds[ground.label] = ground
    return dataset, grounds


def _climb(workers: Mapping[str, Worker], rungs: list[str], ground: Ground, board: Board) -> list[Rung]:
    """Every rung in one precision. Sessions replace those of the precision before."""
    values, precision = to_values(ground.config), ground.label
    subjects = [subject(name, worker.open("ladder", values, ground.graph.inputs),
                        worker.open("ladder decay", {**values, "weight_decay": DECAY}, ground.graph.inputs), ground)
                for name, worker in workers.items()] if rungs else []
    climbed = []
    for name in rungs:
        for backend in workers:
            board.put(backend, precision, name, "...")
        for rung in climb(name, subjects):
            climbed.append(rung)
            worst = f"{max((gap.relative for gap in rung.gaps.values()), default=0.0):.0e}".replace("0e+00", "0")
            board.put(rung.backend, precision, name, DIFFERS if rung.problem else worst)
    return climbed


def _run(workers: Mapping[str, Worker], ground: Ground, nudges: int, board: Board) -> Runs:
    """Whole runs in one precision: one per backend, and several with one weight nudged."""
    values, precision = _absolute(ground.config), ground.label
    trained = [p.name for p in ground.graph.trainable if p.init in ("normal", "uniform")]
    nudged = [trained[i * len(trained) // nudges] for i in range(min(nudges, len(trained)))]

    def whole(name: str, weight: str | None, label: str) -> Record:
        start = time.perf_counter()

        def show(news: tuple[int, int]) -> None:
            board.put(name, precision, "run", f"{label} epoch {news[0]}, {time.perf_counter() - start:.0f} s")

        record: Record = workers[name].run("parity.runs:whole_run", name, values, weight, listener=show)
        return record

    records = [whole(name, None, "run") for name in workers]
    floors = [whole(name, weight, f"nudge {i + 1}/{len(nudged)}")
              for name in workers for i, weight in enumerate(nudged)]
    mixed = ground.config.amp_level != "O0"
    runs = judge_all(records, floors, "half" if mixed else precision, precision)
    board.put(runs.records[0].backend, precision, "run", "others are held to it")
    for verdict in runs.verdicts:
        board.put(verdict.backend, precision, "run", DIFFERS if verdict.problems else
                  f"{verdict.worst_ratio:.1f} x floor"
                  + ("" if mixed else f", calm until epoch {verdict.left_at}" if verdict.left_at
                     else ", calm to the end"))
    return runs


def _absolute(config: Config) -> dict[str, Any]:
    """The configuration as plain values, with absolute paths: the worker stands elsewhere."""
    values = to_values(config)
    for key in ("data_dir", "store_dir"):
        values[key] = str(Path(values[key]).absolute()) if values[key] else None
    return values


if __name__ == "__main__":
    sys.exit(guarded(sys.argv[1:], main))
