"""Every metric under the name of its definition, because the field uses one name for several.

Has0 counts a label of 0 as positive (`>= 0`, the original LMF); Non0 drops rows with label 0 first
(MMSA and the MulT family). `Acc-7` rounds without clipping (the original); `Mult_acc_7` clips to
[-3, 3] first. numpy.round rounds half to even, here as there.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from core.common.arrays import F64, Array
from core.common.errors import RunFailed
from core.data.specs import Task
from core.training.losses import softmax

Value = float | None  # None: undefined for these predictions


def evaluate(task: Task, output: Array, label: Array) -> dict[str, Value]:
    """All metrics of a split, those of `task.metrics` in their order.

    output: scores (N, O) or logits (N, K); label: (N, O) or int64 (N,). One output gives the MOSI
    metrics, several give POM's per-trait ones and their means.
    Raises RunFailed when a prediction is NaN or infinite: that is an error, not a score.
    """
    scores = np.asarray(output, np.float64)
    bad = int((~np.isfinite(scores)).any(axis=1).sum())
    if bad:
        raise RunFailed(f"predictions: {bad} of {len(scores)} rows are NaN or infinite, expected finite numbers; "
                        "lower learning_rate, or check the features")
    truth = np.asarray(label, np.float64)
    if task.kind == "classification":
        found = classification(scores, label)
    elif task.outputs == 1:
        found = sentiment(scores[:, 0], truth[:, 0])
    else:
        found = traits(scores, truth, task.names)
    return {name: found[name] for name in task.metrics}


def classification(logits: F64, label: Array) -> dict[str, Value]:
    """The highest of K logits (N, K); F1 weighted over the classes, and accuracy as `Acc-K`."""
    predicted = softmax(logits).argmax(axis=1)
    return {"F1": weighted_f1(label, predicted), f"Acc-{logits.shape[1]}": accuracy(label, predicted)}


def sentiment(predicted: F64, truth: F64) -> dict[str, Value]:
    """MOSI: one score in [-3, 3], (N,) each."""
    kept = truth != 0
    has0, non0 = (truth >= 0, predicted >= 0), (truth[kept] > 0, predicted[kept] > 0)
    return {
        "MAE": mae(predicted, truth),
        "Corr": corr(predicted, truth),
        "Has0_acc_2": accuracy(*has0),
        "Has0_F1_score": weighted_f1(*has0),
        "Non0_acc_2": accuracy(*non0) if kept.any() else None,
        "Non0_F1_score": weighted_f1(*non0) if kept.any() else None,
        "Has0_F1_score_swapped": weighted_f1(*reversed(has0)),  # the course code's (pred, true) order
        "Non0_F1_score_swapped": weighted_f1(*reversed(non0)) if kept.any() else None,
        "Acc-7": rounded_accuracy(predicted, truth),
        "Mult_acc_7": clipped_accuracy(predicted, truth, 3),
        "Mult_acc_5": clipped_accuracy(predicted, truth, 2),
        "Mult_acc_3": clipped_accuracy(predicted, truth, 1),
    }


def traits(predicted: F64, truth: F64, names: Sequence[str]) -> dict[str, Value]:
    """POM: MAE, Corr and rounded accuracy of each of O traits, and their means, (N, O) each.

    A mean over traits is undefined as soon as one trait's value is.
    """
    measures: dict[str, Callable[[F64, F64], Value]] = {"MAE": mae, "Corr": corr, "Acc": rounded_accuracy}
    table = {m: [f(predicted[:, i], truth[:, i]) for i in range(len(names))] for m, f in measures.items()}
    means = {m: None if None in values else float(np.mean([v for v in values if v is not None]))
             for m, values in table.items()}
    return {**means, **{f"{m} {name}": table[m][i] for i, name in enumerate(names) for m in measures}}


def mae(predicted: F64, truth: F64) -> float:
    """Mean absolute error."""
    return float(np.abs(predicted - truth).mean())


def corr(predicted: F64, truth: F64) -> Value:
    """Pearson correlation; None where one side is constant, which leaves it undefined."""
    if len(truth) < 2 or np.ptp(predicted) == 0 or np.ptp(truth) == 0:
        return None
    return float(np.corrcoef(predicted, truth)[0, 1])


def accuracy(truth: Array, predicted: Array) -> float:
    """Share of rows with the same label."""
    return float((truth == predicted).mean())


def weighted_f1(truth: Array, predicted: Array) -> float:
    """F1 of all classes, weighted by their frequency in `truth`."""
    from sklearn.metrics import f1_score  # loading it takes longer than all else of a start: only when used

    return float(f1_score(truth, predicted, average="weighted", zero_division=0))


def rounded_accuracy(predicted: F64, truth: F64) -> float:
    """Share of rows whose rounded score equals the rounded label, without clipping."""
    return float((np.round(predicted) == np.round(truth)).mean())


def clipped_accuracy(predicted: F64, truth: F64, bound: int) -> float:
    """Clip both to [-bound, bound], then round and compare."""
    return rounded_accuracy(np.clip(predicted, -bound, bound), np.clip(truth, -bound, bound))
