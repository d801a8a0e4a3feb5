"""Faults in MindSpore. Of blocks that float64 has its own of, there are two."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mindspore import Tensor, ops

from backends.mindspore import blocks, fusion, kernels, model, normalisation, optimizer, session
from backends.mindspore.blocks import Saved
from core.common.constants import BATCHNORM_MOMENTUM
from parity_tests.defaults import Replacements
from parity_tests.defaults.mindspore import adam_kernel
from parity_tests.mutations import decaying_others, in_train_mode, swapped


class SwappedGates(blocks.LSTM):
    def joined(self) -> Tensor:
        parts = (ops.chunk(weight, 4) for weight in (self.weight_ih, self.weight_hh, self.bias_ih + self.bias_hh))
        return ops.concat([part.view(-1) for i, f, g, o in parts for part in (i, g, f, o)]).view(-1, 1, 1)


class BiasedVariance:
    """Before one of the two blocks."""

    def trained(self: Any, x: Tensor) -> tuple[Tensor, Saved]:
        kept = (1 - BATCHNORM_MOMENTUM) * self.running_var
        found = super().trained(x)
        ops.assign(self.running_var, kept + (self.running_var - kept) * ((len(x) - 1) / len(x)))
        return found


class UnscaledDropout(blocks.Dropout):
    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return super().forward((xs[0], ops.sign(xs[1])))


def gate_order() -> Replacements:
    return [(model.BLOCKS, "lstm", SwappedGates),
            (blocks, "split_gates", lambda gates: [kernels.split_gates(gates)[place] for place in (0, 2, 1, 3)])]


def biased_variance() -> Replacements:
    return [(model.BLOCKS, "batch_norm", type("Biased", (BiasedVariance, normalisation.BatchNorm), {})),
            (model.BLOCKS64, "batch_norm", type("Biased64", (BiasedVariance, normalisation.BatchNorm64), {}))]


def adam_eps() -> Replacements:
    """`corrections` keeps what it made before."""
    return [(optimizer, "ADAM_EPS", 1e-7), (optimizer, "corrections", optimizer.corrections.__wrapped__)]


def swapped_factors() -> Replacements:
    return [(table, "low_rank_fusion", swapped(fusion.LowRankFusion)) for table in (model.BLOCKS, model.BLOCKS64)]


def decay_of_one_group() -> Replacements:
    return [(session, "make_optimizer", decaying_others(session.make_optimizer))]


def mask_scale() -> Replacements:
    return [(table, "dropout", UnscaledDropout) for table in (model.BLOCKS, model.BLOCKS64)]


def second_moment() -> Replacements:
    """That of MindSpore's own kernel."""
    return adam_kernel()


def predict_in_train_mode() -> Replacements:
    return [(session.MindSporeSession, "predict", in_train_mode(session.MindSporeSession.predict))]
