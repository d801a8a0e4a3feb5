"""`python -m parity_tests.mutations`: the whole ladder with each fault in each backend, in each precision.

Exits with 1 unless every fault is found by the rungs that have to find it and laid to that backend alone, and nothing
is laid to anybody where there is no fault.
"""
from __future__ import annotations

import sys

from core.runtime.backend import BACKENDS, missing_reason
from core.runtime.worker import Worker
from parity.ladder import PLAIN
from parity_tests.mutations import FAULTS
from parity_tests.mutations.climbing import accused, climbed


def main() -> int:
    """Print the table."""
    workers = {name: Worker(name) for name in BACKENDS if not missing_reason(name)}
    wrong = 0
    print("| fault | in | precision | laid to | by the rungs | right |\n|---|---|---|---|---|---|")
    try:
        for precision in ("float64", "float32"):
            named = accused(climbed(workers, precision, list(PLAIN)))
            wrong += bool(named)
            print(f"| none | | {precision} | {', '.join(named)} | | {'no' if named else 'yes'} |", flush=True)
            for key, fault in FAULTS.items():
                for backend in workers if precision in fault.precisions else ():
                    named = accused(climbed(workers, precision, list(PLAIN), backend, key))
                    right = set(named) == {backend} and set(fault.rungs) <= set(named[backend])
                    wrong += not right
                    print(f"| {fault.words} | {backend} | {precision} | {', '.join(named)} | "
                          f"{', '.join(dict.fromkeys(rung for rungs in named.values() for rung in rungs))} | "
                          f"{'yes' if right else 'NO'} |", flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
