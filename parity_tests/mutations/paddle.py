"""Faults in Paddle."""
from __future__ import annotations

from collections.abc import Sequence

import paddle
from paddle import Tensor

from backends.paddle import blocks, fusion, kernels, model, normalisation, optimizer, session
from backends.paddle.kernels import ops
from core.common.constants import BATCHNORM_MOMENTUM
from parity_tests.defaults import Replacements
from parity_tests.defaults.paddle import adam_kernel
from parity_tests.mutations import decaying_others, exchanged, in_train_mode, swapped


class SwappedGates(blocks.LSTM):
    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        parts = (paddle.split(weight, 4) for weight in self.weights)
        weights = [paddle.concat((i, g, f, o)) for i, f, g, o in parts]
        return kernels.lstm(xs[0], weights, self.dropout_state, self.hidden, train, self.place)[1][0]


class BiasedVariance(normalisation.BatchNorm):
    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        variance, rows = self.statistics[1], len(xs[0])
        kept = (1 - BATCHNORM_MOMENTUM) * variance
        y = super().forward(xs, train)
        if train and rows > 1:
            ops.assign_out_(kept + (variance - kept) * ((rows - 1) / rows), variance)
        return y


class UnscaledDropout(blocks.Dropout):
    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        return super().forward((xs[0], xs[1].sign()), train)


gate_order = exchanged(model.BLOCKS, "lstm", SwappedGates)
biased_variance = exchanged(model.BLOCKS, "batch_norm", BiasedVariance)
swapped_factors = exchanged(model.BLOCKS, "low_rank_fusion", swapped(fusion.LowRankFusion))
mask_scale = exchanged(model.BLOCKS, "dropout", UnscaledDropout)


def adam_eps() -> Replacements:
    return [(optimizer, "ADAM_EPS", 1e-7)]


def decay_of_one_group() -> Replacements:
    return [(session, "make_optimizer", decaying_others(session.make_optimizer))]


def second_moment() -> Replacements:
    """That of Paddle's own kernel."""
    return adam_kernel()


def predict_in_train_mode() -> Replacements:
    return [(session.PaddleSession, "predict", in_train_mode(session.PaddleSession.predict))]
