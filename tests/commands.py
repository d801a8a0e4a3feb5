"""A command of a few lines for tests, guarded as all of them are, and moments of real ones to send a signal at."""
from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.running import environment, heed_signals

# Python imports this by itself. About to import the module SIGNAL_AT, or to call a function of that name, the process
# sends SIGNAL to itself; with SIGNAL_WHO=worker, a worker sends it to the whole process group, as a terminal does.
HOOK = """
import os, sys
if "SIGNAL_AT" in os.environ:
    moment, number = os.environ["SIGNAL_AT"], int(os.environ["SIGNAL"])
    worker = "--multiprocessing-fork" in sys.orig_argv
    def send():
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not Finder]
        sys.setprofile(None)
        if os.environ.get("SIGNAL_WHO") == "worker":
            os.killpg(0, number)
        else:
            os.kill(os.getpid(), number)
    class Finder:
        def find_spec(name, path=None, target=None):
            if name == moment:
                send()
    def called(frame, event, argument):
        if event == "call" and frame.f_code.co_name == moment:
            send()
    if worker == (os.environ.get("SIGNAL_WHO") == "worker"):
        sys.meta_path.insert(0, Finder)
        if os.environ.get("SIGNAL_CALLS"):
            sys.setprofile(called)
"""
MAIN = """
import sys
from core.common.guard import guarded, resumable
def action():
{body}
if __name__ == "__main__":
    sys.exit(guarded(sys.argv[1:], action))
"""


@contextlib.contextmanager
def running(folder: Path, module: str, *flags: str, prepare: Any = heed_signals, stdout: int = subprocess.PIPE,
            hook: str = HOOK, **extra: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m module` as leader of a process group, as a terminal starts it; what is left of the group is killed.

    Python imports the code `hook` by itself, in the command and in its workers.
    """
    (folder / "hook").mkdir(exist_ok=True)
    (folder / "hook" / "sitecustomize.py").write_text(hook)
    paths = os.pathsep.join([str(folder / "hook"), str(folder)])
    process = subprocess.Popen([sys.executable, "-m", module, *flags], cwd=folder, text=True, stdout=stdout,
                               stderr=subprocess.PIPE, start_new_session=True, preexec_fn=prepare,
                               env=environment(folder, {"PYTHONPATH": paths, **extra}))
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def write_command(folder: Path, *body: str) -> str:
    """A package `tiny` whose command does the lines of `body`; returns the module."""
    (folder / "tiny").mkdir()
    (folder / "tiny" / "__init__.py").write_text("import core\n")
    (folder / "tiny" / "__main__.py").write_text(MAIN.format(body="\n".join(f"    {line}" for line in body)))
    return "tiny"
