"""What all backends stand on: one model, configuration, state and data, and what the float64 judge makes of them."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from core.common.arrays import Array
from core.common.bits import random_bits
from core.common.rounding import Sized
from core.config import Config, build_graph, changed
from core.models.graph import Graph
from core.training.losses import loss_of
from core.training.plan import Batch, EpochPlan, GivenMasks, make_plan
from core.training.state import State
from parity import rules
from parity.bounds import FORWARD
from parity.oracle import Layers

Tensors = Mapping[str, Array]
PASS = 128  # rows that the oracle predicts at once: it builds the full fusion tensor of each
DECAY, SMALL = 0.01, 1e-5  # weight decay, and the size of the weights, where Adam's eps and the decay decide a step


@dataclass(frozen=True)
class Ground:
    """train, valid: rows of the two splits. Everything below is computed when first asked for, once for all."""

    graph: Graph
    config: Config
    state: State
    train: Tensors
    valid: Tensors

    @property
    def label(self) -> str:
        """`float64`, `float32`, or `O2 bfloat16`."""
        mixed = self.config.amp_level != "O0"
        return f"{self.config.amp_level} {self.config.amp_dtype}" if mixed else self.config.precision

    @cached_property
    def plan(self) -> EpochPlan:
        """The first epoch."""
        return make_plan(self.graph, self.config, 0, len(self.train["label"]))

    @cached_property
    def batch(self) -> Batch:
        """The first rows of the training split, with the masks of that epoch."""
        rows = slice(0, min(len(self.train["label"]), self.config.batch_size))
        return Batch({m: self.train[m][rows] for m in self.graph.input_names}, self.train["label"][rows],
                     self.plan.masks(0, 1))

    @cached_property
    def one_step(self) -> EpochPlan:
        """An epoch of that batch alone."""
        rows = len(self.batch.label)
        return EpochPlan(0, np.arange(rows, dtype=np.int64), rows, self.plan.rates[:1],
                         GivenMasks(self.batch.masks))

    @cached_property
    def evaluation(self) -> Layers:
        """Layers of the batch in evaluation mode."""
        return rules.measured(self.graph, self.state.weights, self.batch)

    @cached_property
    def training(self) -> Layers:
        """Layers of the batch in train mode, masks applied."""
        return rules.measured(self.graph, self.state.weights, self.batch, train=True)

    @cached_property
    def loss(self) -> Sized:
        """The training loss of the batch."""
        return rules.sized_loss(loss_of(self.config), self.training["output"], self.batch.label)

    @cached_property
    def gradients(self) -> Layers:
        """Gradients of that loss."""
        return rules.sized_gradients(loss_of(self.config), self.graph, self.state.weights, self.batch,
                                     FORWARD[self.config.precision])

    @cached_property
    def predictions(self) -> Sized:
        """Outputs of the validation rows, (N, O)."""
        rows = len(self.valid["label"])
        parts = []
        for start in range(0, rows, PASS):
            part = {name: value[start:start + PASS] for name, value in self.valid.items()}
            parts.append(rules.measured(self.graph, self.state.weights, Batch(part, part["label"], {}))["output"])
        return Sized(np.concatenate([part.value for part in parts]), np.concatenate([part.size for part in parts]))

    @cached_property
    def statistics(self) -> Layers:
        """BatchNorm's running statistics after the first epoch."""
        return rules.running_statistics(self.graph, self.state.weights, self.train, self.plan)

    @cached_property
    def decaying(self) -> Ground:
        """The batch alone, weights so small that their gradient is the decay, and a decay whatever the user's.

        There a step shows the decay of every group, and the eps beside a root of its own size.
        """
        weights = dict(self.state.weights)
        for p in self.graph.trainable:
            bits = random_bits(int(np.prod(p.shape)), self.config.seed, "small", p.name)
            size = SMALL * (1 + (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)  # between 1 and 2 of SMALL
            sign = np.where(bits & np.uint64(1), 1.0, -1.0)
            weights[p.name] = (size * sign).reshape(p.shape).astype(self.config.precision)
        zeros = {p.name: np.zeros(p.shape, self.config.precision) for p in self.graph.trainable}
        rows = {**self.batch.inputs, "label": self.batch.label}
        config = changed(self.config, {"weight_decay": DECAY})
        return replace(self, graph=build_graph(config, self.graph.inputs), config=config, train=rows, valid=rows,
                       state=State(weights, zeros, zeros, 0, self.state.loss_scale))
