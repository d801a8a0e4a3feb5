"""Statistics over seeds, held against computations of another kind."""
from __future__ import annotations

import itertools
import statistics

import numpy as np
import pytest
from scipy import stats

from core.studies.tables import statistics as ours
from core.studies.tables.statistics import compare, interval, summarise

FIVE = [0.912, 0.934, 0.899, 0.921, 0.951]
DRAW = np.random.default_rng(3)
BASE = 0.9 + 0.02 * DRAW.normal(size=5)
NOISE = 0.005 * DRAW.normal(size=5)


def test_mean_and_standard_deviation() -> None:
    found = summarise(FIVE)
    assert (found.n, found.undefined) == (5, 0)
    assert found.mean == pytest.approx(statistics.fmean(FIVE), rel=1e-14)
    assert found.std == pytest.approx(statistics.stdev(FIVE), rel=1e-12)


def test_interval_against_all_resamples() -> None:
    """Five values have 5^5 ordered resamples: the exact bootstrap distribution can be listed."""
    means = [statistics.fmean(chosen) for chosen in itertools.product(FIVE, repeat=5)]
    low, high = np.percentile(means, [2.5, 97.5])
    found = summarise(FIVE)
    assert found.low == pytest.approx(low, abs=1.5e-3) and found.high == pytest.approx(high, abs=1.5e-3)
    assert min(FIVE) < found.low < found.mean < found.high < max(FIVE)  # type: ignore[operator]


def test_interval_is_the_same_in_every_call() -> None:
    many = list(np.random.default_rng(1).normal(size=20))  # of five, the percentiles hardly move
    assert summarise(many) == summarise(many)


def test_one_seed_has_no_spread() -> None:
    found = summarise([0.5])
    assert (found.mean, found.std, found.low, found.high) == (0.5, None, None, None)


def test_no_seed_has_nothing() -> None:
    found = summarise([])
    assert (found.n, found.mean) == (0, None)


def test_an_undefined_value_leaves_the_mean_undefined() -> None:
    found = summarise([0.5, None, 0.6])
    assert (found.n, found.undefined, found.mean, found.low) == (3, 1, None, None)


def test_margins_are_those_fixed_beforehand() -> None:
    """Changing one changes verdicts that were published: it has to be meant."""
    assert ours.MARGINS == {"MAE": 0.05, "Corr": 0.05}
    assert (ours.SHARE_MARGIN, ours.LOSS_MARGIN) == (0.03, 0.05)
    assert (ours.ENOUGH_SEEDS, ours.ENOUGH_PAIRS, ours.RESAMPLES) == (5, 3, 9999)


def test_paired_interval_against_scipy() -> None:
    expected = stats.ttest_rel(BASE + NOISE, BASE).confidence_interval(0.90)
    assert interval(BASE + NOISE, BASE) == pytest.approx((expected.low, expected.high), rel=1e-10)


@pytest.mark.parametrize("shift", [-0.06, -0.05, -0.045, 0.0, 0.03, 0.046, 0.05, 0.2])
def test_equivalent_where_both_one_sided_tests_say_so(shift: float) -> None:
    one, margin = BASE + NOISE + shift, 0.05
    above = stats.ttest_1samp(one - BASE + margin, 0, alternative="greater").pvalue < 0.05
    below = stats.ttest_1samp(one - BASE - margin, 0, alternative="less").pvalue < 0.05
    assert (compare(list(one), list(BASE), margin).verdict == "equivalent") == (above and below)


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "equivalent"), (0.05, "not shown"), (-0.05, "not shown"),
                                                (0.15, "different"), (-0.15, "different")])
def test_verdicts(shift: float, verdict: str) -> None:
    """A shift of the margin isn't shown to be one; far beyond it, the backends differ."""
    assert compare(list(BASE + NOISE + shift), list(BASE), 0.05).verdict == verdict


def test_noise_is_not_called_different() -> None:
    loud = [0.1, 1.9, 0.4, 1.2, 1.1]
    assert compare(loud, list(BASE), 0.05).verdict == "not shown"


def test_relative_to_the_reference() -> None:
    found = compare(list(11 * BASE), list(10 * BASE), 0.2, relative=True)
    assert found.difference == pytest.approx(0.1) and found.verdict == "equivalent"
    assert found.largest == pytest.approx(0.1 * BASE.max() / BASE.mean())
    assert compare(list(11 * BASE), list(10 * BASE), 0.2).verdict == "different"


def test_equal_seeds_are_counted() -> None:
    found = compare([0.5, 0.6, 0.70001, 0.9], [0.5, 0.6, 0.7, 0.8], 0.05)
    assert (found.pairs, found.identical, found.same_digits) == (4, 2, 3)
    assert found.largest == pytest.approx(0.1)


def test_too_few_pairs_get_no_verdict() -> None:
    found = compare([0.5, 0.6], [0.5, 0.6], 0.05)
    assert found.verdict == "not shown (common seeds: 2 of 3 needed)" and found.low is None


def test_an_undefined_value_gives_no_verdict() -> None:
    found = compare([0.5, None, 0.6, 0.7], [0.5, 0.5, 0.6, 0.7], 0.05)
    assert found.verdict == "not shown (undefined for 1 of 4 seeds)" and found.low is None
