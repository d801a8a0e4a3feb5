"""Faults put into one backend at a time: the ladder has to find each and to name that backend, no other.

Each framework's file has a function per fault, which returns replacements as parity_tests.defaults has them.
`python -m parity_tests.mutations` climbs the whole ladder with each and prints a table.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Replacements = list[tuple[Any, str, Any]]
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


def swapped(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor of LMF that lets the first two factors change places."""
    def made(self: Any, *args: Any) -> None:
        init(self, *args)
        first, second, *rest = self.factors
        self.factors = (second, first, *rest)

    return made


def in_train_mode(predict: Callable[..., Any]) -> Callable[..., Any]:
    """A session's `predict` whose network is in train mode."""
    def made(self: Any, split: str) -> Any:
        forward = self.network.forward
        self.network.forward = lambda inputs, masks, train: forward(inputs, masks, True)
        try:
            return predict(self, split)
        finally:
            del self.network.forward

    return made
