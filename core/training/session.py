"""The contract that every backend fulfils: what the loop, the commands and parity ask of a network on a device."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from core.common.arrays import Array
from core.models.precision import Observed
from core.training.plan import Batch, EpochPlan, EpochResult
from core.training.state import State


class Session(Protocol):
    """One model on one device. Arrays cross the border as NumPy, names and layouts are neutral.

    Calls are coarse, so that a backend can be fast inside: no host synchronisation within an epoch.
    """

    def load_data(self, split: str, arrays: Mapping[str, Array]) -> None:
        """Put a split on the device, once. Keys: the modalities and, where known, `label`."""

    def load_state(self, state: State) -> None:
        """Replace weights, BatchNorm statistics, Adam's moments and counters."""

    def state(self) -> State:
        """A copy of everything that the next step depends on."""

    def train_epoch(self, plan: EpochPlan) -> EpochResult:
        """Train on split `train`, step by step as planned."""

    def predict(self, split: str) -> Array:
        """Outputs (N, O) in evaluation mode, in row order: scores, or logits."""

    def forward(self, batch: Batch, train: bool) -> dict[str, Array]:
        """Named activations, as `parity.oracle.forward` names them. Changes no state."""

    def gradients(self, batch: Batch) -> tuple[float, dict[str, Array]]:
        """Summed loss in train mode and its gradient for every trained parameter. Changes no state."""

    def optimizer_groups(self) -> dict[str, list[str]]:
        """Names of the parameters in each optimizer group, as the framework's optimizer holds them."""

    def observed(self) -> Observed:
        """Device and dtypes, as read off the tensors that it computes with."""

    def export(self, path: Path, form: str) -> list[Path]:
        """Write the network for deployment; returns the files. Raises UserError for an unknown form."""
