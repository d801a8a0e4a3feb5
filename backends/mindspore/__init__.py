"""LMF and TFN in MindSpore."""
from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from core.config import Config

# Read once, when MindSpore is imported, which warns of much that is no news: errors only.
os.environ.setdefault("GLOG_v", "3")


def prepare(config: Config) -> None:
    """Before `import mindspore`: with one thread, stay on one core, MindSpore's helper threads included.

    They spin while they wait for each other: spread over cores that others use too, a step takes six times as long.
    The core is the quietest of those that this process may use. `taskset -c N` chooses it by hand; more threads
    than one leave the process where it is.
    """
    if config.threads == 1 and hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        pin_to_quietest_core()


def pin_to_quietest_core(seconds: float = 0.2) -> None:
    """Restrict this process to the core that was busy least in a sample of `seconds`.

    A process that is pinned already counts as half a busy core, because it may be waiting just now. One process
    chooses at a time, so that two that start together find each other.
    """
    import fcntl  # where there is sched_setaffinity, there is fcntl

    with open(Path(tempfile.gettempdir()) / f"lmf-mindspore-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before, start = _idle_seconds(), time.monotonic()
        time.sleep(seconds)
        elapsed, after, pinned = time.monotonic() - start, _idle_seconds(), _pinned()
        busy = {core: 1 - (after[core] - before[core]) / elapsed + pinned.count(core) / 2
                for core in os.sched_getaffinity(0) & after.keys()}
        if busy:  # empty where /proc/stat is hidden
            os.sched_setaffinity(0, {min(busy, key=busy.__getitem__)})


def _idle_seconds() -> dict[int, float]:
    """Idle time of every core since the machine started."""
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    except OSError:
        return {}
    return {int(line[0][3:]): int(line[4]) / os.sysconf("SC_CLK_TCK") for line in lines
            if line[0].startswith("cpu") and line[0] != "cpu"}


def _pinned() -> list[int]:
    """The core of every other program that may use only one."""
    cores = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.name == str(os.getpid()) or not (folder / "cmdline").read_bytes():  # kernel threads have none
                continue
            allowed = os.sched_getaffinity(int(folder.name))
        except OSError:  # gone meanwhile, or someone else's
            continue
        cores += list(allowed) if len(allowed) == 1 else []
    return cores
