"""What the float64 reference says of a training step beyond the forward pass: loss, gradients, statistics, Adam.

torch's semantics, in NumPy, and beside every number its size (core.rounding).
"""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.config import Config
from core.losses import softmax, summed_loss
from core.models import ADAM_BETAS, ADAM_EPS, BATCHNORM_MOMENTUM, ModelSpec, ParameterSpec
from core.oracle import Layers, measured, moments
from core.plan import Batch, EpochPlan
from core.randomness import Array
from core.rounding import Operand, Sized, absolute, leaf, sized, slopes, sqrt, square


def sized_loss(output: Sized, label: Array, doubt: float = 0.0) -> Sized:
    """The summed loss () of outputs (B, O), as core.losses has it, with its size."""
    if label.dtype.kind != "i":
        return absolute(output - sized(label), doubt).sum()
    share = softmax(output.value)  # (B, C)
    slope = share - np.eye(share.shape[1])[label]
    # Each row is the logarithm of a sum that begins with the largest logit, less the label's logit.
    terms = (2 * np.abs(output.value).max(1) + np.log(share.shape[1])).sum()
    size = np.sqrt(((slope * output.size) ** 2).sum() + terms**2)
    # dp_i = p_i (do_i - sum_j p_j do_j), and p_i itself is a quotient of sums
    bend = np.sqrt(output.size**2 + ((share * output.size) ** 2).sum(1, keepdims=True) + 1)
    slopes_of_output = Sized(slope, share * bend + np.abs(slope))
    return Sized(np.asarray(summed_loss(output.value, label)), size, ((output, lambda g: g * slopes_of_output),))


def sized_gradients(spec: ModelSpec, weights: Mapping[str, Array], batch: Batch, doubt: float = 0.0) -> Layers:
    """The gradient of the summed training loss in every trained parameter, with its size.

    It jumps where a ReLU's input or an error is 0. `doubt` is the share of their size that rounding may take: where
    that is enough to cross 0, the same share of the gradient's size is the jump.
    """
    leaves = {p.name: leaf(weights[p.name]) for p in spec.trainable}
    output = measured(spec, {**weights, **leaves}, batch, train=True, doubt=doubt)["output"]
    return slopes(sized_loss(output, batch.label, doubt), leaves)


def running_statistics(spec: ModelSpec, weights: Mapping[str, Array], arrays: Mapping[str, Array],
                       plan: EpochPlan) -> Layers:
    """BatchNorm's running statistics (A,) after an epoch: momentum .1, unbiased variance.

    A batch of one row changes nothing.
    """
    keep = 1 - BATCHNORM_MOMENTUM
    found: Layers = {}
    for modality in spec.modalities:
        if modality == "text":
            continue
        names = [f"{modality}_subnet.norm.running_{key}" for key in ("mean", "var")]
        mean, var = (sized(weights[name]) for name in names)
        for start, stop in plan.bounds:
            rows = stop - start
            if rows > 1:
                batch_mean, squares = moments(sized(arrays[modality][plan.order[start:stop]]))
                mean = mean * keep + batch_mean * BATCHNORM_MOMENTUM
                var = var * keep + squares / (rows - 1) * BATCHNORM_MOMENTUM
        found.update(zip(names, (mean, var), strict=True))
    return found


def decayed(gradient: Operand, weight: Array, config: Config) -> Sized:
    """The gradient that Adam sees: weight decay is L2 in the loss, for every trained parameter."""
    return sized(gradient) + sized(weight) * config.weight_decay


def first_moment(before: Operand, gradient: Operand) -> Sized:
    """Adam's mean of gradients."""
    return sized(before) * ADAM_BETAS[0] + sized(gradient) * (1 - ADAM_BETAS[0])


def implied_gradient(before: Operand, after: Operand) -> Sized:
    """The gradient that moved the first moment from `before` to `after`."""
    return (sized(after) - sized(before) * ADAM_BETAS[0]) / (1 - ADAM_BETAS[0])


def second_moment(before: Operand, gradient: Operand) -> Sized:
    """Adam's mean of squared gradients."""
    return sized(before) * ADAM_BETAS[1] + square(sized(gradient)) * (1 - ADAM_BETAS[1])


def stepped(parameter: ParameterSpec, config: Config, weight: Operand, exp_avg: Operand, exp_avg_sq: Operand,
            step: int) -> Sized:
    """The weight after step number `step`, from the moments after it: eps stands outside of the corrected root."""
    rate = config.factor_learning_rate if parameter.group == "factors" else config.learning_rate
    mean, square = (sized(moment) / (1 - beta**step) for moment, beta in zip((exp_avg, exp_avg_sq), ADAM_BETAS,
                                                                             strict=True))
    return sized(weight) - mean / (sqrt(square) + ADAM_EPS) * rate
