"""`python -m core.reproduce`: the tables of the papers, as a plan of runs that may be interrupted.

    python -m core.reproduce --table all --backend torch,mindspore,paddle --data_dir DIR --jobs 4
    python -m core.reproduce --table TABLE --modalities INPUT,INPUT --seeds 1-5 --data_dir DIR --dry_run
    python -m core.reproduce --table TABLE --model lmf,tfn --data synthetic

Exits with 1 when a run failed; the same command goes on where the plan was.
"""
from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from core.common.errors import RunFailed
from core.common.files import write_json
from core.common.guard import guarded, resumable
from core.common.text import warn
from core.console import PlainConsole
from core.runtime.cores import quietest_cores, slices
from core.studies.tables.checks import check_data, split_finished
from core.studies.tables.live import Board, print_plan, summary
from core.studies.tables.plan import Run, only_here, refuse_mixture, save_plan
from core.studies.tables.pool import Event, Pool
from core.studies.tables.request import Request, parser, read_request

console = PlainConsole(highlight=False, width=None if sys.stdout.isatty() else 1000)  # a file has no width


def main(argv: Sequence[str] | None = None) -> int:
    """0: every run is finished. 2: a usage or data error. 1: a run failed. 128 + n: signal n ended the plan."""
    argv = sys.argv[1:] if argv is None else list(argv)
    return guarded(argv, lambda: reproduce(argv))


def reproduce(argv: Sequence[str]) -> None:
    """Check, plan, run, write the tables. Raises RunFailed when a run failed, Interrupted when a signal came."""
    given = parser().parse(argv)
    request = read_request(given)
    output, runs = request.output, request.runs
    for note in request.notes:
        console.print(f"note: {note}", soft_wrap=True)
    refuse_mixture(output, request.jobs)
    fingerprints = check_data(runs, lambda note: console.print(f"note: {note}", soft_wrap=True))
    if "dry_run" in given:
        print_plan(request, split_finished(output, runs, fingerprints)[0], console)
        return
    with only_here(output):
        refuse_mixture(output, request.jobs)  # again: another command may just have ended
        finished, waiting = split_finished(output, runs, fingerprints)
        save_plan(output, request.jobs)
        console.print(summary(request, finished), soft_wrap=True)
        board = work_through(request, finished, waiting, argv)
        write_all(output)
    if board.failures:
        first = board.failures[0]
        raise RunFailed(f"{len(board.failures)} of {len(runs)} runs failed: {first.run.name}: {first.error}"
                        f"{', ...' if len(board.failures) > 1 else ''}; run the same command again to retry them")


def work_through(request: Request, finished: Sequence[Run], waiting: Sequence[Run], argv: Sequence[str]) -> Board:
    """Do the waiting runs. Raises Interrupted when a signal came."""
    board = Board(finished, waiting, request.slots, console)
    keep_failures(request.output, board)
    if not waiting:
        return board
    threads = max(run.config.threads for run in waiting)
    cores = quietest_cores()
    chosen = slices(cores, min(request.slots, len(waiting)), threads)
    if cores and not chosen:
        warn(f"--jobs {request.slots} with {threads} thread(s) each: this machine gives {len(cores)} cores; "
             "workers share them, and runs slow each other down")
    pool = Pool(request.output, waiting, request.slots, threads, chosen)

    def hear(event: Event) -> None:
        board.hear(event)
        if event.kind == "failed":
            keep_failures(request.output, board)

    command = shlex.join(["python", "-m", "core.reproduce", *argv])
    with resumable(lambda: f"{board.finished} of {board.total} runs are finished, the others go on after their last "
                           f"epoch; continue with: {command}"), board:
        pool.run(hear)
    return board


def keep_failures(output: Path, board: Board) -> None:
    """failures.json: what failed in this call."""
    write_json(output / "failures.json", [
        {"run": event.run.name, "cell": event.run.cells, "backend": event.run.backend, "seed": event.run.seed,
         "error": event.error} for event in board.failures])


def write_all(output: Path) -> None:
    """Make the tables from every finished run in `output`, and name the files."""
    from core.studies.tables.report import told, write_tables  # late: no worker, which imports this, needs the figures

    for path in write_tables(output):
        console.print(f"wrote {path}", soft_wrap=True)
    for line in told(output):
        console.print(line, soft_wrap=True, markup=False)
