"""What all backends stand on: one model, configuration, state and data, and what the oracle makes of them."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from core import oracle, rules
from core.config import Config
from core.models import ModelSpec
from core.oracle import Layers
from core.plan import Batch, EpochPlan, make_plan
from core.randomness import Array, random_bits
from core.rounding import Sized
from core.state import State
from parity.bounds import FORWARD

Tensors = Mapping[str, Array]
PASS = 128  # rows that the oracle predicts at once: it builds the full fusion tensor of each
DECAY, SMALL = 0.01, 1e-5  # weight decay, and the size of the weights, where Adam's eps and the decay decide a step


@dataclass(frozen=True)
class Ground:
    """train, valid: rows of the two splits. Everything below is computed when first asked for, once for all."""

    spec: ModelSpec
    config: Config
    state: State
    train: Tensors
    valid: Tensors

    @cached_property
    def plan(self) -> EpochPlan:
        """The first epoch."""
        return make_plan(self.spec, self.config.seed, 0, len(self.train["label"]), self.config.batch_size,
                         self.config.precision)

    @cached_property
    def batch(self) -> Batch:
        """The first rows of the training split, with the masks of that epoch."""
        rows = slice(0, min(len(self.train["label"]), self.config.batch_size))
        masks = {name: mask[rows] for name, mask in self.plan.masks.items()}
        return Batch({m: self.train[m][rows] for m in self.spec.modalities}, self.train["label"][rows], masks)

    @cached_property
    def one_step(self) -> EpochPlan:
        """An epoch of that batch alone."""
        rows = len(self.batch.label)
        return EpochPlan(0, np.arange(rows, dtype=np.int64), rows, self.batch.masks)

    @cached_property
    def evaluation(self) -> Layers:
        """Layers of the batch in evaluation mode."""
        return oracle.measured(self.spec, self.state.weights, self.batch)

    @cached_property
    def training(self) -> Layers:
        """Layers of the batch in train mode, masks applied."""
        return oracle.measured(self.spec, self.state.weights, self.batch, train=True)

    @cached_property
    def loss(self) -> Sized:
        """The summed training loss of the batch."""
        return rules.sized_loss(self.training["output"], self.batch.label)

    @cached_property
    def gradients(self) -> Layers:
        """Gradients of that loss."""
        return rules.sized_gradients(self.spec, self.state.weights, self.batch, FORWARD[self.config.precision])

    @cached_property
    def predictions(self) -> Sized:
        """Outputs of the validation rows, (N, O)."""
        rows = len(self.valid["label"])
        parts = []
        for start in range(0, rows, PASS):
            part = {name: value[start:start + PASS] for name, value in self.valid.items()}
            parts.append(oracle.measured(self.spec, self.state.weights, Batch(part, part["label"], {}))["output"])
        return Sized(np.concatenate([part.value for part in parts]), np.concatenate([part.size for part in parts]))

    @cached_property
    def statistics(self) -> Layers:
        """BatchNorm's running statistics after the first epoch."""
        return rules.running_statistics(self.spec, self.state.weights, self.train, self.plan)

    @cached_property
    def decaying(self) -> Ground:
        """The batch alone, weights so small that their gradient is the decay, and a decay whatever the user's.

        There a step shows the decay of every group, and the eps beside a root of its own size.
        """
        weights = dict(self.state.weights)
        for p in self.spec.trainable:
            bits = random_bits(int(np.prod(p.shape)), self.config.seed, "small", p.name)
            size = SMALL * (1 + (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)  # between 1 and 2 of SMALL
            sign = np.where(bits & np.uint64(1), 1.0, -1.0)
            weights[p.name] = (size * sign).reshape(p.shape).astype(self.config.precision)
        zeros = {p.name: np.zeros(p.shape, self.config.precision) for p in self.spec.trainable}
        rows = {**self.batch.inputs, "label": self.batch.label}
        return replace(self, config=self.config.model_copy(update={"weight_decay": DECAY}), train=rows, valid=rows,
                       state=State(weights, zeros, zeros, 0, self.state.loss_scale))
