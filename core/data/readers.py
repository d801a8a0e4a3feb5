"""The published pickle schemas, checked.

MOSI and POM: {split: {covarep, facet, glove, label}}; IEMOCAP: {emotion: {split: {the same}}}; aligned sequences:
{split: {vision, text, audio, labels}}. Keys are bytes or str; an input has the names of `keys_in_files`. What else
a split holds, such as `id`, is not looked at. A .npz holds the same as `train/audio` or `train_audio`.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.common.arrays import Array
from core.common.errors import UserError, one_line
from core.data import checks
from core.data.archives import read_npz
from core.data.cleaning import clean
from core.data.published import REPAIR, SPLITS, keys_in_files
from core.data.specs import DataSpec, InputSpec
from core.data.unpickle import load_pickle


@dataclass
class Part:
    """One data set, or one emotion of IEMOCAP, as read and cleaned.

    arrays: split -> inputs, rows (N, A) or sequences (N, T, D), float32, and label. cleaning: split ->
    modality -> counts. useless: modality -> why nothing can be learned from its train split.
    """

    arrays: dict[str, dict[str, Array]] = field(default_factory=dict)
    cleaning: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    useless: dict[str, str] = field(default_factory=dict)


def read_published(path: Path, known: DataSpec) -> dict[str, Part]:
    """Every part of the file `path`: {"": part}, or {emotion: part} where the data set has several.

    A modality may be absent, but then from all splits. Raises UserError, one line naming file,
    split, key, value and expectation, for whatever is wrong.
    """
    if path.suffix == ".npz":
        top: dict[str, Any] = _archive(path, known)
    else:
        top = _mapping(load_pickle(path, REPAIR, known.way_out_of_damage(path)), str(path))
    if not known.parts:
        return {"": _part(top, str(path), known)}
    emotions = [emotion for emotion in known.parts if emotion in top]
    if not emotions:
        raise UserError(f"{path}: has {checks.listed(top)}, expected the emotions {', '.join(known.parts)}; "
                        f"{REPAIR}")
    parts = {}
    for emotion in emotions:
        where = f"{path}: {emotion}"
        parts[emotion] = _part(_mapping(top[emotion], where), where, known)
    return parts


def _archive(path: Path, known: DataSpec) -> dict[str, Any]:
    """What a .npz holds under `train/audio` or `train_audio`, as a pickle has it: by split, then by key."""
    keys = {*known.label_keys, *(key for one in known.inputs for key in keys_in_files(one))}
    places = {f"{split}{mark}{key}": (split, key) for split in SPLITS for key in keys for mark in "/_"}
    try:
        found = read_npz(path, set(places))
    except Exception as error:  # zipfile, zlib and NumPy have an exception each for garbage
        detail = f"{type(error).__name__} {one_line(error)}"[:160]
        raise UserError(f"{path}: not a readable .npz file ({detail}); write it again with numpy.savez") from error
    top: dict[str, Any] = {}
    for name, (split, key) in places.items():
        if name in found:
            top.setdefault(split, {})[key] = found[name]
    return top


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: is a {type(value).__name__}, expected a dict; {REPAIR}")
    return checks.keys_of(value)


def _part(top: dict[str, Any], where: str, known: DataSpec) -> Part:
    part = Part()
    for split in SPLITS:
        if split not in top:
            raise UserError(f"{where}: no split {split!r}, found {checks.listed(top)}, expected "
                            f"{', '.join(SPLITS)}; {REPAIR}")
        _read_split(part, split, _mapping(top[split], f"{where}: {split}"), where, known)
    _check_splits_agree(part, where, known)
    return part


def _read_split(part: Part, split: str, content: dict[str, Any], where: str, known: DataSpec) -> None:
    arrays: dict[str, Array] = {}
    part.cleaning[split] = {}
    for one in known.inputs:
        modality = one.name
        key = next((name for name in keys_in_files(one) if name in content), None)
        if key is None:
            continue
        place = f"{where}: {split} {key}"
        raw = checks.features(content[key], one, place, REPAIR)
        if known.description and raw.shape[-1] != one.width:
            raise UserError(f"{place}: shape {raw.shape}, expected the width {one.width} of the data description; "
                            "correct one of the two")
        arrays[modality], counts = clean(raw)
        part.cleaning[split][modality] = counts
        if split == "train":
            reason = _useless(arrays[modality], sum(counts.values()))
            if reason:
                part.useless[modality] = f"{place}: {reason}"
    key = next((name for name in known.label_keys if name in content), None)
    if key is None:
        wanted = " or ".join(map(repr, known.label_keys))
        raise UserError(f"{where}: {split}: no key {wanted}, found {checks.listed(content)}; {REPAIR}")
    arrays["label"] = checks.label(content[key], known, f"{where}: {split} {key}", REPAIR)
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        counted = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UserError(f"{where}: {split}: differing numbers of rows ({counted}), expected the same in all; "
                        f"{REPAIR}")
    part.arrays[split] = arrays


def _useless(values: Array, cleaned: int) -> str | None:
    """Why a modality can't tell rows apart: None when it can, or when there is only one row."""
    if cleaned == values.size:
        return f"all {values.size} values are NaN or infinite"
    if len(values) > 1 and not (values != values[:1]).any():
        return f"all {len(values)} rows are the same (constant)"
    return None


def _check_splits_agree(part: Part, where: str, known: DataSpec) -> None:
    train = part.arrays["train"]
    for split in SPLITS[1:]:
        for one in known.inputs:
            modality = one.name
            expected, found = train.get(modality), part.arrays[split].get(modality)
            if expected is None and found is None:
                continue
            if expected is None or found is None:
                lacking = "train" if expected is None else split
                raise UserError(f"{where}: {lacking}: no key {keys_in_files(one)[0]!r} ({modality}), "
                                f"expected it in all splits or in none; {REPAIR}")
            if expected.shape[1:] != found.shape[1:]:
                wanted = ", ".join(map(str, expected.shape[1:]))
                raise UserError(f"{where}: {split} {modality}: shape {found.shape}, expected "
                                f"(rows, {wanted}) as in train; {REPAIR}")


READERS = {"splits": read_published}  # a description's `reader` -> (path, description) -> parts


def missing_modality(where: str, one: InputSpec, present: tuple[str, ...]) -> str:
    """The message for an input that was asked for and that no split has."""
    return (f"{where}: no key {keys_in_files(one)[0]!r} ({one.name}) in any split; "
            f"leave it out with --modalities {','.join(present)}")
