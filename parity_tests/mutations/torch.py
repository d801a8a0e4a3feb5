"""Faults in PyTorch."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from backends.torch import model, optimizer, session
from core.models import ADAM_BETAS, BATCHNORM_MOMENTUM
from parity_tests.divergences import Altered
from parity_tests.mutations import OFF, Replacements, in_train_mode, swapped


def gate_order() -> Replacements:
    def lstm(x: Tensor, state: Any, weights: Sequence[Tensor], *rest: Any) -> Any:
        parts = (weight.chunk(4) for weight in weights)
        return torch.lstm(x, state, [torch.cat((i, g, f, o)) for i, f, g, o in parts], *rest)

    return [(model, "torch", Altered(torch, lstm=lstm))]


def biased_variance() -> Replacements:
    def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, train: bool, *rest: Any) -> Any:
        kept = (1 - BATCHNORM_MOMENTUM) * var
        y = torch.batch_norm(x, weight, bias, mean, var, train, *rest)
        if train:
            var.data.copy_(kept + (var - kept) * (len(x) - 1) / len(x))  # no change that autograd would notice
        return y

    return [(model, "torch", Altered(torch, batch_norm=batch_norm))]


def adam_eps() -> Replacements:
    return [(optimizer, "ADAM_EPS", 1e-7)]


def swapped_factors() -> Replacements:
    return [(model.LMF, "__init__", swapped(model.LMF.__init__))]


def decay_of_one_group() -> Replacements:
    init = optimizer.GroupedAdam.__init__

    def made(self: Any, *args: Any) -> None:
        init(self, *args)
        for group in self.adam.param_groups:
            group["weight_decay"] *= group["name"] == "others"

    return [(optimizer.GroupedAdam, "__init__", made)]


def mask_scale() -> Replacements:
    forward = model.Network.forward

    def unscaled(self: Any, inputs: Any, masks: dict[str, Tensor], train: bool) -> Any:
        return forward(self, inputs, {name: mask.sign() for name, mask in masks.items()}, train)

    return [(model.Network, "forward", unscaled)]


def second_moment() -> Replacements:
    step = optimizer.GroupedAdam.step

    def off(self: Any, gradients: Sequence[Tensor]) -> None:
        squares = [self.adam.state[group.flat]["exp_avg_sq"] for group in self.groups.values()]
        kept = [ADAM_BETAS[1] * square for square in squares]
        step(self, gradients)
        for square, old in zip(squares, kept, strict=True):
            square.copy_(old + (square - old) * (1 - OFF))

    return [(optimizer.GroupedAdam, "step", off)]


def predict_in_train_mode() -> Replacements:
    return [(session.TorchSession, "predict", in_train_mode(session.TorchSession.predict))]
