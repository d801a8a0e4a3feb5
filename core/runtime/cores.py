"""Which cores of this machine are free for work that stays on them."""
from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path


def quietest_cores(seconds: float = 0.2) -> list[int]:
    """The cores that this process may use, those first that were busy least in a sample of `seconds`.

    A process that may use few cores counts for its share of each, since it may be waiting just now. Empty where a
    process can't be held on a core.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    before, start = _idle_seconds(), time.monotonic()
    time.sleep(seconds)
    elapsed, after, pinned = time.monotonic() - start, _idle_seconds(), _pinned(len(cores))
    busy = {core: pinned[core] - (after.get(core, 0.0) - before.get(core, 0.0)) / elapsed for core in cores}
    return sorted(cores, key=busy.__getitem__)


def _idle_seconds() -> dict[int, float]:
    """Idle time of every core since the machine started; empty where /proc/stat is hidden."""
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()]
    except OSError:
        return {}
    return {int(line[0][3:]): int(line[4]) / os.sysconf("SC_CLK_TCK") for line in lines
            if line[0].startswith("cpu") and line[0] != "cpu"}


def _pinned(count: int) -> Mapping[int, float]:
    """How many other programs are held on each core; one held on two of them is a half on each."""
    held: dict[int, float] = defaultdict(float)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.name == str(os.getpid()) or not (folder / "cmdline").read_bytes():  # kernel threads have none
                continue
            allowed = os.sched_getaffinity(int(folder.name))
        except OSError:  # gone meanwhile, or someone else's
            continue
        if len(allowed) < count:
            for core in allowed:
                held[core] += 1 / len(allowed)
    return held


def slices(cores: Sequence[int], jobs: int, threads: int) -> list[list[int]]:
    """`threads` cores for each of `jobs` slots, none of them shared; empty when there are too few."""
    if jobs * threads > len(cores):
        return []
    return [list(cores[slot * threads:(slot + 1) * threads]) for slot in range(jobs)]


def settle_thread(cores: Sequence[int]) -> None:
    """For a thread that starts workers: they inherit its `cores`."""
    if cores:
        os.sched_setaffinity(0, cores)  # 0 is this thread alone
