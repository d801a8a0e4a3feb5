"""One command for a device: is it right there, and how fast is it?

    python -m benchmarks.device --device cuda [--backend torch|paddle] [--output FILE.json]
    python -m benchmarks.device --device cpu --quick

It states the device as observed on tensors, then checks every network against float64 on the CPU: activations,
gradients, an epoch; O1 and O2 in both half types beside the emulated run. A difference ends it with exit code 1 before
anything is timed. Then samples per second of the four IEMOCAP cells: as the Ascend port times, full steps, whole
epochs; by graph and eagerly; float32, O1 and O2; and several seeds at once. Checks take synthetic rows of the published
shapes, timings random numbers. Written to benchmarks/results/device-NAME-DATE.json and .txt unless --output says
otherwise; with --quick, which is a look and no result, only with --output.
"""
from __future__ import annotations

import datetime
import importlib
import io
import platform
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console

from benchmarks.device_cells import FULL, QUICK, Size, Values, in_half, networks, settings
from benchmarks.device_checks import check
from benchmarks.device_report import PORT, goals, lines, record, tables
from benchmarks.device_speed import MEASURES, PLAIN, measure, opened
from benchmarks.rounds import make_parser
from core.common.errors import UserError
from core.common.files import write_json, write_text
from core.common.guard import guarded
from core.config import make_config
from core.config.flags import Parser
from core.runtime.backend import check_device, missing_reason
from core.training.run_folder import versions

BACKENDS = ("torch", "paddle")
RESULTS = Path(__file__).parent / "results"
Say = Callable[[str], None]


def parser() -> Parser:
    made = make_parser("benchmarks.device", __doc__, several=False)
    made.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 [cuda]")
    made.add_argument("--backend", metavar="NAME", help=f"one of {', '.join(BACKENDS)} [torch]")
    made.add_argument("--output", metavar="FILE", type=Path, help="where results go: a .json, and a .txt beside it")
    made.add_argument("--quick", action="store_const", const=True, help="few rows and rounds: a look, no result")
    return made


def main() -> None:
    """State, check, measure, write. Raises UserError before it does anything, RunFailed for what isn't right."""
    given = parser().parse(sys.argv[1:])
    backend, device, quick = given.get("backend", "torch"), given.get("device", "cuda"), "quick" in given
    size: Size = QUICK if quick else FULL
    rounds, threads, output = given.get("rounds", size.rounds), given.get("threads", 1), given.get("output")
    if backend not in BACKENDS:
        raise UserError(f"--backend {backend}: expected one of {', '.join(BACKENDS)}")
    if output and output.suffix != ".json":
        raise UserError(f"--output {output}: expected a name that ends in .json; the text goes beside it")
    if reason := missing_reason(backend):
        raise UserError(reason)
    check_device(backend, make_config({"dataset": "iemocap", "device": device}))
    own = importlib.import_module(f"benchmarks.device_{backend}")
    said: list[str] = []

    def say(line: str) -> None:
        print(line, flush=True)
        said.append(line)

    values = {**settings("happy"), "device": device, "threads": threads}
    stated = statement(backend, own, values, size)
    if quick:
        stated["quick"] = "a look at everything on a few rows, no result"
    for line in lines(stated):
        say(line)
    checks = check(backend, own, networks(size, device, threads), size, say)
    speeds, seeds = measure(backend, own, device, threads, size, rounds)
    emulated = ", emulated" if stated["device"] == "cpu" else ""
    precisions = {PLAIN: PLAIN, **{level: f"{level}, float16{emulated}" for level in ("O1", "O2")}}
    say(drawn(tables(speeds, seeds, own.WAYS, precisions, rounds)))
    for name, words in MEASURES.items():
        say(f"{name}: {words}")
    say(f"the Ascend port reports, at batch 256 and without the optimizer, samples/s: "
        f"{', '.join(f'{rate:,} on its {where}' for where, rate in PORT.items())}")
    reached = goals(speeds, seeds)
    for goal in reached:
        say(str(goal))
    if stated["device"] == "cpu" or quick:
        say("the goals are those of one H200, in a run that isn't --quick")
    path = output or (None if quick else RESULTS / f"device-{name_of(stated)}-{datetime.date.today().isoformat()}.json")
    if path:
        write_json(path, record(stated, rounds, checks, speeds, seeds, reached))
        write_text(path.with_suffix(".txt"), "\n".join(said) + "\n")
        print(f"written: {path} and {path.with_suffix('.txt')}")


def statement(backend: str, own: ModuleType, values: Values, size: Size) -> dict[str, str]:
    """Command, date, versions, and the device as its tensors say."""
    session, _ = opened(backend, values, size)
    half, _ = opened(backend, in_half(values, "O2", "float16"), size)
    found = {"command": shlex.join(["python", "-m", "benchmarks.device", *sys.argv[1:]]),
             "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
             "backend": backend, "device": session.observed().device, "float32": str(session.observed()),
             "half": str(half.observed()), "graph": own.graph_words(session)}
    return {**found, **own.facts(session), "host": host(), **versions(backend)}


def host() -> str:
    """The CPU, as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def name_of(stated: dict[str, str]) -> str:
    """The device in a file's name: nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", stated.get("name", stated["device"]).lower()).strip("-")


def drawn(found: Sequence[Any]) -> str:
    """Tables as text, as wide as they need to be."""
    text = io.StringIO()
    console = Console(file=text, width=240)
    for table in found:
        console.print(table)
    return text.getvalue().rstrip("\n")


if __name__ == "__main__":
    sys.exit(guarded(sys.argv[1:], main))
