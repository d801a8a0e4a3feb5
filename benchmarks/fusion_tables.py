"""The efficiency results as tables: for the terminal, as Markdown, and beside what the paper claims."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas
from rich.console import Console
from rich.table import Table

from benchmarks.fusion_cells import BATCH, FULL, GROWING, GROWING_INPUT, GROWING_WIDTH, LINEAR, MODELS
from benchmarks.fusion_cells import DATA as SHAPES
from benchmarks.fusion_results import REFERENCES, Growth, Speed
from core.studies.tables.published import Efficiency, load_efficiency, load_published

NONE = "\N{EN DASH}"
DATA = f"random numbers of {SHAPES.name.upper()}'s shapes"


@dataclass(frozen=True)
class Sheet:
    """A table of text, with what has to be known to read it."""

    title: str
    frame: pandas.DataFrame
    legend: tuple[str, ...]


def sheets(speeds: Sequence[Speed], growth: Sequence[Growth], left_out: Sequence[str], rounds: int, threads: int
           ) -> list[Sheet]:
    """All tables, in the order of reading."""
    how = (f"median of {rounds} interleaved rounds (lowest to highest), {threads} CPU thread(s), batch {BATCH}, "
           f"float32; data: {DATA}")
    backends = list(dict.fromkeys(speed.backend for speed in speeds))
    return [parameter_sheet(speeds), *(speed_sheet(speeds, backend, how) for backend in backends), published_sheet(),
            growth_sheet(growth, left_out, how)]


def parameter_sheet(speeds: Sequence[Speed]) -> Sheet:
    """Counts per width and model; backends with the same counts share a line."""
    groups: dict[tuple[str, str, int, int], list[str]] = {}
    for speed in speeds:
        key = (str(speed.widths), speed.model, speed.fusion_parameters, speed.parameters)
        groups.setdefault(key, []).append(speed.backend)
    lines = [{"d": d, "model": model, "fusion": f"{fusion:,}", "whole network": f"{whole:,}",
              "held by": ", ".join(backends)} for (d, model, fusion, whole), backends in groups.items()]
    claims = ", ".join(f"{model.upper()} {number:,.0f}" for model, number in claimed_parameters().items())
    return Sheet("Trained parameters", pandas.DataFrame(lines, dtype=str), (
        "Counted in the state that a session gives back, without BatchNorm's running statistics.",
        f"d: widths of audio, video and text where they are fused. Inputs: {_shapes()}. The text "
        "LSTM is twice as wide as its output, as in the original. One output.",
        f"{FULL}: two ReLU layers of {MODELS[FULL]['post_fusion_dim']} after the fusion (Zadeh et al.). "
        f"{LINEAR}: none, so W is the tensor that LMF factorises.",
        f"The paper claims for d = (32, 32, 64): {claims}. The architecture that the authors released gives the counts "
        "above.",
    ))


def _shapes() -> str:
    """`5, 20, 20 x 300`."""
    return ", ".join(" x ".join(map(str, one.shape)) for one in SHAPES.inputs)


def claimed_parameters() -> dict[str, float]:
    """What the paper says, by model."""
    return {system.model: system.parameters for system in load_published() if system.parameters}


def speed_sheet(speeds: Sequence[Speed], backend: str, how: str) -> Sheet:
    """Samples per second of one backend, and over each TFN's in the same round."""
    lines = []
    for speed in (speed for speed in speeds if speed.backend == backend):
        line = {"d": str(speed.widths), "model": speed.model}
        for title, value, over in (("training", speed.train, speed.train_over),
                                   ("inference", speed.predict, speed.predict_over)):
            line[f"{title}, samples/s"] = f"{value.median:.0f}"
            for reference in REFERENCES:
                line[f"{title} / {reference}"] = over[reference].text() if reference in over else NONE
        lines.append(line)
    return Sheet(f"Speed of the whole network in {backend}", pandas.DataFrame(lines, dtype=str), (
        f"How: {how}.",
        f"/ {FULL}, / {LINEAR}: samples per second over those of that TFN, round by round; above 1 is faster than TFN. "
        "Hold the ratios; samples per second change with the machine and its load.",
    ))


def published_sheet() -> Sheet:
    """The paper's own efficiency table."""
    titles = {system.key: system.title for system in load_published()}
    lines = [{"system": titles[speed.system], "device": speed.device, "remark": speed.remark or NONE,
              "training, samples/s": f"{speed.train_samples_per_second:.2f}",
              "inference, samples/s": f"{speed.test_samples_per_second:.2f}"} for speed in paper_speeds()]
    return Sheet("As the paper has it", pandas.DataFrame(lines, dtype=str), (
        "Other hardware and other software: it stands here to be seen, not to be compared with.",))


def paper_speeds() -> list[Efficiency]:
    """The paper's lines among the published speeds."""
    return [speed for speed in load_efficiency() if speed.system.startswith("paper_")]


def growth_sheet(growth: Sequence[Growth], left_out: Sequence[str], how: str) -> Sheet:
    """Parameters and step time against the number of modalities."""
    lines = [{"modalities": str(one.modalities), "model": one.model, "backend": one.backend,
              "fusion parameters": f"{one.fusion_parameters:,}", "by formula": f"{one.formula:,}",
              "ms per training step": one.step_ms.text(), "step / LMF's": one.over_lmf.text()}
             for one in sorted(growth, key=lambda one: (one.modalities, one.backend, one.model))]
    return Sheet("Growth with the number of modalities", pandas.DataFrame(lines, dtype=str), (
        f"How: {how}. Every modality is a copy of {GROWING_INPUT.name}: {GROWING_INPUT.width} numbers per row, its own "
        f"subnet, {GROWING_WIDTH} values to fuse. Step: forward, backward and Adam of the whole network.",
        f"LMF: rank {GROWING['LMF']['rank']}. TFN: two ReLU layers of {GROWING['TFN']['post_fusion_dim']}.", *left_out))


def show(found: Sequence[Sheet], console: Console) -> None:
    """In the terminal."""
    for sheet in found:
        table = Table(*sheet.frame.columns, title=sheet.title, title_justify="left")
        for row in sheet.frame.itertuples(index=False):
            table.add_row(*row)
        console.print(table)
        for sentence in sheet.legend:
            console.print(sentence, markup=False)
        console.print()


def markdown(found: Sequence[Sheet]) -> str:
    """As a page."""
    parts = ["# Efficiency: LMF against TFN"]
    for sheet in found:
        table = sheet.frame.to_markdown(index=False, disable_numparse=True)
        parts += [f"## {sheet.title}", table, "\n".join(f"- {sentence}" for sentence in sheet.legend)]
    return "\n\n".join(parts) + "\n"
