"""Rows as data frames: `shown`, text for people, and `tidy`, a number to a column."""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas

from core.studies.tables.arms import LOSS, Arm
from core.studies.tables.assemble import Row, Table
from core.studies.tables.differences import LEVEL, UNSETTLED, Gap, summed
from core.studies.tables.equivalence import Pair
from core.studies.tables.legend import (
    NOT_COMPARABLE,
    UNKNOWN,
    about_data,
    better,
    equivalence_legend,
    headed,
    systems_frame,
    table_legend,
)
from core.studies.tables.results import BY_LOSS
from core.studies.tables.statistics import ENOUGH_SEEDS, Summary

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Sheet:
    """What the files of a table hold. flagged: per row of `shown`, whether ours isn't from the published data alone."""

    name: str
    title: str
    shown: pandas.DataFrame
    tidy: pandas.DataFrame
    flagged: tuple[bool, ...]
    legend: tuple[str, ...]
    systems: pandas.DataFrame | None = None


def table_sheet(table: Table) -> Sheet:
    """A table of results. The detail of a mean has a line per backend, and the metrics side by side."""
    layout = table.layout
    lines = ([line for rows in _by_cell(table.rows) for line in _detail_lines(rows, layout.spec.cell)] if layout.detail
             else [(_line(table, row), row) for row in table.rows])
    return Sheet(table.key, layout.title, pandas.DataFrame([shown for shown, _ in lines]),
                 pandas.DataFrame([_tidy_line(table, row) for row in table.rows]),
                 tuple(not row.comparable for _, row in lines), table_legend(table),
                 systems_frame(table) if table.columns else None)


def equivalence_sheet(pairs: Sequence[Pair]) -> Sheet:
    """All comparisons of backends."""
    return Sheet("equivalence", "Equivalence of the backends", pandas.DataFrame([_pair_line(pair) for pair in pairs]),
                 pandas.DataFrame([_tidy_pair(pair) for pair in pairs]),
                 tuple(not pair.row.comparable for pair in pairs), equivalence_legend(pairs))


def differences_sheet(gaps: Sequence[Gap]) -> Sheet:
    """All comparisons of settings with their base."""
    return Sheet("differences", "Differences of settings, paired by seed",
                 pandas.DataFrame([_gap_line(gap) for gap in gaps]), pandas.DataFrame([_tidy_gap(gap) for gap in gaps]),
                 tuple(not gap.row.comparable for gap in gaps), (
        f"{summed(gaps)}.",
        "Difference: setting minus base, mean over the seeds that both have, and its 95 % t interval; arrows say which "
        "sign is better. p: two-sided, of the paired t-test and of Wilcoxon's signed-rank test, which can't fall below "
        ".05 with fewer than 6 seeds.",
        "corrected: p of the t-test by Holm, for the number of settings that are compared with one base in this "
        "backend and metric; not for the number of metrics and backends. Better, worse: corrected p below "
        f"{LEVEL:g}. {UNSETTLED.capitalize()}: these seeds can't tell the two apart, which doesn't make them equal.",
        *about_data([gap.row for gap in gaps])))


def number(value: float | None, digits: int = 4) -> str:
    """Ours, to four digits."""
    return NONE if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference, to four digits."""
    return NONE if value is None else f"{value:+.4f}"


def as_published(value: float | None) -> str:
    """Three digits, as in print, or four where there are four."""
    return NONE if value is None else number(value, 3 if round(value, 3) == value else 4)


def summary_text(summary: Summary | None) -> str:
    """`0.9120 ± 0.0130 [0.9010, 0.9230]`; one seed has no spread and no interval."""
    if summary is None or summary.n == 0:
        return NONE
    if summary.undefined:
        return f"undefined ({summary.undefined} of {summary.n} seeds)"
    bounds = f"{number(summary.low)}, {number(summary.high)}" if summary.low is not None else NONE
    return f"{number(summary.mean)} ± {number(summary.std)} [{bounds}]"


def data_text(rows: Sequence[Row]) -> str:
    """What made the rows: the data set, and what is missing or wrong in it. The name of synthetic data says so."""
    said = [row.data for row in rows if row.data]
    said += [text for row in rows for text in row.caveats if text != "synthetic data"]
    return "; ".join(dict.fromkeys(said)) or NONE


def _line(table: Table, row: Row) -> dict[str, str]:
    arms = row.arms
    return {
        "system": row.system, "cell": row.cell, "metric": headed(row.metric),
        **{heading: as_published(row.published.get(heading)) for heading in table.columns},
        **{name: summary_text(arms[name].summary if name in arms else None) for name in table.backends},
        "seeds": _seeds(arms), "parameters": _parameters(row), "data": data_text([row]),
        "remarks": _remarks(table, row),
    }


def _detail_lines(rows: Sequence[Row], called: str) -> list[tuple[dict[str, str], Row]]:
    """Of one system and cell, `rows` being its metrics: a line per backend."""
    lines = []
    for backend in rows[0].arms:
        arms = {row.metric: row.arms[backend] for row in rows}
        remarks = [text for metric, arm in arms.items() for text in _arm_remarks(metric, {backend: arm})]
        lines.append(({
            "system": rows[0].system, called or "cell": rows[0].cell, "backend": backend,
            **{headed(metric): summary_text(arm.summary) for metric, arm in arms.items()},
            "seeds": _count(rows[0].arms[backend]), "parameters": _counts(rows[0].arms[backend].parameters),
            "data": data_text(rows), "remarks": "; ".join(dict.fromkeys(remarks)) or NONE,
        }, rows[0]))
    return lines


def _by_cell(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.system, row.cell), []).append(row)
    return list(groups.values())


def _seeds(arms: Mapping[str, Arm]) -> str:
    """Said once where all backends are alike, else of each backend."""
    said = {name: _count(arm) for name, arm in arms.items()}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{name} {text}" for name, text in said.items()) or NONE


def _count(arm: Arm) -> str:
    """`n = 4 of 5 (1, 2, 4, 5)`, `n = 5 (1 to 5)`."""
    planned = len(arm.values) + len(arm.missing)
    several = f"n = {len(arm.values)} of {planned}" if arm.missing else f"n = {planned}"
    return f"{several} ({_listed(sorted(arm.values))})" if arm.values else several


def _listed(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _parameters(row: Row) -> str:
    claimed = [f"paper claims {row.claimed:,.0f}"] if row.claimed else []
    return "; ".join([*([_counts(row.parameters)] if row.parameters else []), *claimed]) or NONE


def _counts(counts: Sequence[int]) -> str:
    return " to ".join(f"{count:,}" for count in dict.fromkeys((min(counts), max(counts)))) if counts else NONE


def _remarks(table: Table, row: Row) -> str:
    unlike = [NOT_COMPARABLE] if row.published and row.data and not row.comparable else []
    known = table.layout.spec.data.published.sha256  # without it, no reader can tell another file from that one
    unlike += [UNKNOWN] if row.published and row.data and row.comparable and not known else []
    alone = ["no published counterpart"] if row.metric in table.layout.spec.unreported else []
    same = [f"settings of {file}, but for the precision" for file in row.same]
    return "; ".join([*unlike, *alone, *same, *_arm_remarks(row.metric, row.arms)]) or NONE


def _arm_remarks(metric: str, arms: Mapping[str, Arm]) -> list[str]:
    """What is few, missing, undefined or made elsewhere; said once where all backends are alike."""
    said: dict[str, list[str]] = {}
    for name, arm in arms.items():
        few = [f"fewer than {ENOUGH_SEEDS} seeds"] if len(arm.values) < ENOUGH_SEEDS else []
        lacking = _by_reason({seed: why.split(":")[0] for seed, why in arm.missing.items()})  # the legend has all of it
        undefined = [f"{metric} of {text}" for text in _by_reason(arm.undefined)]
        for text in (*few, *lacking, *undefined, *([f"on {arm.hardware}"] if arm.hardware else [])):
            said.setdefault(text, []).append(name)
    return [text if len(names) == len(arms) else f"{', '.join(names)}: {text}" for text, names in said.items()]


def _by_reason(seeds: Mapping[int, str]) -> list[str]:
    """`seed 3 failed`, `seeds 4, 5 not started`."""
    reasons: dict[str, list[int]] = {}
    for seed, why in sorted(seeds.items()):
        reasons.setdefault(why, []).append(seed)
    return [f"{'seed' if len(found) == 1 else 'seeds'} {_listed(found)} {why}" for why, found in reasons.items()]


def _tidy_line(table: Table, row: Row) -> dict[str, Any]:
    """Numbers in full; lists and mappings as JSON."""
    setup, line = row.setup, {}
    for name in table.backends:
        arm = row.arms.get(name) or Arm({}, {}, {}, (), "")
        seeds = sorted(arm.values)
        summary = {key: value for key, value in asdict(arm.summary).items() if key != "n"}
        line.update({f"{name}_{key}": value for key, value in {
            **summary, "seeds": json.dumps(seeds), "values": json.dumps([arm.values[seed] for seed in seeds]),
            "missing": json.dumps(dict(sorted(arm.missing.items()))), "parameters": json.dumps(arm.parameters),
            "hardware": arm.hardware}.items()})
    return {
        "table": table.key, "system": row.system, "model": row.model,
        "modalities": "+".join(setup.modalities) if setup else "", "variant": setup.variant if setup else "",
        "cell": row.cell, "metric": row.metric, "better": better(row.metric),
        **{heading: row.published.get(heading) for heading in table.columns}, **line,
        "parameters_claimed": row.claimed,
        "selection": "; ".join(LOSS if how == BY_LOSS else how for how in row.selections),
        "data": row.data, "synthetic": setup.synthetic if setup else None, "caveats": "; ".join(row.caveats),
        "comparable": row.comparable if row.data else None, "remarks": _remarks(table, row),
        "notes": "; ".join(row.notes), "config": "; ".join(row.configs),
    }


def _pair_line(pair: Pair) -> dict[str, str]:
    found, row = pair.found, pair.row
    settled = found.low is not None
    return {
        "system": row.system, "cell": row.cell, "metric": row.metric, "backends": f"{pair.backend} - {pair.reference}",
        "seeds": f"n = {len(pair.seeds)} ({_listed(pair.seeds)})" if pair.seeds else "n = 0",
        "difference": number(found.difference),
        "90 % interval": f"[{number(found.low)}, {number(found.high)}]" if settled else NONE,
        "margin": f"{found.margin:g}", "verdict": found.verdict, "largest": number(found.largest),
        "same bits": f"{found.identical} of {found.pairs}" if settled else NONE,
        "same digits": f"{found.same_digits} of {found.pairs}" if settled else NONE,
        "data": data_text([row]),
    }


def gap_text(gap: Gap) -> str:
    """A difference in a line."""
    found = gap.found
    tested = f"p = {number(gap.corrected)}: " if gap.corrected is not None else ""
    return (f"{gap.row.system} against {gap.base.system}, {gap.backend}, {gap.row.cell} {headed(gap.row.metric)}: "
            f"{signed(found.mean)} [{signed(found.low)}, {signed(found.high)}], n = {found.pairs}, {tested}"
            f"{gap.verdict}")


def _gap_line(gap: Gap) -> dict[str, str]:
    found, row = gap.found, gap.row
    settled = found.low is not None
    return {
        "system": row.system, "base": gap.base.system, "cell": row.cell, "metric": headed(row.metric),
        "backend": gap.backend, "seeds": f"n = {len(gap.seeds)} ({_listed(gap.seeds)})" if gap.seeds else "n = 0",
        "difference": signed(found.mean),
        "95 % interval": f"[{signed(found.low)}, {signed(found.high)}]" if settled else NONE,
        "p (t)": number(found.paired_t), "corrected": number(gap.corrected), "p (Wilcoxon)": number(found.wilcoxon),
        "verdict": gap.verdict, "data": data_text([row]),
    }


def _tidy_gap(gap: Gap) -> dict[str, Any]:
    row = gap.row
    return {
        "system": row.system, "base": gap.base.system, "cell": row.cell, "metric": row.metric, "backend": gap.backend,
        "seeds": json.dumps(gap.seeds), "better": better(row.metric), **asdict(gap.found), "corrected": gap.corrected,
        "verdict": gap.verdict, "data": row.data, "caveats": "; ".join(row.caveats), "notes": "; ".join(row.notes),
    }


def _tidy_pair(pair: Pair) -> dict[str, Any]:
    row, found = pair.row, pair.found
    return {
        "system": row.system, "cell": row.cell, "metric": row.metric, "backend": pair.backend,
        "reference": pair.reference, "seeds": json.dumps(pair.seeds), "relative": row.metric == LOSS,
        **asdict(found), "data": row.data, "caveats": "; ".join(row.caveats), "notes": "; ".join(row.notes),
    }
