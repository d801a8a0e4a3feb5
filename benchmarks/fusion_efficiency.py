"""LMF against TFN: training and inference speed, parameters, and how both grow with the number of modalities.

    python -m benchmarks.fusion_efficiency [--backends torch,paddle] [--output FILE.json FILE.md] [--figure FILE.svg]
    python -m benchmarks.fusion_efficiency --quick

The models are those that train here, in real sessions, on random numbers of MOSI's shapes. Each round trains and
predicts with every model in turn, so ratios hold on a busy machine; absolute numbers don't.
"""
from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.fusion_cells import BATCH, WIDTHS
from benchmarks.fusion_figure import write_figure
from benchmarks.fusion_results import Growth, Speed, measure_growth, measure_speeds
from benchmarks.fusion_tables import DATA, claimed_parameters, markdown, paper_speeds, sheets, show
from benchmarks.rounds import choose_backends, count, make_parser, open_workers
from core.common.errors import UserError
from core.common.files import write_json, write_text
from core.common.guard import guarded
from core.config.flags import Parser
from core.training.run_folder import versions


def parser() -> Parser:
    made = make_parser("benchmarks.fusion_efficiency", __doc__)
    made.add_argument("--most_modalities", metavar="N", type=count, help="how far the growth is measured [5]")
    made.add_argument("--output", metavar="FILE", type=Path, nargs="+",
                      help="also write the results there, as .json or .md, or both")
    made.add_argument("--figure", metavar="FILE", type=Path, help="also draw the growth there, as .svg")
    made.add_argument("--quick", action="store_const", const=True,
                      help="the smallest widths, 3 modalities and 2 rounds, unless said otherwise: a look, no result")
    return made


def main() -> None:
    """Measure, print, write. Raises UserError before it measures anything."""
    given = parser().parse(sys.argv[1:])
    for path in given.get("output", ()):
        _check_suffix("output", path, (".json", ".md"))
    if "figure" in given:
        _check_suffix("figure", given["figure"], (".svg",))
    quick = "quick" in given
    rounds, threads = given.get("rounds", 2 if quick else 7), given.get("threads", 1)
    most = given.get("most_modalities", 3 if quick else 5)
    backends = choose_backends(given)
    with open_workers(backends) as workers:
        speeds = measure_speeds(workers, WIDTHS[:1] if quick else WIDTHS, rounds, threads)
        growth, left_out = measure_growth(workers, most, rounds, threads)
    found = sheets(speeds, growth, left_out, rounds, threads)
    show(found, Console(highlight=False, width=None if sys.stdout.isatty() else 180))  # no terminal has no width
    for path in given.get("output", ()):
        if path.suffix == ".md":
            write_text(path, markdown(found))
        else:
            write_json(path, record(backends, speeds, growth, left_out, rounds, threads))
    if "figure" in given:
        write_figure(given["figure"], growth, rounds, threads)


def _check_suffix(flag: str, path: Path, allowed: Sequence[str]) -> None:
    if path.suffix not in allowed:
        raise UserError(f"--{flag} {path}: expected a name that ends in {' or '.join(allowed)}")


def record(backends: Sequence[str], speeds: Sequence[Speed], growth: Sequence[Growth], left_out: Sequence[str],
           rounds: int, threads: int) -> dict[str, Any]:
    """Everything that was measured, and with what."""
    return {
        "data": DATA, "batch_size": BATCH, "rounds": rounds, "threads": threads, "hardware": platform.machine(),
        "versions": {name: versions(name) for name in backends},
        "speeds": [asdict(one) for one in speeds], "growth": [asdict(one) for one in growth], "left_out": left_out,
        "paper": {"speeds_on_other_hardware": [asdict(one) for one in paper_speeds()],
                  "parameters_claimed": claimed_parameters()},
    }


if __name__ == "__main__":
    sys.exit(guarded(sys.argv[1:], main))
