"""Features whose scale the network loses: too large for the squares of a norm, below its eps, or saturating the LSTM.

A run on such features ends with exit code 0 and a branch that gives the same for every row. What is certain to be lost
is refused; what may be is a note. Constant channels are none of it: the published features hold some.
"""
from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from core.common.arrays import F64, Array
from core.common.constants import BATCHNORM_EPS, LAYERNORM_EPS
from core.common.errors import UserError
from core.config import Config
from core.data.findings import SCALE
from core.models.graph import Graph, Node

PASS = 256  # rows of sequences at a time
HALF = 0.6745  # standard deviations within which half of a normal distribution lies


def scale_notes(train: Mapping[str, Array], graph: Graph, config: Config, where: str) -> tuple[str, ...]:
    """Sentences about inputs of which the network loses some: those that go into BatchNorm, LayerNorm or an LSTM.

    train: rows (N, A), sequences (N, T, D). Raises UserError, one line with the way out, for an input of which it would
    lose everything.
    """
    looks = {"batch_norm": _dense, "layer_norm": _steps, "lstm": _sequence}
    notes: list[str] = []
    for node in graph.nodes:
        if node.kind in looks and node.inputs[0] < len(graph.inputs):
            name = graph.inputs[node.inputs[0]].name
            notes += looks[node.kind](np.asarray(train[name], np.float32), name, node, config, where)
    return tuple(f"{SCALE}: {note}" for note in notes)


def _dense(values: npt.NDArray[np.float32], modality: str, node: Node, config: Config,
           where: str) -> list[str]:
    """(N, D) before BatchNorm, which squares deviations from the mean and adds them over a batch, in the precision of
    the run. Where that overflows, the running variance is infinite from then on, and x / sqrt(inf) is 0."""
    batch, precision = min(config.batch_size, len(values)), np.finfo(config.precision)
    if batch < 2:
        return []  # one row is normalised by running statistics, whatever its scale is
    x: F64 = values.astype(np.float64)
    mean, variance = x.mean(0), x.var(0)  # (D,)
    deviation = np.abs(x - mean)  # (N, D)
    varies = variance > 0
    # what a batch usually adds up overflows, or one square alone
    dead = varies & (np.maximum(batch * variance, deviation.max(0)**2) > float(precision.max))
    # the batch's mean is rounded by eps / 2 of its size, and BatchNorm gives that instead of the spread
    noise = ~dead & (np.abs(mean) * float(precision.eps) / 2 > np.sqrt(variance + BATCHNORM_EPS))
    swallowed = varies & ~dead & ~noise & (variance < BATCHNORM_EPS)
    said = []
    if dead.any():
        column = int(np.argmax(dead))
        row = int(deviation[:, column].argmax())
        what = (f"{modality} column {column} is {x[row, column]:.3g} in row {row}, and the squares that BatchNorm adds "
                f"over a batch of {batch} overflow {config.precision}")
        if (dead == varies).all():
            raise UserError(f"{where}: train {what}, as in all {dead.sum()} columns that vary: what is left of "
                            f"{modality} is the same for every row; {_way_out(modality, config)}")
        said.append(f"{what}: {dead.sum()} of {len(dead)} columns give nothing; rescale them")
    if noise.any():
        column = int(np.argmax(noise))
        said.append(f"{modality} column {column} has the mean {mean[column]:.3g}, which {config.precision} rounds by "
                    f"more than its standard deviation, {math.sqrt(variance[column]):.3g}: {noise.sum()} of "
                    f"{len(noise)} columns become noise; subtract their means")
    if 2 * swallowed.sum() > varies.sum():
        kept = np.sqrt(variance[swallowed] / (variance[swallowed] + BATCHNORM_EPS))
        said.append(f"{modality} is too small for BatchNorm, whose eps of {BATCHNORM_EPS:g} is more than the variance "
                    f"in {swallowed.sum()} of {varies.sum()} columns that vary: of their scale {np.median(kept):.2g} "
                    "is left (median); rescale them to standard deviations near 1")
    return said


def _steps(values: npt.NDArray[np.float32], modality: str, node: Node, config: Config, where: str) -> list[str]:
    """(N, T, D) before LayerNorm, which squares the deviations of a step's numbers from their mean and adds them."""
    width = values.shape[-1]
    variance = np.concatenate([values[start:start + PASS].var(-1, dtype=np.float64)
                               for start in range(0, len(values), PASS)])  # (N, T)
    varies = variance[variance > 0]  # padding is zero
    if not len(varies):
        others = ", or leave it out" if len(config.modalities) > 1 else ""
        raise UserError(f"{where}: train {modality}: no step has two different numbers among its {width}, and "
                        f"LayerNorm leaves nothing of such; use --layer_norm false{others}")
    said, dead = [], varies * width > float(np.finfo(config.precision).max)
    if dead.any():
        row = int(variance.max(1).argmax())
        what = (f"{modality} holds {np.abs(values[row]).max():.3g} in row {row}, and the squares that LayerNorm adds "
                f"over a step's {width} numbers overflow {config.precision}")
        if dead.all():
            raise UserError(f"{where}: train {what}, as in all {dead.sum()} steps that vary; "
                            f"{_way_out(modality, config)}")
        said.append(f"{what}: {dead.sum()} of {len(dead)} steps give nothing; rescale them")
    swallowed = varies < LAYERNORM_EPS
    if 2 * swallowed.sum() > len(varies):
        kept = np.sqrt(varies[swallowed] / (varies[swallowed] + LAYERNORM_EPS))
        said.append(f"{modality} is too small for LayerNorm, whose eps of {LAYERNORM_EPS:g} is more than the variance "
                    f"in {swallowed.sum()} of {len(varies)} steps that vary: of their scale {np.median(kept):.2g} is "
                    f"left (median); rescale {modality}")
    return said


def _sequence(values: npt.NDArray[np.float32], modality: str, node: Node, config: Config,
              where: str) -> list[str]:
    """(N, T, D) before the LSTM: what its gates get of a word, by weights drawn within 1 / sqrt(hidden)."""
    precision, bound = np.finfo(config.precision), 1 / math.sqrt(node["hidden"])
    largest, width = max(float(values.max()), -float(values.min())), values.shape[-1]
    if largest * width * bound > float(precision.max):
        row = int(np.abs(values).reshape(len(values), -1).max(1).argmax())
        raise UserError(f"{where}: train {modality} holds {largest:.3g} in row {row}, and sums over a word's {width} "
                        f"numbers overflow {config.precision} in the LSTM; {_way_out(modality, config)}")
    norms = np.sqrt(np.einsum("ntd,ntd->nt", values, values))  # (N, T), inf or 0 where float32 has no square
    words = norms[norms > 0]  # padding is zero
    typical = float(np.median(words)) if len(words) else 0.0
    gate = typical * bound / math.sqrt(3)  # standard deviation of what uniform weights make of it
    flat = math.log(4 / float(precision.eps))  # beyond, a sigmoid is rounded to 1
    if HALF * gate > flat:
        return [f"{modality} saturates the LSTM: a typical word has the norm {typical:.3g}, and more than half of the "
                f"gates get more than {flat:.3g}, where {config.precision} knows no slope; rescale {modality}"]
    if typical < float(precision.eps):
        return [f"{modality} is too small for the LSTM: a typical word has the norm {typical:.3g}, which "
                f"{config.precision} rounds away beside biases; rescale {modality}"]
    return []


def _way_out(modality: str, config: Config) -> str:
    others = ",".join(m for m in config.modalities if m != modality)
    leave = f", or leave {modality} out with --modalities {others}" if others else ""
    wide = ", or use --precision float64" if config.precision == "float32" and config.amp_level == "O0" else ""
    return f"rescale {modality}{leave}{wide}"
