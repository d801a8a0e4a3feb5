"""Every metric against another implementation, and against cases that tell definitions apart."""
from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from core.common.arrays import F64
from core.common.errors import RunFailed
from core.data.published import POM_TRAITS
from core.data.specs import Task
from core.training import metrics
from core.training.losses import Loss, softmax


def scores(*values: float) -> F64:
    return np.array(values, np.float64)


@pytest.fixture
def mosi() -> tuple[F64, F64]:
    """Labels in thirds, as raters give them, so 0 and halves occur; predictions beyond the scale too."""
    draw = np.random.default_rng(1)
    truth = np.round(draw.uniform(-3, 3, 400) * 3) / 3
    return truth + draw.normal(0, 1.2, 400), truth


def test_sentiment_against_scikit_learn(mosi: tuple[F64, F64]) -> None:
    predicted, truth = mosi
    assert (truth == 0).any() and (np.abs(predicted) > 3.5).any()
    got = metrics.evaluate(Task("regression", ("sentiment",)), predicted[:, None], truth[:, None])
    kept = truth != 0
    has0 = truth >= 0, predicted >= 0
    non0 = truth[kept] > 0, predicted[kept] > 0

    def classes(bound: int, values: F64) -> F64:
        return np.asarray(np.round(np.clip(values, -bound, bound)))

    want = {
        "MAE": sk.mean_absolute_error(truth, predicted), "Corr": stats.pearsonr(truth, predicted).statistic,
        "Has0_acc_2": sk.accuracy_score(*has0), "Has0_F1_score": sk.f1_score(*has0, average="weighted"),
        "Non0_acc_2": sk.accuracy_score(*non0), "Non0_F1_score": sk.f1_score(*non0, average="weighted"),
        "Has0_F1_score_swapped": sk.f1_score(has0[1], has0[0], average="weighted"),
        "Non0_F1_score_swapped": sk.f1_score(non0[1], non0[0], average="weighted"),
        "Acc-7": sk.accuracy_score(np.round(truth), np.round(predicted)),
        "Mult_acc_7": sk.accuracy_score(classes(3, truth), classes(3, predicted)),
        "Mult_acc_5": sk.accuracy_score(classes(2, truth), classes(2, predicted)),
        "Mult_acc_3": sk.accuracy_score(classes(1, truth), classes(1, predicted)),
    }
    assert list(got) == list(want)
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-12), name
    values = [got[name] for name in want]
    assert len(set(values)) == len(values), "two definitions agree here: the data doesn't tell them apart"


def test_label_zero_is_positive_for_has0_and_absent_for_non0() -> None:
    got = metrics.sentiment(scores(-0.1, 1, -1), scores(0, 2, -2))
    assert (got["Has0_acc_2"], got["Non0_acc_2"]) == (2 / 3, 1.0)
    got = metrics.sentiment(scores(0.1, 1, -1), scores(0, 2, -2))
    assert (got["Has0_acc_2"], got["Non0_acc_2"]) == (1.0, 1.0)


def test_prediction_zero_is_positive_for_has0_and_negative_for_non0() -> None:
    got = metrics.sentiment(scores(0, 0), scores(1, -1))
    assert (got["Has0_acc_2"], got["Non0_acc_2"]) == (0.5, 0.5)
    assert metrics.sentiment(scores(0), scores(1))["Has0_acc_2"] == 1.0
    assert metrics.sentiment(scores(0), scores(1))["Non0_acc_2"] == 0.0


def test_halves_round_to_even() -> None:
    """0.5 -> 0, 1.5 -> 2, 2.5 -> 2, -0.5 -> 0; schoolbook rounding gives 1, 2, 3, -1."""
    assert metrics.rounded_accuracy(scores(0.5, 1.5, 2.5, -0.5), scores(0, 2, 2, 0)) == 1.0
    assert metrics.rounded_accuracy(scores(0.5, 1.5, 2.5, -0.5), scores(1, 2, 3, -1)) == 0.25


def test_clipping_comes_before_rounding_and_only_in_mult() -> None:
    got = metrics.sentiment(scores(4.2, -3.6, 1.2), scores(3, -3, 1))
    assert (got["Acc-7"], got["Mult_acc_7"]) == (1 / 3, 1.0)
    got = metrics.sentiment(scores(1.7, 2.6), scores(3, 1.6))
    assert (got["Acc-7"], got["Mult_acc_7"], got["Mult_acc_5"], got["Mult_acc_3"]) == (0.0, 0.0, 1.0, 1.0)


def test_swapped_f1_weighs_by_the_predictions() -> None:
    """Truth + + + -, predicted + + + +: F1 is 6/7 for +, 0 for -; the weights are 3:1, swapped 4:0."""
    got = metrics.sentiment(scores(1, 1, 1, 1), scores(1, 1, 1, -1))
    assert got["Has0_F1_score"] == pytest.approx(6 / 7 * 3 / 4)
    assert got["Has0_F1_score_swapped"] == pytest.approx(6 / 7)


@pytest.mark.parametrize(("predicted", "truth"), [
    (scores(1, 1, 1), scores(1, 2, 3)), (scores(1, 2, 3), scores(2, 2, 2)), (scores(1), scores(2))])
def test_corr_of_a_constant_is_undefined(predicted: F64, truth: F64) -> None:
    assert metrics.corr(predicted, truth) is None
    got = metrics.sentiment(predicted, truth)
    assert got["Corr"] is None and json.loads(json.dumps(got, allow_nan=False))["Corr"] is None


def test_non0_is_undefined_where_all_labels_are_zero() -> None:
    got = metrics.sentiment(scores(1, -1), scores(0, 0))
    assert got["Non0_acc_2"] is got["Non0_F1_score"] is got["Non0_F1_score_swapped"] is None
    assert got["Has0_acc_2"] == 0.5


def test_traits_against_scikit_learn() -> None:
    draw = np.random.default_rng(2)
    truth = np.round(draw.uniform(1, 7, (203, 16)) * 3) / 3
    predicted = truth + draw.normal(0, 1, truth.shape)
    got = metrics.evaluate(Task("regression", POM_TRAITS), predicted, truth)
    measures: dict[str, Callable[[F64, F64], float]] = {
        "MAE": lambda p, t: float(sk.mean_absolute_error(t, p)),
        "Corr": lambda p, t: float(stats.pearsonr(p, t).statistic),
        "Acc": lambda p, t: float(sk.accuracy_score(np.round(t), np.round(p)))}
    assert len(got) == 3 + 3 * 16 and list(got)[:3] == list(measures)
    for name, measure in measures.items():
        per_trait = [measure(predicted[:, i], truth[:, i]) for i in range(16)]
        assert [got[f"{name} {trait}"] for trait in POM_TRAITS] == pytest.approx(per_trait)
        assert got[name] == pytest.approx(np.mean(per_trait))


def test_one_undefined_trait_makes_the_mean_undefined() -> None:
    truth, predicted = np.array([[1.0, 2], [2, 3], [4, 4]]), np.array([[1.0, 5], [2, 5], [3, 5]])
    got = metrics.traits(predicted, truth, ("calm", "flat"))
    assert got["Corr"] is None and got["Corr flat"] is None and got["Corr calm"] is not None
    assert got["MAE"] == pytest.approx((1 / 3 + 2) / 2)


def test_classification_against_scikit_learn() -> None:
    draw = np.random.default_rng(3)
    logits, label = draw.normal(0, 9, (300, 2)), (draw.random(300) < 0.2).astype(np.int64)
    got = metrics.evaluate(Task("classification", ("not_sad", "sad")), logits, label)
    chosen = logits.argmax(1)
    assert got == {"F1": pytest.approx(sk.f1_score(label, chosen, average="weighted")),
                   "Acc-2": pytest.approx(sk.accuracy_score(label, chosen))}
    assert got["F1"] != pytest.approx(sk.f1_score(label, chosen, average="macro"))
    assert got["F1"] != pytest.approx(sk.f1_score(label, chosen))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("kind", "width"), [("classification", 2), ("regression", 1), ("regression", 16)])
def test_a_prediction_that_is_not_finite_is_no_score(kind: Any, width: int, bad: float) -> None:
    output = np.zeros((5, width), np.float32)
    output[3, width - 1] = bad
    label = np.zeros(5, np.int64) if kind == "classification" else np.zeros((5, width), np.float32)
    with pytest.raises(RunFailed, match="1 of 5 rows are NaN or infinite"):
        metrics.evaluate(Task(kind, POM_TRAITS[:width]), output, label)


def test_summed_losses() -> None:
    draw = np.random.default_rng(4)
    logits, label = draw.normal(0, 3, (50, 2)), draw.integers(0, 2, 50)
    entropy, absolute = Loss("cross_entropy"), Loss("l1")
    assert entropy.value(logits, label) == pytest.approx(50 * sk.log_loss(label, softmax(logits)[:, 1]))
    output, truth = draw.normal(0, 3, (50, 16)), draw.normal(0, 3, (50, 16))
    want = 50 * 16 * sk.mean_absolute_error(truth, output)
    assert absolute.value(output, truth) == pytest.approx(want)
    assert absolute.shown(output, truth) == pytest.approx(want / 50)


def test_cross_entropy_of_large_logits_is_finite() -> None:
    logits = np.array([[1e4, -1e4], [1e4, -1e4]], np.float32)
    assert Loss("cross_entropy").value(logits, np.array([0, 1])) == pytest.approx(2e4)
    assert softmax(logits).tolist() == [[1, 0], [1, 0]]
