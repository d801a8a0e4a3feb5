"""Data that anyone can have: published shapes and scales, and a signal that no single modality holds.

Every row has a hidden sign and strength per modality. A MOSI score and an IEMOCAP class follow the
product of the three. Signs are balanced so that any one of them, and any two, say nothing about that
product: a model without one modality can't beat a constant, nor can one that only adds modalities up.

POM has too few rows (600) for sixteen traits of that kind: with labels around 4, LMF learns the
offset first and then rows by heart. So a quarter of its traits follows all three modalities, and a
quarter each pair of them; what the pairs teach the subnets makes the rest learnable. A single
modality still says nothing.

Where sequences are padded (core.data.synthetic_sequences), half of a score is the mean of what the
inputs say and half their product: every subset of inputs can be learned from, the more the better.

Only random bits, sums, products and comparisons are used, in fixed order: same bytes on every machine.
"""
from __future__ import annotations

import hashlib
import math

import numpy as np

from core.common.arrays import F64, Array
from core.data import draws
from core.data.cleaning import clean
from core.data.keys import DataKeys
from core.data.published import SPLITS
from core.data.record import Dataset, Split
from core.data.sequences import fit, pooled_note
from core.data.specs import DataSpec, InputSpec
from core.data.synthetic_sequences import FLIPPED, TEXT_SCALE, VISIBLE, labels, padded

VERSION = 1  # raise it when the numbers change
POSITIVE = {"happy": 0.15, "sad": 0.2, "angry": 0.25, "neutral": 0.4}  # about the published shares
PAIRS = (("audio", "video"), ("audio", "text"), ("video", "text"))
DEAD_AUDIO = {"iemocap": (36, 37, 38, 39)}  # constant channels of the published features
SCALES = {"audio": (0.39, 0.0005, 0.078), "video": (0.3, 0.001, 0.026)}  # largest |mean|, variance from, to


def synthetic(config: DataKeys) -> Dataset:
    """The data set that `config` names, generated. `config.seed` has no influence, `synthetic_seed` has.

    Each array has its own random stream: leaving a modality out does not change the others.
    """
    known, emotion = config.known, config.emotion
    origin = f"{VERSION}/{config.synthetic_seed}/{config.dataset}/{emotion or ''}"
    splits: dict[str, Split] = {}
    cleaning: dict[str, dict[str, dict[str, int]]] = {}
    for split, rows in zip(SPLITS, known.published.rows, strict=True):
        stream = f"{origin}/{split}"
        hidden = _hidden(stream, rows, POSITIVE.get(emotion or "", 0.5), known.names)
        arrays: dict[str, Array] = {}
        cleaning[split] = {}
        for modality in config.modalities:
            values = _values(origin, stream, known, known.of(modality), hidden[modality])
            arrays[modality], cleaning[split][modality] = clean(values)
        arrays["label"] = (labels(origin, stream, known.task, hidden) if known.padding else
                           _label(origin, stream, known, hidden))
        splits[split] = Split(fit({split: arrays}, config.described.inputs, config.max_len, known.padding)[split])
    described = config.described.measured(splits["train"].arrays)
    what = "described" if known.description else "published"
    notes = [f"synthetic data: its scores say nothing about the {what} data set", *pooled_note(described.inputs)]
    if len(config.modalities) < len(known.names):
        part, left = ("half of its signal", "less") if known.padding else ("its signal", "little or nothing")
        notes.append(f"{part} joins {', '.join(known.names[:-1])} and {known.names[-1]}: without one, {left} is left")
    made_of = f"synthetic/{origin}/{','.join(config.modalities)}/{described.steps}"
    if known.padding:  # several sequences, each of its own length or pooled
        made_of += f"/{[one.shape for one in described.inputs]}/{known.description}"
    return Dataset(described, emotion, splits, True, hashlib.sha256(made_of.encode()).hexdigest(), cleaning, None,
                   tuple(notes))


def _hidden(stream: str, rows: int, share: float, names: tuple[str, ...]) -> dict[str, F64]:
    """Hidden values (N,) per modality, in +-[0.6, 1]; their product is positive in `share` of the rows."""
    goal = draws.signs(rows, share, f"{stream}/goal")
    signs, last = {}, goal
    groups = {f"{value}": np.flatnonzero(goal == value) for value in (1.0, -1.0)}
    for name in names[:-1]:
        signs[name] = np.empty(rows)
        for key, chosen in groups.items():  # balanced within what went before, so that chance leaves no trace either
            signs[name][chosen] = draws.signs(len(chosen), 0.5, f"{stream}/{name}/{key}")
        groups = {f"{key}/{value}": chosen[signs[name][chosen] == value] for key, chosen in groups.items()
                  for value in (1.0, -1.0)}
        last = last * signs[name]
    signs[names[-1]] = last
    return {m: sign * (0.6 + 0.4 * draws.uniform(rows, f"{stream}/{m}/strength")) for m, sign in signs.items()}


def _values(origin: str, stream: str, known: DataSpec, one: InputSpec, hidden: F64) -> Array:
    """An input as it is published: rows (N, D), a sequence (N, T, D)."""
    if one.layout == "rows":
        return _dense(origin, stream, one, hidden, known.name)
    if known.padding:
        return padded(origin, stream, one, hidden, known.padding)
    return _text(origin, stream, hidden, *one.shape)


def _dense(origin: str, stream: str, one: InputSpec, hidden: F64, dataset: str) -> F64:
    """Rows (N, D), at the scales of the published BatchNorm statistics of audio or video."""
    modality, width = one.name, one.width
    mean_most, low, high = SCALES.get(one.settings, SCALES["video"])
    load = draws.loadings(width, VISIBLE["video"], f"{origin}/{modality}/loadings")  # (D,)
    scale = draws.uniform(2 * width, f"{origin}/{modality}/scales")
    mean = (2 * scale[:width] - 1) * mean_most  # (D,)
    deviation = np.sqrt(low + (high - low) * scale[width:] * scale[width:])  # (D,), most of them small
    noise = draws.noise(len(hidden) * width, f"{stream}/{modality}/noise").reshape(len(hidden), width)
    values = mean + deviation * (load * hidden[:, None] + np.sqrt(1 - load * load) * noise)  # (N, D)
    if modality == "audio":
        dead = list(DEAD_AUDIO.get(dataset, ()))
        values[:, dead] = mean[dead]
    return np.asarray(values)


def _text(origin: str, stream: str, hidden: F64, steps: int, width: int) -> F64:
    """(N, T, D): every word vector leans to one side of a direction, and is noise otherwise."""
    load = draws.loadings(width, VISIBLE["text"], f"{origin}/text/loadings")  # (D,)
    noise = draws.noise(len(hidden) * steps * width, f"{stream}/text/noise").reshape(len(hidden), steps, width)
    noise *= np.sqrt(1 - load * load)
    noise += load * hidden[:, None, None]
    noise *= TEXT_SCALE
    return noise


def _label(origin: str, stream: str, known: DataSpec, hidden: dict[str, F64]) -> Array:
    """(N,) int64 for a classification; (N, O) float32 within the scale for a regression."""
    product = hidden["audio"] * hidden["video"] * hidden["text"]  # (N,)
    rows, outputs = len(product), known.task.outputs
    if known.task.kind == "classification":
        flipped = draws.uniform(rows, f"{stream}/label/flipped") < FLIPPED
        return ((product > 0) ^ flipped).astype(np.int64)
    noise = draws.noise(rows * outputs, f"{stream}/label/noise").reshape(rows, outputs) / math.sqrt(3)  # in +-1
    if known.name == "mosi":
        return np.asarray((3 * (0.9 * product[:, None] + 0.1 * noise)).astype(np.float32))
    kinds = [hidden[one] * hidden[other] for one, other in PAIRS] + [product]
    source = np.stack([kinds[trait % 4] for trait in range(outputs)], axis=1)  # (N, 16)
    load = draws.loadings(outputs, 1.0, f"{origin}/label/loadings")  # (16,), traits of a kind agree or oppose
    return np.asarray((4 + 3 * load * (0.9 * source + 0.1 * noise)).astype(np.float32))
