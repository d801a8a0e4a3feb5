"""Faults in PyTorch."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from backends.torch import blocks, fusion, kernels, model, normalisation, optimizer, session
from core.common.constants import ADAM_BETAS, BATCHNORM_MOMENTUM
from parity_tests.defaults import Replacements
from parity_tests.mutations import OFF, decaying_others, exchanged, in_train_mode, swapped


class SwappedGates(blocks.LSTM):
    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        parts = (weight.chunk(4) for weight in self.weights)
        return kernels.lstm(xs[0], [torch.cat((i, g, f, o)) for i, f, g, o in parts], train)[1][0]


class BiasedVariance(normalisation.BatchNorm):
    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        var, rows = self.own[-1], len(xs[0])
        kept = (1 - BATCHNORM_MOMENTUM) * var
        y = super().forward(xs, train)
        if train and rows > 1:
            var.data.copy_(kept + (var - kept) * (rows - 1) / rows)  # no change that autograd would notice
        return y


class UnscaledDropout(blocks.Dropout):
    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return super().forward((xs[0], xs[1].sign()), train)


gate_order = exchanged(model.BLOCKS, "lstm", SwappedGates)
biased_variance = exchanged(model.BLOCKS, "batch_norm", BiasedVariance)
swapped_factors = exchanged(model.BLOCKS, "low_rank_fusion", swapped(fusion.LowRankFusion))
mask_scale = exchanged(model.BLOCKS, "dropout", UnscaledDropout)


def adam_eps() -> Replacements:
    return [(kernels, "ADAM_EPS", 1e-7)]


def decay_of_one_group() -> Replacements:
    return [(session, "make_optimizer", decaying_others(session.make_optimizer))]


def second_moment() -> Replacements:
    step = optimizer.Group.step

    def off(self: optimizer.Group, *args: Any) -> None:
        square = self.exp_avg_sq.value
        kept = ADAM_BETAS[1] * square
        step(self, *args)
        square.copy_(kept + (square - kept) * (1 - OFF))

    return [(optimizer.Group, "step", off)]


def predict_in_train_mode() -> Replacements:
    return [(session.TorchSession, "predict", in_train_mode(session.TorchSession.predict))]
