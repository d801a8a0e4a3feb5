"""What a person sees in the terminal."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.common.arrays import Array
from core.common.text import printable
from core.config import Config
from core.data import Dataset
from core.data.findings import findings_among
from core.data.published import beyond_label
from core.data.ranges import NO_RANGES, outside
from core.models.graph import Graph
from core.models.precision import Observed
from core.training.checkpoint import Checkpoint
from core.training.metrics import Value


class PlainConsole(Console):
    """A rich console that takes text as it is: no markup or emoji in it, and nothing unprintable but line breaks."""

    def render_str(self, text: str, **more: Any) -> Text:
        lines = "\n".join(printable(line) for line in text.split("\n"))
        return super().render_str(lines, **{**more, "markup": False, "emoji": False})


console = PlainConsole(highlight=False, soft_wrap=True)


def print_header(backend: str, config: Config, dataset: Dataset, graph: Graph, path: Path, epoch: int,
                 observed: Observed) -> None:
    """What runs, on what, from where."""
    rows = ", ".join(f"{name} {split.rows}" for name, split in dataset.splits.items())
    widths = ", ".join(f"{one.name} {'x'.join(map(str, one.shape))}" for one in dataset.inputs)
    console.print(f"{graph.model.upper()} on {dataset.title} ({rows}; {widths}) in {backend}, {observed}, "
                  f"{graph.parameter_count} parameters, seed {config.seed}")
    console.print(f"run folder: {path}" + (f", going on after epoch {epoch}" if epoch else ""))


def print_cleaning(dataset: Dataset) -> None:
    """One line per split and modality in which NaN or infinite features were set to 0."""
    for split, modalities in dataset.cleaning.items():
        for modality, counts in modalities.items():
            if any(counts.values()):
                said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
                console.print(f"cleaned to 0 in {split} {modality}: {said}")


def print_findings(dataset: Dataset) -> None:
    """What makes a result worth less is said before the first epoch, not only beside the scores."""
    for note in findings_among(dataset.notes):
        console.print(f"warning: {note}")


def print_beyond(inputs: Mapping[str, Array], output: Array, checkpoint: Checkpoint) -> None:
    """Where rows (N, ...) by modality lie outside of what the model was trained on, and predictions (N, O) outside of
    what it was taught."""
    if not checkpoint.ranges:
        console.print(f"note: {NO_RANGES}")
    for modality, values in inputs.items():
        found = outside(modality, values, checkpoint.ranges) if checkpoint.ranges else None
        if found:
            console.print(f"note: {found}")
    beyond = beyond_label(checkpoint.config.described.task, output)
    if beyond:
        console.print(f"note: {beyond}")


def print_epoch(row: Mapping[str, Any]) -> None:
    """One line per epoch, with the metric that selects where it isn't the loss."""
    chosen = "".join(f"  {key.removeprefix('valid_')} {_shown(value)}" for key, value in row.items()
                     if key.startswith("valid_") and key != "valid_loss")
    skipped = f"  skipped {row['skipped_steps']}" if row["skipped_steps"] else ""
    console.print(f"epoch {row['epoch']:3d}  train {row['train_loss']:.5f}  valid {row['valid_loss']:.5f}{chosen}"
                  f"{'  best' if row['best'] else ''}{skipped}")


def print_metrics(metrics: Mapping[str, Value], title: str, notes: Sequence[str]) -> None:
    """A table of metrics; undefined ones say so. Per-trait metrics are a row per trait."""
    table = Table(title=title, title_justify="left")
    single = {name: value for name, value in metrics.items() if " " not in name}
    for name in ("metric", "value"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for name, value in single.items():
        table.add_row(name, _shown(value))
    console.print(table)
    traits = dict.fromkeys(name.split(" ", 1)[1] for name in metrics if " " in name)
    if traits:
        measures = list(dict.fromkeys(name.split(" ", 1)[0] for name in metrics if " " in name))
        table = Table("trait", *measures)
        for trait in traits:
            table.add_row(trait, *(_shown(metrics[f"{measure} {trait}"]) for measure in measures))
        console.print(table)
    for note in notes:
        console.print(f"note: {note}")


def _shown(value: Value) -> str:
    return "undefined" if value is None else f"{value:.4f}"
