"""What the efficiency command measures, in interleaved rounds over all backends."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.fusion_cells import (
    BATCH,
    DATA,
    FULL,
    GROWING,
    GROWING_INPUT,
    GROWING_WIDTH,
    LINEAR,
    MODELS,
    copies,
    fusion_parameters,
    growth_bytes,
    growth_rows,
    growth_values,
    table_values,
)
from benchmarks.rounds import Spread, interleave, ratios, spread
from core.runtime.worker import Worker

Widths = tuple[int, int, int]
ROWS = 8 * BATCH
REFERENCES = (FULL, LINEAR)


@dataclass(frozen=True)
class Speed:
    """A cell of the table. `train` and `predict`: samples per second, and over those of each of REFERENCES."""

    widths: Widths
    backend: str
    model: str
    parameters: int
    fusion_parameters: int
    train: Spread
    predict: Spread
    train_over: Mapping[str, Spread]
    predict_over: Mapping[str, Spread]


@dataclass(frozen=True)
class Growth:
    """One number of modalities. `formula`: the parameters that the fusion should have; `over_lmf`: of step times."""

    modalities: int
    backend: str
    model: str
    parameters: int
    fusion_parameters: int
    formula: int
    step_ms: Spread
    over_lmf: Spread


def measure_speeds(workers: Mapping[str, Worker], widths: Sequence[Widths], rounds: int, threads: int) -> list[Speed]:
    """LMF of all ranks and both TFNs at `widths`; within a round, the models of a backend follow one another."""
    counts: dict[tuple[Widths, str, str], tuple[int, int]] = {}
    jobs: dict[tuple[Widths, str, str], Callable[[int], tuple[float, float]]] = {}
    for width in widths:
        for backend, worker in workers.items():
            for model in MODELS:
                cell, values = f"{model} {width}", table_values(model, width, threads)
                counts[width, backend, model] = worker.run(
                    "benchmarks.fusion_cells:prepare", backend, cell, values, DATA.inputs, ROWS)
                jobs[width, backend, model] = partial(worker.run, "benchmarks.fusion_cells:measure", cell, ROWS)
    seconds = interleave(jobs, rounds, "LMF and TFN")
    speeds = {key: [[ROWS / value for value in part] for part in zip(*pairs, strict=True)]
              for key, pairs in seconds.items()}
    found = []
    for (width, backend, model), (train, predict) in speeds.items():
        over = [{other: ratios(part, speeds[width, backend, other][place]) for other in REFERENCES if other != model}
                for place, part in enumerate((train, predict))]
        found.append(Speed(width, backend, model, *counts[width, backend, model],
                           spread(train), spread(predict), *over))
    return found


def measure_growth(workers: Mapping[str, Worker], most: int, rounds: int, threads: int
                   ) -> tuple[list[Growth], list[str]]:
    """Both models with 1 to `most` modalities; and a sentence for each that the free memory does not hold."""
    counts: dict[tuple[int, str, str], tuple[int, int]] = {}
    jobs: dict[tuple[int, str, str], Callable[[int], float]] = {}
    left_out = []
    for number in range(1, most + 1):
        needed, free = len(workers) * growth_bytes(number), free_bytes()
        fits = free is None or needed < free
        if not fits:
            left_out.append(f"TFN of {number} modalities is left out: {len(workers)} backend(s) need about "
                            f"{needed / 1e9:.0f} GB of memory, {(free or 0) / 1e9:.0f} GB are free")
        for backend, worker in workers.items():
            for model in GROWING if fits else ["LMF"]:
                cell, rows, values = f"{model} of {number}", growth_rows(model, number), growth_values(model, threads)
                counts[number, backend, model] = worker.run(
                    "benchmarks.fusion_cells:prepare", backend, cell, values,
                    copies(GROWING_INPUT, number), rows)
                jobs[number, backend, model] = partial(worker.run, "benchmarks.measure:train", cell, rows)
    steps = {key: [1000 * BATCH / growth_rows(key[2], key[0]) * seconds for seconds in found]
             for key, found in interleave(jobs, rounds, "growth").items()}
    return [Growth(number, backend, model, *counts[number, backend, model],
                   fusion_parameters(GROWING[model], [GROWING_WIDTH] * number, 1),
                   spread(times), ratios(times, steps[number, backend, "LMF"]))
            for (number, backend, model), times in steps.items()], left_out


def free_bytes() -> int | None:
    """Memory that programs may still take; None where the system does not say."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return None
