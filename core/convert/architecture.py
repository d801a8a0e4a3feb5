"""From tensors to a checkpoint: the architecture is read off the shapes, dropouts off a whole module."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core.common.errors import UserError
from core.common.files import sha256_of
from core.config import Config, build_graph, make_config
from core.convert.lmf import LMF
from core.convert.msa import MSA
from core.convert.names import to_neutral
from core.convert.network import PublishedNetwork, Tensors
from core.convert.readers import Source, read_source
from core.convert.settings import dropouts, refuse_other_outputs
from core.data.published import DATASETS
from core.training.checkpoint import Checkpoint
from core.training.state import State, bad_numbers

NETWORKS = {network.model: network for network in (LMF, MSA)}


def convert(path: Path, given: Mapping[str, Any], origin: Mapping[str, str] | None = None,
            ) -> Checkpoint:
    """The network in `path` as a checkpoint with weights only, in the precision of the file or of `given`.

    `given` are keys of the configuration that win over the dropouts of a whole module, and these over defaults;
    `origin` tells where each came from. What the module told stands in the checkpoint's progress, under `settings`.
    Raises UserError, one line naming tensors and reason, for a file that isn't one network of `NETWORKS`.
    """
    network, source = _read(path, given.get("model"))
    tensors = to_neutral(source, path, network)
    detected, found = network.detect(tensors, path)
    told = dropouts(source.settings, [one.name for one in found], given, path, network)
    config = _config(path, tensors, detected, {"model": network.model, **told, **given}, origin or {}, network)
    refuse_other_outputs(source.settings, config, path, network)
    steps = config.max_len or config.known.steps
    inputs = tuple(replace(one, shape=(steps, one.width)) if one.layout == "sequence" else one for one in found)
    graph = build_graph(config, inputs)
    wrong = [f"{p.name} is {tensors[p.name].shape}, expected {p.shape}" for p in graph.parameters
             if p.name in tensors and tensors[p.name].shape != p.shape]
    missing = [f"{p.name} is missing" for p in graph.parameters if p.name not in tensors]
    if wrong or missing:
        raise UserError(f"{path}: not one network: {'; '.join(wrong + missing)}; "
                        f"convert a complete checkpoint of {network.title}")
    with np.errstate(over="ignore"):  # what overflows is refused as inf below
        weights = {p.name: tensors[p.name].astype(config.precision) for p in graph.parameters}
    bad = bad_numbers(State(weights))
    if bad:
        raise UserError(f"{path}: {'; '.join(bad)}: every output would be NaN or wrong; convert another checkpoint")
    progress = {"source": path.name, "sha256": sha256_of(path), "format": source.kind, "settings": told}
    return Checkpoint(config, inputs, f"converted from {source.kind}", "", State(weights), progress)


def _read(path: Path, model: Any) -> tuple[PublishedNetwork, Source]:
    """The tensors in `path`, and of which network they are: `model`, or the one that their names tell, or LMF."""
    network = NETWORKS.get(model, LMF)
    source = read_source(path, network)
    if model is None and not _has(source, LMF.anchor) and _has(source, MSA.anchor):
        network = MSA
    return network, source


def _has(source: Source, name: str) -> bool:
    return any(own.endswith(name) for own in source.tensors)


def _fitting(network: PublishedNetwork) -> dict[str, int]:
    """The data sets with all of a network's inputs, in its layouts, and their outputs."""
    layouts = {(one.name, one.layout) for one in network.inputs}
    return {name: spec.task.outputs for name, spec in DATASETS.items()
            if layouts <= {(one.name, one.layout) for one in spec.inputs}}


def _config(path: Path, tensors: Tensors, detected: Mapping[str, Any], given: Mapping[str, Any],
            origin: Mapping[str, str], network: PublishedNetwork) -> Config:
    """Defaults, then what the shapes tell, then flags; a flag that contradicts the shapes is refused."""
    outputs, fitting = detected["output_dim"], _fitting(network)
    dataset = given.get("dataset") or next((name for name, count in fitting.items() if count == outputs), None)
    if dataset in DATASETS and dataset not in fitting:
        names = ", ".join(one.name for one in network.inputs)
        raise UserError(f"{origin.get('dataset', 'dataset')} {dataset}: has other inputs than {network.title} takes "
                        f"({names}); use {' or '.join(fitting)}")
    if dataset is None or fitting.get(dataset, outputs) != outputs:
        expected = ", ".join(f"{count} ({name})" for name, count in fitting.items())
        asked = f", which {origin.get('dataset', 'the configuration')} {dataset} does not have" if dataset else ""
        raise UserError(f"{path}: {network.head} has {outputs} outputs{asked}; expected {expected}; "
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
