"""What the benchmarks share in the parent process: their flags, a worker per backend, interleaved rounds."""
from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from core.common.errors import UserError
from core.config.flags import Parser
from core.runtime.backend import BACKENDS, missing_reason
from core.runtime.worker import Worker

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
news = Console(stderr=True, highlight=False)  # progress: not part of the output


@dataclass(frozen=True)
class Spread:
    """What the rounds of one measurement gave."""

    median: float
    lowest: float
    highest: float

    def text(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.lowest:.{digits}f} to {self.highest:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """`above` over `below`, round by round: what slows a round down slows both."""
    return spread([one / other for one, other in zip(above, below, strict=True)])


def make_parser(module: str, page: str, several: bool = True) -> Parser:
    """The flags of every benchmark. `page`: the module's docstring; several: whether it compares backends."""
    parser = Parser(prog=f"python -m {module}", description=page, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    if several:
        parser.add_argument("--backends", metavar="NAMES", help=f"some of {','.join(BACKENDS)} [every installed one]")
    parser.add_argument("--rounds", metavar="N", type=count, help="rounds that every number is the median of [7]")
    parser.add_argument("--threads", metavar="N", type=count, help="CPU threads of each backend [1]")
    parser.add_argument("--debug", action="store_const", const=True, help="show the traceback of an error")
    return parser


def count(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a whole number from 1 on")
    return int(text)


def choose_backends(given: Mapping[str, Any]) -> list[str]:
    """The backends that the flags name, or the installed ones, saying which are not.

    Raises UserError for an unknown name, one that is not installed, or none.
    """
    if "backends" in given:
        names = list(dict.fromkeys(name.strip() for name in given["backends"].split(",")))
        for name in names:
            if name not in BACKENDS:
                raise UserError(f"--backends: unknown {name!r}, expected some of {', '.join(BACKENDS)}")
            if reason := missing_reason(name):
                raise UserError(reason)
        return names
    reasons = {name: missing_reason(name) for name in BACKENDS}
    for reason in filter(None, reasons.values()):
        news.print(f"left out: {reason}", soft_wrap=True)
    if all(reasons.values()):
        raise UserError(f"no backend is installed, expected one of {', '.join(BACKENDS)}; "
                        "pip install -c constraints.txt -e '.[torch]'")
    return [name for name, reason in reasons.items() if not reason]


@contextmanager
def open_workers(backends: Sequence[str]) -> Iterator[dict[str, Worker]]:
    """A process per backend, ended afterwards."""
    started: dict[str, Worker] = {}
    try:
        for name in backends:
            started[name] = Worker(name)
        yield started
    finally:
        for worker in started.values():
            worker.close()


def interleave(jobs: Mapping[Key, Callable[[int], Value]], rounds: int, title: str) -> dict[Key, list[Value]]:
    """Call every job once per round with the round's number, one after the other."""
    found: dict[Key, list[Value]] = {key: [] for key in jobs}
    for number in track(range(rounds), f"{title}, {rounds} rounds", console=news, transient=True):
        for key, job in jobs.items():
            found[key].append(job(number))
    return found
