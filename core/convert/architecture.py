"""From tensors to a checkpoint: the architecture is read off the shapes, dropouts off a whole module."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.checkpoint import Checkpoint
from core.config import MODALITIES, OUTPUTS, Config, make_config
from core.convert.names import to_neutral
from core.convert.readers import read_source
from core.convert.settings import dropouts, refuse_other_outputs
from core.errors import UserError
from core.files import sha256_of
from core.models import InputDims, build_spec
from core.randomness import Array
from core.state import State, bad_numbers

Tensors = Mapping[str, Array]


def convert(path: Path, given: Mapping[str, Any], origin: Mapping[str, str] | None = None) -> Checkpoint:
    """The network in `path` as a checkpoint with weights only, in the precision of the file or of `given`.

    `given` are keys of the configuration that win over the dropouts of a whole module, and these over defaults;
    `origin` tells where each came from. What the module told stands in the checkpoint's progress, under `settings`.
    Raises UserError, one line naming tensors and reason, for a file that isn't one LMF network.
    """
    source = read_source(path)
    tensors = to_neutral(source, path)
    detected, dims = detect(tensors, path)
    told = dropouts(source.settings, detected["modalities"], given, path)
    config = _config(path, tensors, detected, told | dict(given), origin or {})
    refuse_other_outputs(source.settings, config, path)
    if "text" in config.modalities:
        dims = InputDims(dims.audio, dims.video, dims.text, config.max_len)
    spec = build_spec(config, dims)
    wrong = [f"{p.name} is {tensors[p.name].shape}, expected {p.shape}" for p in spec.parameters
             if p.name in tensors and tensors[p.name].shape != p.shape]
    missing = [f"{p.name} is missing" for p in spec.parameters if p.name not in tensors]
    if wrong or missing:
        raise UserError(f"{path}: not one network: {'; '.join(wrong + missing)}; "
                        "convert a complete checkpoint of LMF")
    with np.errstate(over="ignore"):  # what overflows is refused as inf below
        weights = {p.name: tensors[p.name].astype(config.precision) for p in spec.parameters}
    bad = bad_numbers(State(weights))
    if bad:
        raise UserError(f"{path}: {'; '.join(bad)}: every output would be NaN or wrong; convert another checkpoint")
    progress = {"source": path.name, "sha256": sha256_of(path), "format": source.kind, "settings": told}
    return Checkpoint(config, dims, f"converted from {source.kind}", "", State(weights), progress)


def detect(tensors: Tensors, path: Path) -> tuple[dict[str, Any], InputDims]:
    """Keys of the configuration, and input widths, that the shapes tell. Text steps are not among them: 0."""

    def size(name: str, axis: int) -> int:
        if name not in tensors:
            raise UserError(f"{path}: {name} is missing, found {_listed(tensors)}; "
                            "convert a complete checkpoint of LMF")
        return int(tensors[name].shape[axis])

    modalities = tuple(m for m in MODALITIES if any(name.startswith(f"{m}_") for name in tensors))
    if not modalities:
        raise UserError(f"{path}: no tensor of LMF, found {_listed(tensors)}; convert a checkpoint of LMF")
    found: dict[str, Any] = {"modalities": modalities, "rank": size("fusion_weights", 1),
                             "output_dim": size("fusion_bias", 1)}
    widths = {"audio": 0, "video": 0, "text": 0}
    for modality in modalities:
        hidden = size(f"{modality}_factor", 1) - 1
        if modality == "text":
            found["text_out"], found["text_hidden"] = hidden, size("text_subnet.rnn.weight_hh_l0", 1)
            widths["text"] = size("text_subnet.rnn.weight_ih_l0", 1)
        else:
            found[f"{modality}_hidden"] = hidden
            widths[modality] = size(f"{modality}_subnet.linear_1.weight", 1)
    return found, InputDims(**widths, steps=0)


def _config(path: Path, tensors: Tensors, detected: Mapping[str, Any], given: Mapping[str, Any],
            origin: Mapping[str, str]) -> Config:
    """Defaults, then what the shapes tell, then flags; a flag that contradicts the shapes is refused."""
    outputs = detected["output_dim"]
    dataset = given.get("dataset") or next((name for name, count in OUTPUTS.items() if count == outputs), None)
    if dataset is None or OUTPUTS.get(dataset, outputs) != outputs:
        expected = ", ".join(f"{count} ({name})" for name, count in OUTPUTS.items())
        asked = f", which {origin.get('dataset', 'the configuration')} {dataset} does not have" if dataset else ""
        raise UserError(f"{path}: fusion_bias has {outputs} outputs{asked}; expected {expected}; "
                        "convert a checkpoint of one of these")
    double = all(value.dtype == np.float64 for value in tensors.values())
    defaults = {"dataset": dataset, "precision": "float64" if double else "float32", **detected}
    places = {key: f"the shapes in {path}" for key in detected} | dict(origin)
    config = make_config({**defaults, **given}, places)
    for key, value in detected.items():
        if getattr(config, key) != value:
            shown = ",".join(value) if isinstance(value, tuple) else value
            raise UserError(f"{origin.get(key, key)} {given.get(key)}: the tensors in {path} have {key} {shown}; "
                            f"leave {key} out")
    return config


def _listed(tensors: Tensors) -> str:
    names = sorted(tensors)
    return (", ".join(names[:6]) or "no tensor") + (f" and {len(names) - 6} more" if len(names) > 6 else "")
