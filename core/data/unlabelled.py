"""Reading features without labels, for inference: .npz, .safetensors or .pkl with one array per modality."""
from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.common.arrays import Array
from core.common.errors import UserError, one_line
from core.data import checks
from core.data.archives import open_tensors, read_npz
from core.data.cleaning import clean
from core.data.published import FEATURE_KEYS
from core.data.sequences import keep_steps
from core.data.specs import InputSpec, Padding
from core.data.unpickle import load_pickle

WAY_OUT = "give a .npz, .safetensors or .pkl with the arrays audio, video and text"


def read_unlabelled(path: Path, inputs: Sequence[InputSpec], max_len: int | None,
                    padding: Padding | None = None) -> tuple[dict[str, Array], dict[str, dict[str, int]]]:
    """Arrays of `inputs` (rows (N, A), sequences (N, T, D), float32) and the cleaning counts.

    Keys are audio, video, text or covarep, facet, glove; labels are ignored. A sequence keeps `max_len` steps, from the
    end that is not `padding`. Raises UserError, one line, for a file or array that doesn't fit `inputs`.
    """
    content = _content(path, tuple(one.name for one in inputs))
    arrays: dict[str, Array] = {}
    cleaning: dict[str, dict[str, int]] = {}
    for one in inputs:
        modality = one.name
        key = next((name for name in FEATURE_KEYS[modality] if name in content), None)
        if key is None:
            raise UserError(f"{path}: no array {modality!r}, found {checks.listed(content)}; {WAY_OUT}")
        raw = checks.features(content[key], one, f"{path}: {key}", WAY_OUT)
        if raw.shape[-1] != one.width:
            raise UserError(f"{path}: {key}: width {raw.shape[-1]} (shape {raw.shape}), expected "
                            f"{one.width}, the width that the model was trained on; "
                            "extract the same features or use a model trained on these")
        kept = keep_steps(raw, max_len, padding) if one.layout == "sequence" else raw
        arrays[modality], cleaning[modality] = clean(kept)
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        counted = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UserError(f"{path}: differing numbers of rows ({counted}), expected the same in all; {WAY_OUT}")
    return arrays, cleaning


def _content(path: Path, modalities: tuple[str, ...]) -> dict[str, Any]:
    """What the file holds, by key; arrays of other modalities and labels stay unread where possible."""
    readers = {".pkl": _pickle, ".npz": _npz, ".safetensors": _safetensors}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: suffix {path.suffix!r}, expected .npz, .safetensors or .pkl; {WAY_OUT}")
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such file; {WAY_OUT}")
    wanted = {key for modality in modalities for key in FEATURE_KEYS[modality]}
    try:
        return reader(path, wanted)
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and safetensors have an exception each for garbage
        detail = f"{type(error).__name__} {one_line(error)}"[:160]
        raise UserError(f"{path}: not a readable {path.suffix} file ({detail}); {WAY_OUT}") from error


def _pickle(path: Path, _: set[str]) -> dict[str, Any]:
    value = load_pickle(path, WAY_OUT)
    if not isinstance(value, dict):
        raise UserError(f"{path}: is a {type(value).__name__}, expected a dict; {WAY_OUT}")
    return checks.keys_of(value)


def _npz(path: Path, wanted: set[str]) -> dict[str, Any]:
    with open(path, "rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise UserError(f"{path}: a single .npy array, expected a .npz; {WAY_OUT}")
    return read_npz(path, wanted)


def _safetensors(path: Path, wanted: set[str]) -> dict[str, Any]:
    with open_tensors(path) as file:
        return {key: file.get_tensor(key) if key in wanted else None for key in file.keys()}  # noqa: SIM118
