"""The sentences below a table: how its numbers were made, selected and defined, and from which data."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas

from core.data.tables import TABLES, two_ended
from core.studies.tables.arms import LOSS
from core.studies.tables.assemble import Row, Table
from core.studies.tables.equivalence import Pair
from core.studies.tables.published import System
from core.studies.tables.statistics import ENOUGH_SEEDS, LOSS_MARGIN, MARGINS, RESAMPLES, SHARE_MARGIN

LOWER = ("MAE", LOSS)  # is better; of everything else, higher
ARROWS = {"lower": "↓", "higher": "↑"}
CLAIMED_FOR = two_ended(tuple(spec.title for spec in TABLES.values() if spec.claimed))
UNKNOWN = "whether the file is the published one is not known"
NOT_COMPARABLE = "not comparable with published numbers"
STATISTICS = ("Ours: mean ± standard deviation over seeds (ddof 1) [95 % interval of the mean: percentile bootstrap, "
              f"{RESAMPLES} resamples; coarse with {ENOUGH_SEEDS} seeds].")
SELECTION = ("Selection of ours: the epoch with the {}; this one checkpoint gives all metrics of a row. All planned "
             "seeds are in a mean; those without a result are named.")
ORIGIN = ("Published numbers were made from the published features, by the selection rules below. Ours were made from "
          f"what the data column says; where it names more than a data set, they are {NOT_COMPARABLE}.")
DEFINITIONS = {
    "MAE": "mean absolute error", "Corr": "Pearson correlation, undefined for constant predictions",
    "Has0_acc_2": "accuracy of p >= 0 against y >= 0, the paper's Acc-2",
    "Has0_F1_score": "weighted F1 of the same two classes, the paper's F1",
    "Non0_acc_2": "accuracy of p > 0 against y > 0 without rows with y = 0",
    "Non0_F1_score": "weighted F1 of the same two classes",
    "Non0_F1_score_swapped": "the same with truth and prediction exchanged, as the course's code calls it: weighted by "
                             "how often a class is predicted",
    "Mult_acc_5": "round(p) = round(y), both clipped to -2 to 2 before",
    "Mult_acc_7": "round(p) = round(y), both clipped to -3 to 3 before",
    "Acc-7": "round(p) = round(y), without clipping", "Acc": "round(p) = round(y)",
    "F1": "weighted F1 of an emotion's two classes", "Acc-2": "accuracy of an emotion's two classes",
}


def better(metric: str) -> str:
    """Whether a `lower` or a `higher` value is better."""
    return "lower" if metric in LOWER else "higher"


def headed(metric: str) -> str:
    """`MAE ↓`."""
    return f"{metric} {ARROWS[better(metric)]}"


def selection(table: Table) -> str:
    """What chose the epochs of our rows."""
    return SELECTION.format(" or the ".join(dict.fromkeys(how for row in table.rows for how in row.selections)))


def table_legend(table: Table) -> tuple[str, ...]:
    """Of a table of results."""
    return (
        STATISTICS, selection(table), *((ORIGIN,) if table.columns else ()),
        *(f"{headed(metric)}: {DEFINITIONS[metric]}." for metric in table.layout.metrics),
        *(_system(heading, system) for heading, systems in table.columns.items() for system in systems),
        *about_data(table.rows), *(f"Missing: {sentence}" for sentence in table.missing),
    )


def equivalence_legend(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Of the comparisons of backends."""
    margins = ", ".join(f"{metric} {margin:g}" for metric, margin in MARGINS.items())
    verdicts = Counter(pair.found.verdict.split(" (")[0] for pair in pairs)
    counted = ", ".join(f"{verdicts[name]} {name}" for name in ("equivalent", "not shown", "different"))
    return (
        f"{len(pairs)} comparisons: {counted}." if pairs else "Nothing to compare: no cell has two backends.",
        "Difference: backend minus reference, mean over the seeds that both have, and its 90 % t interval. Equivalent: "
        "the interval lies within the margin on both sides, as two one-sided t-tests at 5 % say. Different: it lies "
        "wholly beyond. Anything else is not shown either way.",
        f"Margins, fixed before the first table was made: {margins}, accuracies and F1 {SHARE_MARGIN:g}, {LOSS} "
        f"{LOSS_MARGIN:.0%}. Published runs of one LMF lie up to .041 MAE, .072 Corr and .061 F1 apart.",
        f"{LOSS}: of the best epoch; its difference, interval and margin are relative to the reference's mean.",
        "Largest: magnitude of the largest difference of a seed. Same bits, same digits: seeds with the same value to "
        "the last bit, and to the four digits of the tables.",
        *about_data([pair.row for pair in pairs]),
    )


def systems_frame(table: Table) -> pandas.DataFrame:
    """Who reports what, by which selection rule: a line per published system, and ours."""
    def line(heading: str, system: System) -> dict[str, Any]:
        return {"column": heading, "system": system.title, "model": system.model, "selection": system.selection,
                "runs": system.runs, "parameters_claimed": system.parameters, "source": system.source}

    ours = {"column": ", ".join(table.backends), "system": "ours", "model": "", "selection": selection(table),
            "runs": STATISTICS, "parameters_claimed": None, "source": "the runs of this folder"}
    return pandas.DataFrame([*(line(heading, system) for heading, systems in table.columns.items()
                               for system in systems), ours])


def _system(heading: str, system: System) -> str:
    name = heading if heading == system.title else f"{heading} ({system.title})"
    claim = f" Parameters claimed, for {CLAIMED_FOR}: {system.parameters:,.0f}." if system.parameters else ""
    return f"{name}: selection: {system.selection}. Runs: {system.runs}. Source: {system.source}.{claim}"


def about_data(rows: Sequence[Row]) -> list[str]:
    """Every note in full, once, with what it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        for note in row.notes:
            about.setdefault(note, []).append(f"{row.system} ({row.data})")
    return ["Data: the data set, and the beginning of its fingerprint, from run.json; another split has another.",
            *(f"Data: {note}. Concerns: {'; '.join(dict.fromkeys(systems))}." for note, systems in about.items())]
