"""Names and layouts of the published ports to the neutral ones, as tables of data."""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from core.config import make_config
from core.convert.readers import Source
from core.errors import UserError
from core.models import InputDims, build_spec
from core.randomness import Array

KNOWN = {p.name: len(p.shape)  # neutral name -> axes, of a network with all modalities
         for p in build_spec(make_config({"dataset": "mosi"}), InputDims(1, 1, 1, 1)).parameters}
ANCHOR = "fusion_bias"  # in every network; what stands before it is a prefix of all names
RENAMED: dict[str, dict[str, str]] = {  # pattern -> neutral, by framework
    "torch": {},
    "paddle": {r"\.norm\._mean$": ".norm.running_mean", r"\.norm\._variance$": ".norm.running_var",
               r"\.rnn\.0\.cell\.(weight|bias)_(ih|hh)$": r".rnn.\1_\2_l0"},  # Paddle stores the LSTM under two names
    "mindspore": {r"\.norm\.gamma$": ".norm.weight", r"\.norm\.beta$": ".norm.bias",
                  r"\.norm\.moving_mean$": ".norm.running_mean", r"\.norm\.moving_variance$": ".norm.running_var"},
}
TRANSPOSED = {"torch": "", "mindspore": "", "paddle": r"\.linear_[123]\.weight$"}  # Paddle has (in, out)
IGNORED = {  # counters and optimizer state beside the weights
    "torch": r"$^", "paddle": r"$^",
    "mindspore": r"^(moment[12]|vhat|max_exp_avg_sq|exp_avg(_sq)?)\.|^(global_step|learning_rate\w*|beta[12]_power|"
                 r"weight_decay|momentum|loss_scale|scale_sense|epoch_num|step_num|current_\w+|state_step)$",
}
REASONS = {  # why a tensor can't be mapped -> its name
    "the LSTM is bidirectional": r"_reverse$|cell_[fb]w\.",
    "the LSTM has more than one layer": r"_l[1-9]\d*$|\.rnn\.[1-9]\d*\.cell",
    "one flat LSTM weight, whose order of gates older MindSpore versions don't record": r"\.rnn\.weight$",
}


def to_neutral(source: Source, path: Path) -> dict[str, Array]:
    """The tensors of `source` in neutral names and layouts, C-contiguous.

    Raises UserError naming every tensor that has no place in LMF, and why.
    """
    framework = source.framework
    raw = {name: value for name, value in source.tensors.items()
           if value.ndim and not re.search(IGNORED[framework], name)}  # without axes: num_batches_tracked, rates
    prefix = next((name.removesuffix(ANCHOR) for name in raw if name.endswith(ANCHOR)), "")
    tensors: dict[str, Array] = {}
    unknown: dict[str, str] = {}
    for name, value in raw.items():
        neutral = _renamed(name.removeprefix(prefix), framework)
        if neutral not in KNOWN:
            unknown[name] = next((why for why, pattern in REASONS.items() if re.search(pattern, name)), "")
            continue
        _check(path, name, neutral, value)
        if TRANSPOSED[framework] and re.search(TRANSPOSED[framework], neutral):
            value = value.T
        if neutral in tensors and not np.array_equal(tensors[neutral], value, equal_nan=True):
            raise UserError(f"{path}: {name} differs from its other name {neutral}, expected the same numbers; "
                            "save the state dict again")
        tensors[neutral] = np.ascontiguousarray(value)
    if unknown:
        raise UserError(f"{path}: {_unknown(unknown)}; convert a checkpoint of LMF with a one-layer, "
                        "one-directional LSTM")
    return tensors


def _renamed(name: str, framework: str) -> str:
    for pattern, neutral in RENAMED[framework].items():
        name = re.sub(pattern, neutral, name)
    return name


def _check(path: Path, name: str, neutral: str, value: Array) -> None:
    if value.dtype.kind != "f":
        raise UserError(f"{path}: {name} holds {value.dtype}, expected floating-point numbers; save the weights")
    if value.ndim != KNOWN[neutral]:
        raise UserError(f"{path}: {name} has shape {value.shape}, expected {KNOWN[neutral]} axes; "
                        "convert a checkpoint of LMF")


def _unknown(unknown: Mapping[str, str]) -> str:
    """One clause per reason, each with at most six names."""
    clauses = []
    for why in dict.fromkeys(unknown.values()):
        names = [name[:80] for name, reason in unknown.items() if reason == why]
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        clauses.append(f"{why or 'no place in LMF for'}{':' if why else ''} {', '.join(names[:6])}{more}")
    return "; ".join(clauses)
