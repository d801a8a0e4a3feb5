"""Losses and probabilities on the host, in float64: validation decides alike for every backend."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from core.common.arrays import F64, Array
from core.data.specs import LossKind, Reduction


def softmax(logits: Array) -> F64:
    """(N, C) -> (N, C), over the last axis (torch's softmax without `dim` once took another)."""
    shifted = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


class LossKeys(Protocol):
    """The keys of a configuration that decide the loss."""

    loss: LossKind
    loss_reduction: Reduction
    huber_delta: float


@dataclass(frozen=True)
class Loss:
    """What training minimises, torch's definitions.

    l1: |d|; mse: d^2; huber: d^2 / 2 within `delta`, beyond it delta (|d| - delta / 2); all of the errors d (N, O).
    cross_entropy of logits (N, C) and classes int64 (N,). `sum` over rows and outputs, or their `mean`.
    """

    kind: LossKind
    reduction: Reduction = "sum"
    delta: float = 1.0

    def terms(self, output: Array, label: Array) -> F64:
        """What is added up: (N, O), or (N,) for classes."""
        scores = np.asarray(output, np.float64)
        if self.kind == "cross_entropy":
            shifted = scores - scores.max(axis=1, keepdims=True)
            log_sum = np.log(np.exp(shifted).sum(axis=1))
            return np.asarray(log_sum - shifted[np.arange(len(label)), np.asarray(label, np.int64)])
        error = np.abs(scores - np.asarray(label, np.float64))
        if self.kind == "huber":
            return np.where(error <= self.delta, error * error / 2, self.delta * (error - self.delta / 2))
        return np.asarray(error if self.kind == "l1" else error * error)

    def value(self, output: Array, label: Array) -> float:
        """The loss of a batch."""
        terms = self.terms(output, label)
        return float(terms.sum() if self.reduction == "sum" else terms.mean())

    def shown(self, output: Array, label: Array) -> float:
        """The loss as it is printed: a sum per row, as the original prints it, or the mean."""
        return self.value(output, label) / (len(label) if self.reduction == "sum" else 1)

    def of_epoch(self, losses: F64, rows: F64) -> float:
        """The same of a whole epoch, from the `losses` (S,) of its steps on so many `rows` (S,)."""
        return float(losses.sum() if self.reduction == "sum" else losses @ rows) / float(rows.sum())


def loss_of(config: LossKeys) -> Loss:
    """The loss that a configuration asks for."""
    return Loss(config.loss, config.loss_reduction, config.huber_delta)
