"""Faults in MindSpore."""
from __future__ import annotations

from typing import Any

import numpy as np
from mindspore import Tensor, ops

from backends.mindspore import model, optimizer, precision, session
from backends.mindspore.precision import constant, mul, sub
from backends.mindspore.state import to_numpy
from core.models import BATCHNORM_MOMENTUM
from parity_tests.mutations import Replacements, in_train_mode, swapped


def gate_order() -> Replacements:
    def permuted(lstm: Any) -> Any:
        def made(self: Any, x: Tensor, weights: tuple[Tensor, ...]) -> Any:
            parts = (np.split(to_numpy(weight), 4) for weight in weights)
            return lstm(self, x, tuple(Tensor(np.concatenate((i, g, f, o))) for i, f, g, o in parts))

        return made

    return [(kernels, "lstm", permuted(kernels.lstm)) for kernels in (precision.Kernels, precision.Kernels64)]


def biased_variance() -> Replacements:
    batch_norm = precision.Kernels.batch_norm

    def biased(self: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, train: bool) -> Any:
        kept = (1 - BATCHNORM_MOMENTUM) * to_numpy(var)
        found = batch_norm(self, x, weight, bias, mean, var, train)
        if train:
            moved = kept + (to_numpy(var) - kept) * (len(x) - 1) / len(x)
            ops.assign(var, Tensor(moved, var.dtype))
        return found

    return [(precision.Kernels, "batch_norm", biased)]


def adam_eps() -> Replacements:
    return [(optimizer, "ADAM_EPS", 1e-7)]


def swapped_factors() -> Replacements:
    return [(model.LMF, "__init__", swapped(model.LMF.__init__))]


def decay_of_one_group() -> Replacements:
    step = optimizer.GroupedAdam.step

    def made(self: Any, gradients: dict[str, Tensor]) -> None:
        if self.decay is not None:  # taken off where the step will add it
            views = self.groups["factors"].flat.views
            gradients = {name: sub(gradient, mul(views[name].view(-1), self.decay)) if name in views else gradient
                         for name, gradient in gradients.items()}
        step(self, gradients)

    return [(optimizer.GroupedAdam, "step", made)]


def mask_scale() -> Replacements:
    forward = model.Network.forward

    def unscaled(self: Any, inputs: Any, masks: dict[str, Tensor], train: bool) -> Any:
        return forward(self, inputs, {name: Tensor(np.sign(to_numpy(mask))) for name, mask in masks.items()}, train)

    return [(model.Network, "forward", unscaled)]


def second_moment() -> Replacements:
    """The kernel's own, without what is added here."""
    init = optimizer.Group.__init__

    def made(self: Any, *args: Any) -> None:
        init(self, *args)
        self.missing = constant(0, self.flat.value.dtype)

    return [(optimizer.Group, "__init__", made)]


def predict_in_train_mode() -> Replacements:
    return [(session.MindSporeSession, "predict", in_train_mode(session.MindSporeSession.predict))]
