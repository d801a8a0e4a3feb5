"""The figure: parameters of the fusion, and time of a training step, against the number of modalities."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from benchmarks.fusion_cells import BATCH, DATA, GROWING, GROWING_INPUT, GROWING_WIDTH, fusion_parameters
from benchmarks.fusion_results import Growth
from core.common.figures import COLOURS, inline_svg
from core.common.files import write_text

LINES: dict[str, Any] = {"LMF": "-", "TFN": "--"}
MARKERS = {"LMF": "o", "TFN": "s"}


def write_figure(path: Path, growth: Sequence[Growth], rounds: int, threads: int) -> None:
    """Write both panels to `path` as SVG. Log axes: an exponential is a straight line."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
    _parameters(left, growth)
    _times(right, growth)
    for axes in (left, right):
        axes.set_yscale("log")
        axes.set_xlabel("modalities")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(which="major", color="#dddddd", linewidth=0.6)
    one = GROWING_INPUT
    figure.suptitle(f"Measured on random numbers: every modality is a copy of {DATA.name.upper()}'s {one.name} "
                    f"({one.width} inputs, {GROWING_WIDTH} values fused);\n"
                    f"batch {BATCH}, float32, CPU, {threads} thread(s); median of {rounds} interleaved rounds, bars "
                    "from lowest to highest", fontsize=9)
    write_text(path, inline_svg(figure) + "\n")


def _parameters(axes: Any, growth: Sequence[Growth]) -> None:
    """Points: counted in the sessions of all backends. Lines: the formulas."""
    size, rank, hidden = GROWING_WIDTH + 1, GROWING["LMF"]["rank"], GROWING["TFN"]["post_fusion_dim"]
    rest = {model: fusion_parameters(values, [], 1) for model, values in GROWING.items()}  # an empty product is 1
    said = {"LMF": f"LMF, rank {rank}, linear:\n{rank * size} M + {rest['LMF']}",
            "TFN": f"TFN, two layers of {hidden}, exponential:\n{hidden} · {size}$^M$ + {rest['TFN'] - hidden}"}
    for model, label in said.items():
        points = sorted({(one.modalities, one.fusion_parameters) for one in growth if one.model == model})
        numbers = [number for number, _ in points]
        axes.plot(numbers, [fusion_parameters(GROWING[model], [GROWING_WIDTH] * number, 1) for number in numbers],
                  LINES[model], color="#555555", linewidth=1)
        axes.plot(numbers, [value for _, value in points], MARKERS[model], color="#222222", markersize=5)
        axes.plot([], [], LINES[model], marker=MARKERS[model], color="#222222", label=label)
    axes.set_title("parameters of the fusion; points: counted, lines: formula", fontsize=10)
    axes.legend(fontsize=8, loc="upper left")


def _times(axes: Any, growth: Sequence[Growth]) -> None:
    """A line per backend and model."""
    backends = list(dict.fromkeys(one.backend for one in growth))
    for backend in backends:
        for model in GROWING:
            line = sorted((one for one in growth if (one.backend, one.model) == (backend, model)),
                          key=lambda one: one.modalities)
            medians = [one.step_ms.median for one in line]
            bars = [[one.step_ms.median - one.step_ms.lowest for one in line],
                    [one.step_ms.highest - one.step_ms.median for one in line]]
            axes.errorbar([one.modalities for one in line], medians, yerr=bars, linestyle=LINES[model],
                          marker=MARKERS[model], markersize=4, linewidth=1.2, capsize=2, color=COLOURS[backend])
    handles = [Line2D([], [], color=COLOURS[name], label=name) for name in backends]
    handles += [Line2D([], [], color="#222222", linestyle=LINES[name], marker=MARKERS[name], markersize=4, label=name)
                for name in GROWING]
    axes.set_title("ms per training step of the whole network", fontsize=10)
    axes.legend(handles=handles, fontsize=8, loc="upper left")
