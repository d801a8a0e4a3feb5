"""Data that anyone can have: published shapes and scales, and a signal that no single modality holds.

Every row has a hidden sign and strength per modality. A MOSI score and an IEMOCAP class follow the
product of the three. Signs are balanced so that any one of them, and any two, say nothing about that
product: a model without one modality can't beat a constant, nor can one that only adds modalities up.

POM has too few rows (600) for sixteen traits of that kind: with labels around 4, LMF learns the
offset first and then rows by heart. So a quarter of its traits follows all three modalities, and a
quarter each pair of them; what the pairs teach the subnets makes the rest learnable. A single
modality still says nothing.

Only random bits, sums, products and comparisons are used, in fixed order: same bytes on every machine.
"""
from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np

from core.common.arrays import F64, Array
from core.common.bits import random_bits
from core.data.cleaning import clean
from core.data.keys import DataKeys
from core.data.published import DATASETS, SPLITS, inputs_of
from core.data.record import Dataset, Split
from core.data.specs import DataSpec

VERSION = 1  # raise it when the numbers change
POSITIVE = {"happy": 0.15, "sad": 0.2, "angry": 0.25, "neutral": 0.4}  # about the published shares
FLIPPED = 0.03  # share of IEMOCAP rows whose class is the wrong one: no model should reach 100 %
PAIRS = (("audio", "video"), ("audio", "text"), ("video", "text"))
DEAD_AUDIO = {"iemocap": (36, 37, 38, 39)}  # constant channels of the published features
SCALES = {"audio": (0.39, 0.0005, 0.078), "video": (0.3, 0.001, 0.026)}  # largest |mean|, variance from, to
TEXT_SCALE = 0.35  # standard deviation of a GloVe component
VISIBLE = {"audio": 0.9, "video": 0.9, "text": 0.5}  # correlation of a channel with the hidden value, at most


def synthetic(config: DataKeys) -> Dataset:
    """The data set that `config` names, generated. `config.seed` has no influence, `synthetic_seed` has.

    Each array has its own random stream: leaving a modality out does not change the others.
    """
    known, emotion = DATASETS[config.dataset], config.emotion
    origin = f"{VERSION}/{config.synthetic_seed}/{config.dataset}/{emotion or ''}"
    splits: dict[str, Split] = {}
    cleaning: dict[str, dict[str, dict[str, int]]] = {}
    for split, rows in zip(SPLITS, known.published.rows, strict=True):
        stream = f"{origin}/{split}"
        hidden = _hidden(stream, rows, POSITIVE.get(emotion or "", 0.5))
        arrays: dict[str, Array] = {}
        cleaning[split] = {}
        for modality in config.modalities:
            one = known.of(modality)
            if one.layout == "sequence":
                values = _text(origin, stream, hidden["text"], *one.shape)[:, :config.max_len]
            else:
                values = _dense(origin, stream, modality, hidden[modality], one.width, config.dataset)
            arrays[modality], cleaning[split][modality] = clean(values)
        arrays["label"] = _label(origin, stream, known, hidden)
        splits[split] = Split(arrays)
    described = replace(config.described, inputs=inputs_of(arrays))
    notes = ["synthetic data: its scores say nothing about the published data set"]
    if len(config.modalities) < len(known.names):
        notes.append("its signal joins audio, video and text: without one, little or nothing is left")
    made_of = f"synthetic/{origin}/{','.join(config.modalities)}/{described.steps}"
    return Dataset(described, emotion, splits, True, hashlib.sha256(made_of.encode()).hexdigest(), cleaning, None,
                   tuple(notes))


def _uniform(count: int, stream: str) -> F64:
    """float64 (count,) in [0, 1), 32 bits each, from the Philox stream that is named."""
    halves = random_bits((count + 1) // 2, stream).astype("<u8").view("<u4")[:count]
    return np.asarray(halves * 2.0**-32, np.float64)


def _noise(count: int, stream: str) -> F64:
    """float64 (count,), mean 0, variance 1, uniform: no transcendental function has a say in its bits."""
    return np.asarray((_uniform(count, stream) - 0.5) * math.sqrt(12))


def _signs(rows: int, share: float, stream: str) -> F64:
    """+1 in `share` of the rows, as exactly as whole rows allow, else -1; in random order."""
    order = np.argsort(_uniform(rows, stream), kind="stable")
    return np.asarray(np.where(order < round(rows * share), 1.0, -1.0), np.float64)


def _hidden(stream: str, rows: int, share: float) -> dict[str, F64]:
    """Hidden values (N,) per modality, in +-[0.6, 1]; their product is positive in `share` of the rows."""
    goal = _signs(rows, share, f"{stream}/goal")
    signs = {"audio": np.empty(rows), "video": np.empty(rows)}
    for value in (1.0, -1.0):  # balanced within each sign of the goal, so that chance leaves no trace either
        chosen = np.flatnonzero(goal == value)
        signs["audio"][chosen] = _signs(len(chosen), 0.5, f"{stream}/audio/{value}")
        for other in (1.0, -1.0):
            both = chosen[signs["audio"][chosen] == other]
            signs["video"][both] = _signs(len(both), 0.5, f"{stream}/video/{value}/{other}")
    signs["text"] = goal * signs["audio"] * signs["video"]
    return {m: sign * (0.6 + 0.4 * _uniform(rows, f"{stream}/{m}/strength")) for m, sign in signs.items()}


def _loadings(width: int, most: float, stream: str) -> F64:
    """(D,) in +-[0.7, 1] times `most`: how much of a channel is the hidden value."""
    draws = _uniform(2 * width, stream)
    return np.asarray(np.where(draws[:width] < 0.5, -most, most) * (0.7 + 0.3 * draws[width:]), np.float64)


def _dense(origin: str, stream: str, modality: str, hidden: F64, width: int, dataset: str) -> F64:
    """Audio or video (N, D), at the scales of the published BatchNorm statistics."""
    mean_most, low, high = SCALES[modality]
    load = _loadings(width, VISIBLE[modality], f"{origin}/{modality}/loadings")  # (D,)
    draws = _uniform(2 * width, f"{origin}/{modality}/scales")
    mean = (2 * draws[:width] - 1) * mean_most  # (D,)
    deviation = np.sqrt(low + (high - low) * draws[width:] * draws[width:])  # (D,), most of them small
    noise = _noise(len(hidden) * width, f"{stream}/{modality}/noise").reshape(len(hidden), width)
    values = mean + deviation * (load * hidden[:, None] + np.sqrt(1 - load * load) * noise)  # (N, D)
    if modality == "audio":
        dead = list(DEAD_AUDIO.get(dataset, ()))
        values[:, dead] = mean[dead]
    return np.asarray(values)


def _text(origin: str, stream: str, hidden: F64, steps: int, width: int) -> F64:
    """(N, T, D): every word vector leans to one side of a direction, and is noise otherwise."""
    load = _loadings(width, VISIBLE["text"], f"{origin}/text/loadings")  # (D,)
    noise = _noise(len(hidden) * steps * width, f"{stream}/text/noise").reshape(len(hidden), steps, width)
    noise *= np.sqrt(1 - load * load)
    noise += load * hidden[:, None, None]
    noise *= TEXT_SCALE
    return noise


def _label(origin: str, stream: str, known: DataSpec, hidden: dict[str, F64]) -> Array:
    """(N,) int64 for a classification; (N, O) float32 within the scale for a regression."""
    product = hidden["audio"] * hidden["video"] * hidden["text"]  # (N,)
    rows, outputs = len(product), known.task.outputs
    if known.task.kind == "classification":
        flipped = _uniform(rows, f"{stream}/label/flipped") < FLIPPED
        return ((product > 0) ^ flipped).astype(np.int64)
    noise = _noise(rows * outputs, f"{stream}/label/noise").reshape(rows, outputs) / math.sqrt(3)  # in +-1
    if known.name == "mosi":
        return np.asarray((3 * (0.9 * product[:, None] + 0.1 * noise)).astype(np.float32))
    kinds = [hidden[one] * hidden[other] for one, other in PAIRS] + [product]
    source = np.stack([kinds[trait % 4] for trait in range(outputs)], axis=1)  # (N, 16)
    load = _loadings(outputs, 1.0, f"{origin}/label/loadings")  # (16,), traits of a kind agree or oppose
    return np.asarray((4 + 3 * load * (0.9 * source + 0.1 * noise)).astype(np.float32))
