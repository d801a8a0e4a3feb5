"""What every backend's session shares: the loop over an epoch's steps, state, parity's looks.

A backend's session derives from `GraphSession` and adds what needs a framework: placing arrays, gathering batches,
differentiating a step.
"""
from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from core.common.arrays import Array
from core.config import Config
from core.models.graph import STATISTICS, Graph, ParameterSpec, Ref
from core.models.precision import Observed
from core.models.walk import Watch
from core.runtime.layouts import Flat, Layouts, own_shape, read_all, to_neutral, to_own
from core.runtime.optimizer import GroupedAdam
from core.runtime.scaler import LossScaler
from core.training.losses import loss_of
from core.training.plan import EVALUATION_ROWS, Batch, EpochPlan, EpochResult
from core.training.state import State

T = TypeVar("T")


class DeviceBatch(NamedTuple):
    """A batch on the device: the inputs in the graph's order, the label, the masks by dropout site."""

    inputs: Sequence[Any]
    label: Any
    masks: Mapping[str, Any]


class Network(Protocol):
    """A backend's network: its tensors lie in `flats`, those of trained and frozen groups and of the statistics."""

    flats: Mapping[str, Sequence[Flat[Any]]]
    copies: Any  # of mixed precision: core.runtime.half.Copies; None at O0

    def tensors(self) -> dict[str, Any]:
        """Parameters and statistics by neutral name, as the framework holds them."""

    def run(self, inputs: Sequence[Any], masks: Mapping[str, Any], train: bool, watch: Watch | None = None) -> Any:
        """The output (B, O)."""


class GraphSession(ABC, Generic[T]):
    """One network, its optimizer and its data on one device: core.training.session.Session."""

    layouts: Layouts

    def __init__(self, graph: Graph, config: Config, network: Network, optimizer: GroupedAdam[T],
                 scaler: LossScaler | None) -> None:
        """`scaler`: of mixed precision."""
        self.graph, self.config, self.network, self.optimizer = graph, config, network, optimizer
        self.loss, self.scaler = loss_of(config), scaler
        self.splits: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, int] = {}
        self._unscaled = 1.0, 0  # loss scale and good steps of a state, where no scaler changes them
        self._layout: dict[str, str] = {one.name: one.layout for one in graph.inputs}
        self._layout.update((site.name, site.layout) for site in graph.dropout_sites)

    @abstractmethod
    def place(self, array: Array) -> T:
        """To the device, floating-point numbers in the run's dtype; the labels of classes stay int64."""

    @abstractmethod
    def read(self, tensor: T) -> Array:
        """A copy on the host."""

    @abstractmethod
    def store(self, split: str, arrays: Mapping[str, Array]) -> None:
        """Keep a split in `splits`, in the backend's layout, as its batches are best gathered."""

    @abstractmethod
    def rows_of(self, split: str, start: int, stop: int) -> Sequence[T]:
        """The inputs of rows `start` to `stop` of a split."""

    @abstractmethod
    def batches(self, plan: EpochPlan, first: int, last: int) -> Iterator[DeviceBatch]:
        """The batches of the steps `first` to `last` of an epoch over the training split."""

    @abstractmethod
    def differentiate(self, batch: DeviceBatch) -> tuple[T, Sequence[T]]:
        """The loss of a batch in train mode, and its gradients in the order of the graph's trained parameters.

        In mixed precision the gradients are times the loss scale, those of blocks in half rounded to half.
        """

    def no_gradients(self) -> contextlib.AbstractContextManager[object]:
        """Within, nothing is kept for a way back."""
        return contextlib.nullcontext()

    @abstractmethod
    def export(self, path: Path, form: str) -> list[Path]:
        """Write the network for deployment; returns the files. Raises UserError for an unknown form."""

    def load_data(self, split: str, arrays: Mapping[str, Array]) -> None:
        self.rows[split] = len(next(iter(arrays.values())))
        self.store(split, arrays)

    def load_state(self, state: State) -> None:
        self._write(self._flats(), state.weights)
        self.optimizer.load(state)
        if self.scaler:
            self.scaler.load(state.loss_scale, state.good_steps, state.step)
            self.network.copies.refresh()
        self._unscaled = state.loss_scale, state.good_steps

    def state(self) -> State:
        weights = read_all(self._flats())
        scale, good = self._unscaled
        step, scale, good = self.scaler.counters() if self.scaler else (self.optimizer.steps, scale, good)
        return State({p.name: weights[p.name] for p in self.graph.parameters}, *self.optimizer.moments(), step, scale,
                     good)

    def train_epoch(self, plan: EpochPlan) -> EpochResult:
        losses: list[T] = []
        if self.scaler:
            self.scaler.begin(len(plan.bounds))
        for first, last in plan.pieces():
            losses.extend(self.train_steps(plan, first, last))
        return EpochResult(self.read_losses(losses), self.skipped())

    def skipped(self) -> int:
        """How many steps of this epoch the loss scaler has left out so far."""
        return int(self.scaler.read(self.scaler.skipped)) if self.scaler else 0

    def train_steps(self, plan: EpochPlan, first: int, last: int) -> Iterator[T]:
        """The losses of the steps `first` to `last`, exclusive, as they are taken."""
        rates = plan.rates[first:last].tolist()
        for batch, now in zip(self.batches(plan, first, last), rates, strict=True):
            loss, gradients = self.differentiate(batch)
            self.step(gradients, now)
            yield loss

    def step(self, gradients: Sequence[T], rates: Sequence[Any]) -> None:
        """One step of the optimizer with what `differentiate` gave."""
        if self.scaler:
            self.optimizer.scaled_step(gradients, rates, self.scaler)
            self.network.copies.refresh()
        else:
            self.optimizer.step(gradients, rates)

    def predict(self, split: str) -> Array:
        rows = self.rows[split]
        with self.no_gradients():
            parts = (self.rows_of(split, start, min(start + EVALUATION_ROWS, rows))
                     for start in range(0, rows, EVALUATION_ROWS))
            outputs = [self.read(self.network.run(part, {}, False)) for part in parts]
        return np.concatenate(outputs).astype(self.config.precision, copy=False)

    def forward(self, batch: Batch, train: bool) -> dict[str, Array]:
        found: dict[str, Array] = {}

        def watch(name: str, ref: Ref, value: T) -> None:
            array = self.read(value)
            found[name] = to_neutral(self.layouts, ref.layout, array, (rows, *ref.shape))

        placed, rows = self._placed(batch), len(next(iter(batch.inputs.values())))
        with self.no_gradients(), self._kept_statistics():
            self.network.run(placed.inputs, placed.masks if train else {}, train, watch)
        return found

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        with self._kept_statistics():
            loss, gradients = self.differentiate(self._placed(batch))
            scale = self.scaler.read(self.scaler.scale) if self.scaler else 1
            found = {p.name: self._neutral(p, gradient) / np.asarray(scale, self.config.precision)
                     for p, gradient in zip(self.graph.trainable, gradients, strict=True)}
        return float(self.read_losses([loss])[0]), found

    def optimizer_groups(self) -> dict[str, list[str]]:
        return self.optimizer.names(self.network.tensors())

    @abstractmethod
    def observed(self) -> Observed:
        """Where and in what it computes, as its tensors say."""

    def read_losses(self, losses: Sequence[T]) -> Any:
        """The losses of steps, float64 (steps,)."""
        return np.array([self.read(loss).sum(dtype=np.float64) for loss in losses])

    def own(self, name: str, array: Array) -> Array:
        """An input or a mask in the backend's layout."""
        return to_own(self.layouts, self._layout.get(name, "plain"), array)

    def row_axis(self, name: str) -> int:
        """Where the rows of an input or a mask lie in the backend's layout: sequences are time first."""
        return 1 if self._layout.get(name) == "sequence" else 0

    def _neutral(self, parameter: ParameterSpec, tensor: T) -> Array:
        array = self.read(tensor).reshape(own_shape(self.layouts, parameter))
        return to_neutral(self.layouts, parameter.layout, array, parameter.shape)

    def _placed(self, batch: Batch) -> DeviceBatch:
        inputs = [self.place(self.own(name, batch.inputs[name])) for name in self.graph.input_names]
        masks = {name: self.place(self.own(name, mask)) for name, mask in batch.masks.items()}
        return DeviceBatch(inputs, self.place(batch.label), masks)

    def _flats(self) -> list[Flat[T]]:
        return [flat for flats in self.network.flats.values() for flat in flats]

    @staticmethod
    def _write(flats: Sequence[Flat[T]], weights: Mapping[str, Array]) -> None:
        for flat in flats:
            flat.write(weights)

    @contextlib.contextmanager
    def _kept_statistics(self) -> Iterator[None]:
        """Put BatchNorm's running statistics back afterwards: a look must not change the state."""
        flats = self.network.flats.get(STATISTICS, ())
        kept = read_all(flats)
        try:
            yield
        finally:
            self._write(flats, kept)
