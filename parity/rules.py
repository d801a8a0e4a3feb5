"""What the float64 reference says of a training step beyond the forward pass: loss, gradients, statistics, Adam.

torch's semantics, in NumPy, and beside every number its size (core.common.rounding).
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from core.common.arrays import Array
from core.common.constants import ADAM_BETAS, ADAM_EPS, BATCHNORM_MOMENTUM
from core.common.rounding import Operand, Sized, absolute, leaf, sized, slopes, sqrt, square
from core.models import reference
from core.models.graph import Graph, Group, ParameterSpec
from core.training.losses import Loss, softmax
from core.training.plan import Batch, EpochPlan
from parity import oracle
from parity.oracle import Layers, moments


def measured(graph: Graph, weights: Mapping[str, Operand], batch: Batch, train: bool = False,
             doubt: float = 0.0) -> Layers:
    """The activations that backends are held to, each element with its size: by the oracle, where it knows the model.

    Of any other model they are what the float64 mathematics of the graph's own blocks make of it.
    """
    judge = oracle.measured if graph.model in oracle.MODELS else reference.measured
    return judge(graph, weights, batch, train, doubt)


def sized_loss(loss: Loss, output: Sized, label: Array, doubt: float = 0.0) -> Sized:
    """`loss` () of outputs (B, O), as core.training.losses has it, with its size."""
    if loss.kind == "cross_entropy":
        whole, terms = _cross_entropy(output, label), len(label)
    else:
        error = output - sized(label)
        whole, terms = _of_errors(loss, error, doubt).sum(), error.value.size
    return whole / terms if loss.reduction == "mean" else whole


def _of_errors(loss: Loss, error: Sized, doubt: float) -> Sized:
    """What is added up, (B, O) of the errors (B, O)."""
    if loss.kind == "mse":
        return replace(error * error, size=square(error).size)  # both factors are off alike
    return absolute(error, doubt) if loss.kind == "l1" else _huber(error, loss.delta, doubt)


def _huber(error: Sized, delta: float, doubt: float) -> Sized:
    """d^2 / 2 within `delta`, beyond it delta (|d| - delta / 2)."""
    d, off = np.abs(error.value), error.size
    value = np.where(d <= delta, d * d / 2, delta * (d - delta / 2))
    size = np.where(d <= delta, np.hypot(d * off, value), delta * np.hypot(off, d + delta / 2))
    # The slope is d, and exact beyond delta: a d that rounding may have brought back within is off as all of these.
    slope = Sized(np.clip(error.value, -delta, delta), np.where(d <= delta + doubt * off, off, delta))
    return Sized(value, size, ((error, lambda g: g * slope),))


def _cross_entropy(output: Sized, label: Array) -> Sized:
    """The sum over the rows, () of logits (B, C) and classes (B,)."""
    share = softmax(output.value)  # (B, C)
    slope = share - np.eye(share.shape[1])[label]
    # Each row is the logarithm of a sum that begins with the largest logit, less the label's logit.
    terms = (2 * np.abs(output.value).max(1) + np.log(share.shape[1])).sum()
    size = np.sqrt(((slope * output.size) ** 2).sum() + terms**2)
    # dp_i = p_i (do_i - sum_j p_j do_j), and p_i itself is a quotient of sums
    bend = np.sqrt(output.size**2 + ((share * output.size) ** 2).sum(1, keepdims=True) + 1)
    slopes_of_output = Sized(slope, share * bend + np.abs(slope))
    value = np.asarray(Loss("cross_entropy").value(output.value, label))
    return Sized(value, size, ((output, lambda g: g * slopes_of_output),))


def sized_gradients(loss: Loss, graph: Graph, weights: Mapping[str, Array], batch: Batch, doubt: float = 0.0
                    ) -> Layers:
    """The gradient of the training loss in every trained parameter, with its size.

    It jumps where a ReLU's input or an error is 0. `doubt` is the share of their size that rounding may take: where
    that is enough to cross 0, the same share of the gradient's size is the jump.
    """
    leaves = {p.name: leaf(weights[p.name]) for p in graph.trainable}
    output = measured(graph, {**weights, **leaves}, batch, train=True, doubt=doubt)["output"]
    return slopes(sized_loss(loss, output, batch.label, doubt), leaves)


def running_statistics(graph: Graph, weights: Mapping[str, Array], arrays: Mapping[str, Array],
                       plan: EpochPlan) -> Layers:
    """BatchNorm's running statistics (A,) after an epoch: momentum .1, unbiased variance.

    Of the BatchNorms that an input goes into. What comes to one further in depends on every step of the epoch. A batch
    of one row changes nothing.
    """
    keep = 1 - BATCHNORM_MOMENTUM
    found: Layers = {}
    for node in graph.nodes:
        if node.kind != "batch_norm" or node.inputs[0] >= len(graph.inputs):
            continue
        values = arrays[graph.input_names[node.inputs[0]]]  # (N, A)
        full = {node.local(p.name): p.name for p in node.parameters}
        names = full["running_mean"], full["running_var"]
        mean, var = (sized(weights[name]) for name in names)
        for start, stop in plan.bounds:
            rows = stop - start
            if rows > 1:
                batch_mean, squares = moments(sized(values[plan.order[start:stop]]))
                mean = mean * keep + batch_mean * BATCHNORM_MOMENTUM
                var = var * keep + squares / (rows - 1) * BATCHNORM_MOMENTUM
        found.update(zip(names, (mean, var), strict=True))
    return found


def group_of(graph: Graph, parameter: ParameterSpec) -> Group:
    """The optimizer group of a trained parameter."""
    return next(group for group in graph.groups if group.name == parameter.group)


def decayed(group: Group, gradient: Operand, weight: Array) -> Sized:
    """The gradient that Adam sees: weight decay is L2 in the loss, for every trained parameter."""
    return sized(gradient) + sized(weight) * group.decay


def first_moment(before: Operand, gradient: Operand) -> Sized:
    """Adam's mean of gradients."""
    return sized(before) * ADAM_BETAS[0] + sized(gradient) * (1 - ADAM_BETAS[0])


def implied_gradient(before: Operand, after: Operand) -> Sized:
    """The gradient that moved the first moment from `before` to `after`."""
    return (sized(after) - sized(before) * ADAM_BETAS[0]) / (1 - ADAM_BETAS[0])


def second_moment(before: Operand, gradient: Operand) -> Sized:
    """Adam's mean of squared gradients."""
    return sized(before) * ADAM_BETAS[1] + square(sized(gradient)) * (1 - ADAM_BETAS[1])


def stepped(group: Group, weight: Operand, exp_avg: Operand, exp_avg_sq: Operand, step: int) -> Sized:
    """The weight after step number `step` at the group's rate, from the moments after it: eps stands outside of the
    corrected root.
    """
    mean, square = (sized(moment) / (1 - beta**step) for moment, beta in zip((exp_avg, exp_avg_sq), ADAM_BETAS,
                                                                             strict=True))
    return sized(weight) - mean / (sqrt(square) + ADAM_EPS) * group.rate
