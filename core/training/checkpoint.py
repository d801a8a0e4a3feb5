"""Checkpoints: one safetensors file with neutral tensors, and the run's record as JSON in its header.

safetensors executes nothing on loading. Files are written whole, so a half-written one can't exist. The record holds
dtype, shape and sha256 of every tensor, and its own sha256 stands beside it: a file in which a bit has changed that
says anything is refused.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import save

from core.common.arrays import Array
from core.common.digests import describe, difference
from core.common.errors import UserError, one_line
from core.common.files import atomic_path
from core.common.records import check_record, parse_json
from core.common.text import shown, warn
from core.config import Config, build_graph, make_config, run_keys, to_values
from core.data.archives import open_tensors
from core.data.published import feature_inputs
from core.data.ranges import check_ranges
from core.data.specs import AXES, InputSpec
from core.models.graph import Graph
from core.training.state import State, check_state
from core.training.written import RECORD, Record

FORMAT = "lmf-checkpoint-1"
FOREIGN_HEADS = (b"PK\x03\x04", b"\x80")  # zip files and pickles
FOREIGN_SUFFIXES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".pdparams")
KINDS = ("weights", "exp_avg", "exp_avg_sq")
WAY_OUT = "use a checkpoint of this project"
DAMAGED = "the file is damaged: use a copy or another checkpoint"
RANGE = "range"  # of the training data: no part of the state


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds. `progress` is the trainer's: epoch, best loss, history.

    `ranges`: what it was trained on, as `core.data.ranges` makes them; empty in older and converted checkpoints.
    """

    config: Config
    inputs: tuple[InputSpec, ...]
    backend: str
    fingerprint: str
    state: State
    progress: dict[str, Any]
    ranges: Mapping[str, Array] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        return build_graph(self.config, self.inputs)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` whole. Raises RunFailed when the disk is full or the folder can't be written."""
    state = checkpoint.state
    tensors = {f"{kind}/{name}": array for kind in KINDS for name, array in getattr(state, kind).items()}
    tensors |= {f"{RANGE}/{name}": array for name, array in checkpoint.ranges.items()}
    record = json.dumps({
        "config": to_values(checkpoint.config), "inputs": [asdict(one) for one in checkpoint.inputs],
        "backend": checkpoint.backend, "fingerprint": checkpoint.fingerprint, "step": state.step,
        "loss_scale": state.loss_scale, "good_steps": state.good_steps, "progress": checkpoint.progress,
        "tensors": {name: describe(array) for name, array in tensors.items()},
    })
    with atomic_path(path) as temporary:
        # through Python's own write, so that a full disk is an OSError like any other
        temporary.write_bytes(save(tensors, {"format": FORMAT, "record": record, "sha256": _sha256(record)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of any backend; of a run folder, its best.

    One without digests, of an earlier version, is read with a warning. Raises UserError naming the file, its fault and,
    where one is at fault, the tensor: another digest, dtype, shape or name than it was written with, NaN, infinities.
    """
    if os.path.isdir(path):
        path = path / "best.safetensors"
    if not os.path.isfile(path):  # of a name too long for a file too
        raise UserError(f"{path}: no such checkpoint file; a run writes best.safetensors and last.safetensors")
    metadata, tensors = _read(path)
    record = _parse(path, metadata)
    if record.tensors is not None:
        _check_digests(path, record.tensors, tensors)
    weights, exp_avg, exp_avg_sq = (_part(tensors, kind) for kind in KINDS)
    state = State(weights, exp_avg, exp_avg_sq, record.step, record.loss_scale, record.good_steps)
    try:
        config, inputs = make_config(run_keys(record.config)), _inputs(record)
        checkpoint = Checkpoint(config, inputs, record.backend, record.fingerprint, state, record.progress,
                                _part(tensors, RANGE))
        graph = checkpoint.graph
    except (UserError, ArithmeticError, RecursionError) as error:  # the latter: widths of 0, deep nesting
        raise UserError(f"{path}: its configuration can't be used ({one_line(error)[:300]}); {WAY_OUT}") from error
    check_state(graph, state, config.precision, str(path))
    check_ranges(checkpoint.ranges, inputs, str(path))
    if record.tensors is None:
        warn(f"{path}: has no digests, an earlier version wrote it: changed numbers in it would not be noticed")
    return checkpoint


def _read(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """Metadata and tensors of a safetensors file that says it is ours."""
    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                found = shown(metadata.get("format"), 80)
                raise UserError(f"{path}: format is {found}, expected {FORMAT!r}; {WAY_OUT}, or convert what Paddle, "
                                "PyTorch or MindSpore wrote: python -m core.convert --input FILE --output "
                                "FILE.safetensors")
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, AttributeError, TypeError, ValueError) as error:  # the latter: dtypes, shapes
        reason = one_line(error)[:300]
        raise UserError(f"{path}: not a readable safetensors file ({reason}); {_way_out(path)}") from error


def _parse(path: Path, metadata: Mapping[str, str]) -> Record:
    """The record, if it is as it was written. Raises UserError."""
    text, digest = metadata.get("record", ""), metadata.get("sha256")
    if digest is not None and digest != _sha256(text):
        raise UserError(f"{path}: its record is not what was written (sha256 {_sha256(text)[:12]}.., written "
                        f"{shown(digest[:12])}..); {DAMAGED}")
    where = f"{path}: its record"
    record = check_record(parse_json(text, where, WAY_OUT), RECORD, where, WAY_OUT)
    if (digest is None) != (record.tensors is None):
        raise UserError(f"{path}: the sha256 of its {'record' if digest is None else 'tensors'} is missing; {DAMAGED}")
    return record


def _inputs(record: Record) -> tuple[InputSpec, ...]:
    """What the network takes. Earlier versions wrote widths by modality.

    Raises UserError where they aren't those of the configuration.
    """
    if record.inputs is None:
        found = feature_inputs(**record.dims.model_dump())
    else:
        found = tuple(InputSpec(one.name, tuple(one.shape), one.layout, one.keys, one.pooled, tuple(one.called))
                      for one in record.inputs)
        for one in found:
            if len(one.shape) != len(AXES[one.layout]):
                raise UserError(f"input {shown(one.name)} has the shape {one.shape}, expected "
                                f"{' x '.join(AXES[one.layout])}")
    wanted = record.config.get("modalities")
    if wanted is not None and [one.name for one in found] != list(wanted):
        raise UserError(f"inputs {', '.join(one.name for one in found) or 'none'}, expected {shown(wanted)}")
    return found


def _check_digests(path: Path, written: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Array]) -> None:
    for name in sorted(written.keys() | tensors.keys()):
        if name not in tensors or name not in written:
            said = "is missing" if name in written else "was not written with it"
            raise UserError(f"{path}: {name} {said}; {DAMAGED}")
        changed = difference(tensors[name], written[name])
        if changed:
            raise UserError(f"{path}: {name} is not what was written ({changed}); {DAMAGED}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _way_out(path: Path) -> str:
    """How to go on with a file that isn't safetensors: a published port's is told by its first bytes or its name."""
    head = b""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(max(map(len, FOREIGN_HEADS)))
    if head.startswith(FOREIGN_HEADS) or path.suffix in FOREIGN_SUFFIXES:
        source, target = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(".safetensors")))
        return f"if a published port wrote it: python -m core.convert --input {source} --output {target}"
    return WAY_OUT


def _part(tensors: Mapping[str, Array], kind: str) -> dict[str, Array]:
    return {name.removeprefix(f"{kind}/"): value for name, value in tensors.items() if name.startswith(f"{kind}/")}
