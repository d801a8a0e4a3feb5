"""Checkpoints: one safetensors file with neutral tensors, and the run's record as JSON in its header.

safetensors executes nothing on loading. Files are written whole, so a half-written one can't exist.
"""
from __future__ import annotations

import contextlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save

from core.config import Config, make_config
from core.data.archives import open_tensors
from core.errors import UserError
from core.files import atomic_path
from core.models import InputDims, ModelSpec, build_spec
from core.randomness import Array
from core.records import check_record, parse_json
from core.state import State, check_weights
from core.written import RECORD

FORMAT = "lmf-checkpoint-1"
FOREIGN_HEADS = (b"PK\x03\x04", b"\x80")  # zip files and pickles
FOREIGN_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".pdparams")
KINDS = ("weights", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds. `progress` is the trainer's: epoch, best loss, history."""

    config: Config
    dims: InputDims
    backend: str
    fingerprint: str
    state: State
    progress: dict[str, Any]

    @property
    def spec(self) -> ModelSpec:
        return build_spec(self.config, self.dims)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` whole. Raises RunFailed when the disk is full or the folder can't be written."""
    state = checkpoint.state
    tensors = {f"{kind}/{name}": array for kind in KINDS for name, array in getattr(state, kind).items()}
    record = {
        "config": checkpoint.config.model_dump(mode="json"), "dims": vars(checkpoint.dims),
        "backend": checkpoint.backend, "fingerprint": checkpoint.fingerprint, "step": state.step,
        "loss_scale": state.loss_scale, "good_steps": state.good_steps, "progress": checkpoint.progress,
    }
    with atomic_path(path) as temporary:
        # through Python's own write, so that a full disk is an OSError like any other
        temporary.write_bytes(save(tensors, metadata={"format": FORMAT, "record": json.dumps(record)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of any backend; of a run folder, its best. Raises UserError naming the file and its fault."""
    if os.path.isdir(path):
        path = path / "best.safetensors"
    if not os.path.isfile(path):  # of a name too long for a file too
        raise UserError(f"{path}: no such checkpoint file; a run writes best.safetensors and last.safetensors")
    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Array] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:  # the last: no dtype of NumPy
        raise UserError(f"{path}: not a readable safetensors file ({error}); {_way_out(path)}") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: format is {metadata.get('format')!r}, expected {FORMAT!r}; use a checkpoint of this "
                        "project, or convert what Paddle, PyTorch or MindSpore wrote: python -m core.convert --input "
                        "FILE --output FILE.safetensors")
    weights, exp_avg, exp_avg_sq = (_part(tensors, kind) for kind in KINDS)
    where, way_out = f"{path}: its record", "use a checkpoint of this project"
    record = check_record(parse_json(metadata.get("record", ""), where, way_out), RECORD, where, way_out)
    dims = InputDims(**record.dims.model_dump())
    try:
        config = make_config(record.config)
    except UserError as error:
        raise UserError(f"{where} has a configuration that can't be: {error}; {way_out}") from error
    for modality in config.modalities:
        if dims.of(modality) == 0:
            raise UserError(f"{where} has no width for {modality}, which it uses; {way_out}")
    state = State(weights, exp_avg, exp_avg_sq, record.step, record.loss_scale, record.good_steps)
    checkpoint = Checkpoint(config, dims, record.backend, record.fingerprint, state, record.progress)
    check_weights(checkpoint.spec, state.weights, str(path))
    return checkpoint


def _way_out(path: Path) -> str:
    """How to go on with a file that isn't safetensors: a published port's is told by its first bytes or its name."""
    head = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(max(map(len, FOREIGN_HEADS)))
    if head.startswith(FOREIGN_HEADS) or path.suffix in FOREIGN_SUFFIXES:
        source, target = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(".safetensors")))
        return f"if a published port wrote it: python -m core.convert --input {source} --output {target}"
    return "use a checkpoint of this project"


def _part(tensors: Mapping[str, Array], kind: str) -> dict[str, Array]:
    return {name.removeprefix(f"{kind}/"): value for name, value in tensors.items() if name.startswith(f"{kind}/")}
