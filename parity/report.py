"""The comparison as one self-contained HTML file: figures are inline SVG, nothing is fetched."""
from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader
from matplotlib import pyplot

from core.common.figures import COLOURS, inline_svg
from core.common.files import write_text
from core.config import Config, to_values
from core.data import Dataset
from parity.compare import Gap
from parity.ladder import Rung
from parity.runs import FACTOR, Record, Runs, pair_floor, printed, relative


def write_report(path: Path, dataset: Dataset, config: Config, precisions: Sequence[str],
                 machine: Mapping[str, Mapping[str, str]], climbed: Sequence[Rung], runs: Sequence[Runs],
                 problems: Sequence[str]) -> None:
    """Write the report of a comparison to `path`, whole. What its reader must know about the data stands beside it."""
    template = Environment(loader=PackageLoader("parity", "."), autoescape=True).get_template("report.html.j2")
    values = {**to_values(config), "precision": ", ".join(precisions)}
    write_text(path, template.render(
        title=dataset.title, notes=dataset.notes, config=values, machine=machine, problems=problems,
        hardware=f"{platform.machine()}, {platform.system()}, {config.threads} thread(s), {config.device}",
        maps=_heat_maps(climbed), runs=[_run_section(one) for one in runs], factor=FACTOR))


def _heat_maps(climbed: Sequence[Rung]) -> list[dict[str, Any]]:
    """Per precision and backend a table of tensors by rungs; a cell is its relative gap."""
    maps = []
    for precision, backend in dict.fromkeys((rung.precision, rung.backend) for rung in climbed):
        rungs = [rung for rung in climbed if (rung.precision, rung.backend) == (precision, backend)]
        tensors = list(dict.fromkeys(name for rung in rungs if rung.name != "drift" for name in rung.gaps))
        rows = [{"tensor": name, "cells": [_cell(rung, rung.gaps.get(name)) for rung in rungs]} for name in tensors]
        worst = {"tensor": "worst of all", "cells": [_cell(rung, max(
            rung.gaps.values(), key=lambda g: math.inf if g.problem else g.relative, default=None)) for rung in rungs]}
        maps.append({"backend": backend, "precision": precision,
                     "rungs": [f"{r.name} (≤ {r.tolerance:g})" for r in rungs], "rows": [worst, *rows]})
    return maps


def _cell(rung: Rung, found: Gap | None) -> dict[str, str]:
    """Text, colour and tooltip. Colour runs from 1e-17 (pale) to 1 (dark); a difference is red."""
    if found is None:
        return {"text": "", "colour": "#fff", "ink": "#000", "tip": ""}
    if found.exceeds(rung.tolerance):
        text = found.problem or f"{found.relative:.0e}"
        return {"text": text, "colour": "#c1121f", "ink": "#fff", "tip": found.sentence(rung.tolerance)}
    depth = 0.0 if found.relative == 0 else (17 + math.log10(max(found.relative, 1e-17))) / 17
    light = 97 - 45 * depth
    return {"text": "0" if found.relative == 0 else f"{found.relative:.0e}", "colour": f"hsl(205 45% {light:.0f}%)",
            "ink": "#000", "tip": found.sentence(rung.tolerance)}


def _run_section(runs: Runs) -> dict[str, Any]:
    records, nudges = runs.records, runs.nudges
    names = list(records[0].metrics)
    return {
        "curves": _curves(records), "drift": _drift(records, nudges, "epoch"), "steps": _drift(records, nudges, "step"),
        "backends": [r.backend for r in records], "verdicts": runs.verdicts, "precision": runs.precision,
        "metrics": [{"name": name, "values": [printed(r.metrics)[name] for r in records]} for name in names],
        "ends": [{"backend": r.backend, "best": r.best_epoch, "stop": r.stop_epoch} for r in records],
        "nudged": list(dict.fromkeys(r.nudged for r in nudges)),
    }


def _curves(records: Sequence[Record]) -> str:
    """Training and validation loss of every backend, one above the other."""
    figure, axes = pyplot.subplots(figsize=(8, 3.6))
    for index, record in enumerate(records):
        style: Any = {"color": COLOURS[record.backend], "linewidth": 5 - 1.7 * index, "alpha": 0.55 + 0.2 * index}
        epochs = np.arange(1, len(record.valid) + 1)
        axes.plot(epochs, record.valid, label=f"{record.backend} validation", **style)
        axes.plot(epochs, record.train, linestyle="--", label=f"{record.backend} training", **style)
    axes.set(xlabel="epoch", ylabel="loss per row")
    axes.legend(fontsize=8)
    return inline_svg(figure)


def _drift(records: Sequence[Record], nudges: Sequence[Record], unit: str) -> str:
    """Relative difference from the reference, and the chaos floor, on log axes."""
    figure, panels = pyplot.subplots(1, 1 if unit == "step" else 2, figsize=(8, 3.4), sharey=True, squeeze=False)
    for axes, key in zip(panels[0], ("steps",) if unit == "step" else ("train", "valid"), strict=True):
        base = records[0]
        if nudges:
            length = max(len(getattr(record, key)) for record in records)
            floor = np.max([pair_floor(base, record, list(nudges), key, length) for record in records], axis=0)
            x = np.arange(1, length + 1)
            axes.fill_between(x, 1e-17, FACTOR * floor, color="#eeeeee", label=f"{FACTOR} times the chaos floor")
            axes.plot(x, floor, color="#888888", linewidth=1, label="chaos floor")
        for record in records[1:]:
            difference = np.maximum(relative(getattr(record, key), getattr(base, key)), 1e-17)
            axes.plot(np.arange(1, len(difference) + 1), difference, color=COLOURS[record.backend], linewidth=1,
                      label=record.backend)
        axes.set(xscale="log", yscale="log", ylim=(1e-17, 10), xlabel=unit,
                 title={"train": "training loss", "valid": "validation loss", "steps": "loss of each step"}[key])
    panels[0][0].set_ylabel(f"relative difference from {records[0].backend}")
    panels[0][-1].legend(fontsize=8)
    return inline_svg(figure)
