"""Faults put into one backend at a time: the ladder has to find each and to name that backend, no other.

Each framework's file has a function per fault, which returns replacements as parity_tests.defaults has them: mostly
another block in the table.
`python -m parity_tests.mutations` climbs the whole ladder with each and prints a table.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from core.models.graph import OTHERS, Graph, Node
from parity_tests.defaults import Replacements
from parity_tests.divergences import Altered

OFF = 1.3e-5  # what 1 - beta2 misses when beta2 was rounded to float32


@dataclass(frozen=True)
class Fault:
    """rungs: those that have to find it; others may. precisions: those in which it exists."""

    words: str
    rungs: tuple[str, ...]
    precisions: tuple[str, ...] = ("float64", "float32")


FAULTS = {
    "gate_order": Fault("LSTM: forget and cell gate change places", ("forward", "predict", "train mode", "gradients")),
    "biased_variance": Fault("BatchNorm: the running variance is biased", ("statistics",)),
    "adam_eps": Fault("Adam: eps is 1e-7", ("decay",)),
    "swapped_factors": Fault("two factors change places", ("forward", "predict", "train mode", "gradients")),
    "decay_of_one_group": Fault("weight decay on one group only, none configured", ("decay",)),
    "mask_scale": Fault("dropout masks without their scale", ("train mode", "loss", "gradients")),
    "second_moment": Fault(f"Adam: the second moment is {OFF} off", ("adam", "decay"), ("float32",)),
    "predict_in_train_mode": Fault("BatchNorm in train mode in predict", ("predict",)),
}


def exchanged(table: dict[str, Any], kind: str, block: Any) -> Callable[[], Replacements]:
    """The fault of another block in the table."""
    return lambda: [(table, kind, block)]


def swapped(fusion: Callable[..., Any]) -> Callable[..., Any]:
    """LMF's fusion with the first two factors in each other's place."""
    def made(node: Node, *args: Any) -> Any:
        first, second, *rest = node["factors"]
        return fusion(replace(node, options={**node.options, "factors": (second, first, *rest)}), *args)

    return made


def decaying_others(make: Callable[..., Any]) -> Callable[..., Any]:
    """An optimizer that decays the group `others` alone."""
    def made(graph: Graph, *args: Any) -> Any:
        groups = tuple(group if group.name == OTHERS else replace(group, decay=0.0) for group in graph.groups)
        return make(replace(graph, groups=groups), *args)

    return made


def in_train_mode(predict: Callable[..., Any]) -> Callable[..., Any]:
    """A session's `predict` whose network is in train mode."""
    def made(self: Any, split: str) -> Any:
        network = self.network
        self.network = Altered(network, run=lambda inputs, masks, train: network.run(inputs, masks, True))
        try:
            return predict(self, split)
        finally:
            self.network = network

    return made
