"""Names and layouts of a published network to the neutral ones."""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from core.common.arrays import Array
from core.common.errors import UserError
from core.convert.network import PublishedNetwork
from core.convert.readers import Source

IGNORED = {  # counters and optimizer state beside the weights
    "torch": r"$^", "paddle": r"$^",
    "mindspore": r"^(moment[12]|vhat|max_exp_avg_sq|exp_avg(_sq)?)\.|^(global_step|learning_rate\w*|beta[12]_power|"
                 r"weight_decay|momentum|loss_scale|scale_sense|epoch_num|step_num|current_\w+|state_step)$",
}


def to_neutral(source: Source, path: Path, network: PublishedNetwork) -> dict[str, Array]:
    """The tensors of `source` in neutral names and layouts, C-contiguous.

    Raises UserError naming every tensor that has no place in `network`, and why.
    """
    framework = source.framework
    raw = {name: value for name, value in source.tensors.items()
           if value.ndim and not re.search(IGNORED[framework], name)}  # without axes: num_batches_tracked, rates
    anchor, transposed = network.anchor, network.transposed[framework]
    prefix = next((name.removesuffix(anchor) for name in raw if name.endswith(anchor)), "")
    tensors: dict[str, Array] = {}
    unknown: dict[str, str] = {}
    for name, value in raw.items():
        neutral = _renamed(name.removeprefix(prefix), network.renamed[framework])
        if neutral not in network.axes:
            unknown[name] = next((why for why, pattern in network.reasons.items() if re.search(pattern, name)), "")
            continue
        _check(path, name, neutral, value, network)
        if transposed and re.search(transposed, neutral):
            value = value.T
        if neutral in tensors and not np.array_equal(tensors[neutral], value, equal_nan=True):
            raise UserError(f"{path}: {name} differs from its other name {neutral}, expected the same numbers; "
                            "save the state dict again")
        tensors[neutral] = np.ascontiguousarray(value)
    if unknown:
        raise UserError(f"{path}: {_unknown(unknown, network)}; convert a checkpoint of {network.title} "
                        f"{network.kind}")
    return tensors


def _renamed(name: str, renamed: Mapping[str, str]) -> str:
    for pattern, neutral in renamed.items():
        name = re.sub(pattern, neutral, name)
    return name


def _check(path: Path, name: str, neutral: str, value: Array, network: PublishedNetwork) -> None:
    if value.dtype.kind != "f":
        raise UserError(f"{path}: {name} holds {value.dtype}, expected floating-point numbers; save the weights")
    if value.ndim != network.axes[neutral]:
        raise UserError(f"{path}: {name} has shape {value.shape}, expected {network.axes[neutral]} axes; "
                        f"convert a checkpoint of {network.title}")


def _unknown(unknown: Mapping[str, str], network: PublishedNetwork) -> str:
    """One clause per reason, each with at most six names."""
    clauses = []
    for why in dict.fromkeys(unknown.values()):
        names = [name[:80] for name, reason in unknown.items() if reason == why]
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        clauses.append(f"{why or f'no place in {network.title} for'}{':' if why else ''} {', '.join(names[:6])}{more}")
    return "; ".join(clauses)
