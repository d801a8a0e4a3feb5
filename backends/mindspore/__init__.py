"""LMF and TFN in MindSpore."""
from __future__ import annotations

import os
import tempfile
from pathlib import Path

from core.config import Config
from core.runtime.cores import quietest_cores

# Read once, when MindSpore is imported, which warns of much that is no news: errors only.
os.environ.setdefault("GLOG_v", "3")


def prepare(config: Config) -> None:
    """Before `import mindspore`: on the CPU with one thread, stay on one core, MindSpore's helper threads included.

    They spin while they wait for each other: spread over cores that others use too, a step takes six times as long.
    The core is the quietest of those that this process may use. `taskset -c N` chooses it by hand; more threads
    than one leave the process where it is.
    """
    alone = config.device == "cpu" and config.threads == 1
    if alone and hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        pin_to_quietest_core()


def pin_to_quietest_core() -> None:
    """Restrict this process to the quietest core. One process chooses at a time, so that two see each other."""
    import fcntl  # where there is sched_setaffinity, there is fcntl

    with open(Path(tempfile.gettempdir()) / f"lmf-mindspore-{os.getuid()}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.sched_setaffinity(0, quietest_cores()[:1])
