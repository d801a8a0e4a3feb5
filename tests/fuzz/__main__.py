"""The command `python -m tests.fuzz`, and the processes behind it."""
from __future__ import annotations

import argparse
import multiprocessing
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.child import MAKERS, Outcome, serve

PATIENCE = 300  # seconds without an answer: a guard against what waits and uses no processor
Report = Callable[[Outcome], None]


def fuzz(names: Sequence[str], seed: int, jobs: int, report: Report, keep: str = "") -> list[Outcome]:
    """Read the inputs `names` (`yaml:17`) in `jobs` processes; `report` gets every outcome. Returns those at fault."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in names:
        waiting.put(name)
    faults: list[Outcome] = []
    lock = threading.Lock()

    def hear(outcome: Outcome) -> None:
        with lock:
            report(outcome)
            if outcome.fault:
                faults.append(outcome)

    threads = [threading.Thread(target=_work, args=(waiting, seed, hear, keep)) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return faults


def _work(waiting: queue.SimpleQueue[str], seed: int, hear: Report, keep: str) -> None:
    """Give inputs to a process; a new one for each that dies."""
    context = multiprocessing.get_context("spawn")
    process: Any = None
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        number = 0
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                break
            if process is None:
                number += 1
                connection, other = context.Pipe()
                (Path(folder) / str(number)).mkdir()
                process = context.Process(target=serve, args=(other, f"{folder}/{number}", seed), daemon=True)
                process.start()
                other.close()
            connection.send((name, str(Path(keep).absolute()) if keep else ""))
            try:
                outcome = None
                while outcome is None:
                    if not connection.poll(PATIENCE):
                        raise TimeoutError
                    outcome = connection.recv()
            except (EOFError, OSError) as error:
                process.kill() if isinstance(error, TimeoutError) else None
                process.join()
                outcome = Outcome(name, "failed", _death(error, process.exitcode))
                process = None
            hear(outcome)
        if process is not None:
            connection.send(None)
            process.join()


def _death(error: BaseException, code: int | None) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer in {PATIENCE} s"
    if code == -signal.SIGPROF:
        return "took more s of processor time than it has"
    return f"its process died with exit code {code}"


def inputs(count: int, kinds: Sequence[str]) -> list[str]:
    """`count` names, in equal parts; those of one format together, since a process makes its files once."""
    return [f"{kind}:{number}" for place, kind in enumerate(kinds)
            for number in range(count // len(kinds) + (place < count % len(kinds)))]


def main(argv: Sequence[str] | None = None) -> int:
    """0: no input is at fault. 1: some are; they are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Read damaged inputs of every format.")
    parser.add_argument("--inputs", type=int, default=2000, help="[2000]")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    parser.add_argument("--jobs", type=int, default=2, help="processes [2]")
    parser.add_argument("--formats", default=",".join(MAKERS), help=f"comma-separated [{','.join(MAKERS)}]")
    parser.add_argument("--only", metavar="NAME", help="one input, such as yaml:17; its files are kept in fuzzed/")
    given = parser.parse_args(argv)
    names = [given.only] if given.only else inputs(given.inputs, given.formats.split(","))
    done: dict[str, list[Outcome]] = {}

    def report(outcome: Outcome) -> None:
        done.setdefault(outcome.name.partition(":")[0], []).append(outcome)
        if outcome.fault:
            print(f"{outcome.name} (seed {given.seed}): {outcome.fault}\n  again: python -m tests.fuzz --seed "
                  f"{given.seed} --only {outcome.name}", flush=True)
        elif given.only:
            print(f"{outcome.kind}: {outcome.said}")

    faults = fuzz(names, given.seed, given.jobs, report, "fuzzed" if given.only else "")
    print(f"{'format':12} {'inputs':>7} {'read':>6} {'refused':>8} {'faults':>7} {'most CPU s':>11} {'most MiB':>9}")
    for kind, outcomes in done.items():
        kinds = [outcome.kind for outcome in outcomes]
        print(f"{kind:12} {len(outcomes):7} {kinds.count('read'):6} {kinds.count('refused'):8} "
              f"{sum(bool(outcome.fault) for outcome in outcomes):7} {max(o.seconds for o in outcomes):11.2f} "
              f"{max(o.megabytes for o in outcomes):9}")
    print(f"{len(names)} inputs, {len(faults)} at fault")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
