"""Faults in Paddle."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import paddle
from paddle import Tensor

from backends.paddle import model, optimizer, session
from backends.paddle.model import kernels
from core.models import BATCHNORM_MOMENTUM
from parity_tests.defaults.paddle import adam_kernel
from parity_tests.divergences import Altered
from parity_tests.mutations import Replacements, in_train_mode, swapped


def gate_order() -> Replacements:
    def rnn(x: Tensor, state: Any, weights: Sequence[Tensor], *rest: Any) -> Any:
        parts = (paddle.split(weight, 4) for weight in weights)
        return kernels.rnn(x, state, [paddle.concat((i, g, f, o)) for i, f, g, o in parts], *rest)

    return [(model, "kernels", Altered(kernels, rnn=rnn))]


def biased_variance() -> Replacements:
    batch_norm = model.batch_norm

    def biased(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, train: bool) -> Tensor:
        kept = (1 - BATCHNORM_MOMENTUM) * variance
        y = batch_norm(x, weight, bias, mean, variance, train)
        if train:
            kernels.assign_out_(kept + (variance - kept) * ((len(x) - 1) / len(x)), variance)
        return y

    return [(model, "batch_norm", biased)]


def adam_eps() -> Replacements:
    return [(optimizer, "ADAM_EPS", 1e-7)]


def swapped_factors() -> Replacements:
    return [(model.LMF, "__init__", swapped(model.LMF.__init__))]


def decay_of_one_group() -> Replacements:
    def step(self: Any, gradients: Sequence[Tensor]) -> None:
        self.steps += 1
        for name, group in self.groups.items():
            decay = self.weight_decay if name == "others" else 0.0
            group.step([gradients[i] for i in self.places[name]], self.steps, decay)

    return [(optimizer.GroupedAdam, "step", step)]


def mask_scale() -> Replacements:
    forward = model.Network.forward

    def unscaled(self: Any, inputs: Any, masks: dict[str, Tensor], train: bool) -> Any:
        return forward(self, inputs, {name: mask.sign() for name, mask in masks.items()}, train)

    return [(model.Network, "forward", unscaled)]


def second_moment() -> Replacements:
    """That of Paddle's own kernel."""
    return adam_kernel()


def predict_in_train_mode() -> Replacements:
    return [(session.PaddleSession, "predict", in_train_mode(session.PaddleSession.predict))]
