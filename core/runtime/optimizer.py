"""Adam over groups of parameters, chosen by name: what all backends share of it. torch's rule is the reference.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g g;  value -= rate (m / c1) / (sqrt(v / c2) + eps),  c = 1 - b^steps

with the weight decay's share of g added before.
"""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from core.common.arrays import Array
from core.models.graph import Graph, Group
from core.runtime.layouts import Flat, read_all
from core.runtime.scaler import LossScaler
from core.training.state import State

T = TypeVar("T")


class AdamGroup(ABC, Generic[T]):
    """One optimizer group: its parameters and their two moments, each in one tensor."""

    def __init__(self, value: Flat[T], exp_avg: Flat[T], exp_avg_sq: Flat[T], decay: float) -> None:
        self.value, self.exp_avg, self.exp_avg_sq, self.decay = value, exp_avg, exp_avg_sq, decay

    @abstractmethod
    def step(self, gradients: Sequence[T], count: Any, rate: Any) -> None:
        """Step number `count`, counted from 1, in place; `gradients` in the order of the group's parameters.

        Both are numbers, or tensors () of a backend whose steps are captured.
        """

    @abstractmethod
    def gather(self, gradients: Sequence[T], scaler: LossScaler) -> T:
        """The gradients of a step in mixed precision in one tensor, float32, divided by the loss scale."""

    @abstractmethod
    def step_if(self, finite: T, gradient: T, scaler: LossScaler, rate: Any) -> None:
        """The step that `scaler` has counted, with what `gather` gave, where `finite` (); else nothing moves."""


class GroupedAdam(Generic[T]):
    """The groups of a graph that have trained parameters, and the number of steps taken."""

    def __init__(self, graph: Graph, groups: Mapping[str, AdamGroup[T]]) -> None:
        self.groups, self.steps = groups, 0
        self._columns = [place for place, group in enumerate(graph.groups) if group.name in groups]
        self._members = [[place for place, p in enumerate(graph.trainable) if p.group == name] for name in groups]

    def step(self, gradients: Sequence[T], rates: Sequence[Any]) -> None:
        """One step; `gradients` in the order of the graph's trained parameters, `rates` (G,) in that of its groups."""
        self.steps += 1
        self.step_number(self.steps, gradients, rates)

    def step_number(self, count: Any, gradients: Sequence[T], rates: Sequence[Any]) -> None:
        """The step of that number, which is counted elsewhere."""
        for group, members, column in zip(self.groups.values(), self._members, self._columns, strict=True):
            group.step([gradients[place] for place in members], count, rates[column])

    def scaled_step(self, gradients: Sequence[T], rates: Sequence[Any], scaler: LossScaler) -> None:
        """One step of mixed precision, with gradients times the loss scale; none where one of them is not finite."""
        groups = list(zip(self.groups.values(), self._members, self._columns, strict=True))
        gathered = [group.gather([gradients[place] for place in members], scaler) for group, members, _ in groups]
        finite = scaler.finite(gathered)
        scaler.update(finite)
        for (group, _, column), gradient in zip(groups, gathered, strict=True):
            group.step_if(finite, gradient, scaler, rates[column])

    def load(self, state: State) -> None:
        """Set both moments and the step count."""
        self.steps = state.step
        for group in self.groups.values():
            group.exp_avg.write(state.exp_avg)
            group.exp_avg_sq.write(state.exp_avg_sq)

    def moments(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """`exp_avg` and `exp_avg_sq` of every trained parameter, neutral copies."""
        return (read_all([group.exp_avg for group in self.groups.values()]),
                read_all([group.exp_avg_sq for group in self.groups.values()]))

    def names(self, tensors: Mapping[str, T]) -> dict[str, list[str]]:
        """Those of the network's `tensors` that lie in each group, found by where their memory really is."""
        return {name: [key for key, tensor in tensors.items() if group.value.owns(tensor)]
                for name, group in self.groups.items()}


def trained_groups(graph: Graph) -> list[Group]:
    """The groups of `graph` that have parameters: all of one may be frozen."""
    return [group for group in graph.groups if graph.group(group.name)]

