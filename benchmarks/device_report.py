"""What the device suite prints and writes: the table, the goals, everything that was measured."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from benchmarks.device_checks import Check
from benchmarks.device_speed import MEASURES, PLAIN, Seeds, Speed
from benchmarks.rounds import Spread

RATE, TIMES = 300_000, 3  # samples per second in a full step of the largest batch; all seeds over one
PORT = {"GPU": 684, "NPU": 10_276}  # samples per second at batch 256 that the Ascend port reports, without optimizer


@dataclass(frozen=True)
class Goal:
    """words: what was to be reached, and by what; found: the best median, or the ratio's."""

    words: str
    found: float
    wanted: float
    reached: bool

    def __str__(self) -> str:
        digits = 0 if self.wanted == RATE else 2
        return (f"{'reached' if self.reached else 'missed'}: {self.words}: {self.found:,.{digits}f} "
                f"(goal {self.wanted:,})")


def goals(speeds: Sequence[Speed], seeds: Sequence[Seeds]) -> list[Goal]:
    """Of every cell, at the largest batch and in float32."""
    batch, found = max(one.batch for one in speeds), []
    for emotion in dict.fromkeys(one.emotion for one in speeds):
        best = max((one for one in speeds if (one.emotion, one.batch, one.precision, one.measure)
                    == (emotion, batch, PLAIN, "step")), key=lambda one: one.spread.median)
        rate = best.spread.median
        words = f"{emotion}, samples/s in a full step at batch {batch} ({best.way})"
        found.append(Goal(words, rate, RATE, rate >= RATE))
        found += [Goal(f"{emotion}, {one.seeds} seeds at once over one at batch {batch}", one.ratio.median, TIMES,
                       one.ratio.median <= TIMES) for one in seeds if (one.emotion, one.batch) == (emotion, batch)]
    return found


def tables(speeds: Sequence[Speed], seeds: Sequence[Seeds], ways: Sequence[str], precisions: Mapping[str, str],
           rounds: int) -> list[Table]:
    """Samples per second, a row per cell, batch and precision; and the seeds. precisions: in words."""
    keys = [(measure, way) for measure in MEASURES for way in ways]
    table = Table("cell", "batch", "precision", *(f"{measure}, {way}" for measure, way in keys),
                  title=f"samples per second, median of {rounds} interleaved rounds (slowest to fastest)")
    found = {(one.emotion, one.batch, one.precision, one.measure, one.way): one.spread for one in speeds}
    for emotion, batch, precision in dict.fromkeys((one.emotion, one.batch, one.precision) for one in speeds):
        table.add_row(emotion, str(batch), precisions[precision],
                      *(rates(found[emotion, batch, precision, measure, way]) for measure, way in keys))
    if not seeds:
        return [table]
    beside = Table("cell", "batch", "seeds", "time over that of one", title="seeds at once in one graph, full steps")
    for one in seeds:
        beside.add_row(one.emotion, str(one.batch), str(one.seeds), one.ratio.text())
    return [table, beside]


def rates(found: Spread) -> str:
    return f"{found.median:,.0f} ({found.lowest:,.0f} to {found.highest:,.0f})"


def lines(stated: Mapping[str, str]) -> list[str]:
    """What was asked for and observed, a line each."""
    return [f"{name}: {value}" for name, value in stated.items()]


def record(stated: Mapping[str, str], rounds: int, checks: Sequence[Check], speeds: Sequence[Speed],
           seeds: Sequence[Seeds], reached: Sequence[Goal]) -> dict[str, Any]:
    """Everything, every round."""
    return {"stated": dict(stated), "rounds": rounds, "measures": MEASURES,
            "port_reports_samples_per_second_without_optimizer": PORT, "checks": [asdict(one) for one in checks],
            "samples_per_second": [asdict(one) for one in speeds], "seeds": [asdict(one) for one in seeds],
            "goals": [asdict(one) for one in reached]}
