"""Statistics over seeds: mean, spread, interval; whether two backends are equivalent, and whether two settings differ,
paired by seed.

Nothing here chooses among runs: what goes in is every value that there is.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from core.training.metrics import Value

RESAMPLES = 9999
ENOUGH_SEEDS = 5  # fewer are marked
ENOUGH_PAIRS = 3  # fewer give no verdict
FOUR_DIGITS = 5e-5  # two numbers closer than this look the same in the tables

# Margins of equivalence, fixed before the first table was made. Two published runs of LMF, the rerun in PyTorch and the
# MindSpore port, lie .011 (MOSI) and .041 (POM) apart in MAE, .005 and .072 in Corr, .047 in accuracy (POM) and .020 to
# .061 in F1 (three of four IEMOCAP emotions). Margins of that order are what a reader of such tables takes for noise.
# 5 % of the validation loss is the margin of parity_tests/test_13_equivalence.py.
MARGINS = {"MAE": 0.05, "Corr": 0.05}
SHARE_MARGIN = 0.03  # accuracies and F1
LOSS_MARGIN = 0.05  # of the reference's mean best validation loss


@dataclass(frozen=True)
class Summary:
    """Of the values of all finished seeds. undefined: how many of them have no value; then there is no mean either.

    mean: None without values. std (ddof 1), low and high (95 % interval of the mean): None with fewer than two.
    """

    n: int
    undefined: int
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """`one - other`, paired by seed. low, high: 95 % t interval of the mean difference.

    paired_t, wilcoxon: two-sided p-values of the paired t-test and of Wilcoxon's signed-rank test. All None, and `why`
    says it, where too few seeds are common or a value is undefined; the p-values also where no seed differs.
    """

    pairs: int
    why: str = ""
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    paired_t: float | None = None
    wilcoxon: float | None = None


@dataclass(frozen=True)
class Comparison:
    """`one - other`, paired by seed. low, high: 90 % t interval of the mean difference; None where there is none.

    largest: largest magnitude of a difference; identical, same_digits: pairs that differ by 0, by less than a table
    shows. verdict: `equivalent`, `different` or `not shown`, with the reason where no interval could be had.
    """

    pairs: int
    margin: float
    verdict: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    largest: float | None = None
    identical: int = 0
    same_digits: int = 0


def summarise(values: Sequence[Value]) -> Summary:
    """Mean, standard deviation and 95 % percentile bootstrap interval of the mean.

    The resamples are the same in every call. With five seeds there are 126 different ones: the interval is coarse.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Summary(len(values), len(values) - len(known))
    mean = float(np.mean(known))
    if len(known) == 1:
        return Summary(1, 0, mean)
    drawn = stats.bootstrap((np.asarray(known),), np.mean, n_resamples=RESAMPLES, confidence_level=0.95,
                            method="percentile", random_state=0).confidence_interval
    return Summary(len(known), 0, mean, float(np.std(known, ddof=1)), float(drawn.low), float(drawn.high))


def interval(one: Any, other: Any, scale: float = 1.0, tail: float = 0.05) -> tuple[float, float]:
    """t interval of the mean paired difference `one - other`, (n,) each, in units of `scale`; 90 % without `tail`.

    `tail` is what it leaves out on each side. Two one-sided t-tests at 5 % find equivalence exactly where the interval
    of 90 % lies within the margin on both sides.
    """
    difference = (np.asarray(one, np.float64) - np.asarray(other, np.float64)) / scale
    half = float(stats.t.ppf(1 - tail, len(difference) - 1) * stats.sem(difference))
    mean = float(difference.mean())
    return mean - half, mean + half


def difference(one: Sequence[Value], other: Sequence[Value]) -> Difference:
    """Of values of the same seeds, in the same order."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if len(pairs) < len(one):
        return Difference(len(one), f"undefined for {len(one) - len(pairs)} of {len(one)} seeds")
    if len(pairs) < ENOUGH_PAIRS:
        return Difference(len(pairs), f"common seeds: {len(pairs)} of {ENOUGH_PAIRS} needed")
    left, right = np.asarray(pairs, np.float64).T
    gaps = left - right
    low, high = interval(left, right, tail=0.025)
    if not gaps.any():
        return Difference(len(pairs), "the same in every seed", 0.0, low, high)
    steady = np.ptp(gaps) == 0  # no spread: t would be infinite
    return Difference(len(pairs), "", float(gaps.mean()), low, high,
                      0.0 if steady else float(stats.ttest_rel(left, right).pvalue),
                      float(stats.wilcoxon(gaps).pvalue))


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, 1979), in the same order."""
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(np.argsort(values, kind="stable")):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def compare(one: Sequence[Value], other: Sequence[Value], margin: float, relative: bool = False) -> Comparison:
    """Compare values of the same seeds, in the same order; `relative` to the mean of `other`.

    `different` is said only where the whole interval lies beyond the margin.
    """
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    undefined = len(one) - len(pairs)
    if undefined:
        return Comparison(len(one), margin, f"not shown (undefined for {undefined} of {len(one)} seeds)")
    if len(pairs) < ENOUGH_PAIRS:
        return Comparison(len(pairs), margin, f"not shown (common seeds: {len(pairs)} of {ENOUGH_PAIRS} needed)")
    left, right = np.asarray(pairs, np.float64).T
    scale = float(right.mean()) if relative else 1.0
    low, high = interval(left, right, scale)
    gaps = np.abs(left - right) / scale
    return Comparison(len(pairs), margin, verdict(low, high, margin), float((left - right).mean()) / scale, low, high,
                      float(gaps.max()), int((gaps == 0).sum()), int((gaps < FOUR_DIGITS).sum()))


def verdict(low: float, high: float, margin: float) -> str:
    """What the interval from `low` to `high` says."""
    if -margin < low and high < margin:
        return "equivalent"
    return "different" if low > margin or high < -margin else "not shown"
