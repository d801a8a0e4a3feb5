"""Reading features without labels, for inference: .npz, .safetensors or .pkl with one array per modality."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core.common.arrays import Array
from core.common.errors import UserError, one_line
from core.data import checks
from core.data.archives import open_tensors, read_npz
from core.data.cleaning import clean
from core.data.published import keys_in_files
from core.data.sequences import fit, keep_steps, padding_of
from core.data.specs import InputSpec, Padding
from core.data.tables import two_ended
from core.data.unpickle import load_pickle


def read_unlabelled(path: Path, inputs: Sequence[InputSpec], max_len: int | None,
                    padding: Padding | None = None) -> tuple[dict[str, Array], dict[str, dict[str, int]]]:
    """Arrays of `inputs` (rows (N, A), sequences (N, T, D), float32) and the cleaning counts.

    Keys are those of the data; labels are ignored. A sequence keeps `max_len` steps, from the end that is not padding,
    and is pooled where the model was trained on means. Raises UserError, one line, for a file or array that doesn't fit
    `inputs`.
    """
    way_out = _way_out(inputs)
    content = _content(path, {key for one in inputs for key in keys_in_files(one)}, way_out)
    found: dict[str, Array] = {}
    for one in inputs:
        modality = one.name
        key = next((name for name in keys_in_files(one) if name in content), None)
        if key is None:
            raise UserError(f"{path}: no array {modality!r}, found {checks.listed(content)}; {way_out}")
        pooled = one.pooled and getattr(content[key], "ndim", 2) == 3  # as the training data had it; or means already
        raw = checks.features(content[key], replace(one, layout="sequence") if pooled else one, f"{path}: {key}",
                              way_out)
        if raw.shape[-1] != one.width:
            raise UserError(f"{path}: {key}: width {raw.shape[-1]} (shape {raw.shape}), expected "
                            f"{one.width}, the width that the model was trained on; "
                            "extract the same features or use a model trained on these")
        found[modality] = raw
    end = padding_of([raw for raw in found.values() if raw.ndim == 3], padding)
    arrays: dict[str, Array] = {}
    cleaning: dict[str, dict[str, int]] = {}
    for name, raw in found.items():
        arrays[name], cleaning[name] = clean(keep_steps(raw, max_len, end) if raw.ndim == 3 else raw)
    arrays = fit({"": arrays}, inputs, None, end)[""]
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        counted = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UserError(f"{path}: differing numbers of rows ({counted}), expected the same in all; {way_out}")
    return arrays, cleaning


def _way_out(inputs: Sequence[InputSpec]) -> str:
    """What a file has to be."""
    return f"give a .npz, .safetensors or .pkl with the arrays {two_ended(tuple(one.name for one in inputs))}"


def _content(path: Path, wanted: set[str], way_out: str) -> dict[str, Any]:
    """What the file holds, by key; arrays of other modalities and labels stay unread where possible."""
    readers = {".pkl": _pickle, ".npz": _npz, ".safetensors": _safetensors}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: suffix {path.suffix!r}, expected .npz, .safetensors or .pkl; {way_out}")
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; {way_out}")
    try:
        return reader(path, wanted, way_out)
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and safetensors have an exception each for garbage
        detail = f"{type(error).__name__} {one_line(error)}"[:160]
        raise UserError(f"{path}: not a readable {path.suffix} file ({detail}); {way_out}") from error


def _pickle(path: Path, _: set[str], way_out: str) -> dict[str, Any]:
    value = load_pickle(path, way_out)
    if not isinstance(value, dict):
        raise UserError(f"{path}: is a {type(value).__name__}, expected a dict; {way_out}")
    return checks.keys_of(value)


def _npz(path: Path, wanted: set[str], way_out: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise UserError(f"{path}: a single .npy array, expected a .npz; {way_out}")
    return read_npz(path, wanted)


def _safetensors(path: Path, wanted: set[str], _: str) -> dict[str, Any]:
    with open_tensors(path) as file:
        return {key: file.get_tensor(key) if key in wanted else None for key in file.keys()}  # noqa: SIM118
