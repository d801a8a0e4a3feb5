"""What is found in the data itself that makes a result worth less, though nothing in it is an error."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from core.common.arrays import Array
from core.data.ranges import FAR, outside
from core.data.record import Split
from core.data.specs import DataSpec

SCALE, SHARED, MISSING, DISTANT = "lost scale", "shared rows", "missing class", "distant rows"
HEADS = (SCALE, SHARED, MISSING, DISTANT)  # how the sentences begin, and what they are called in tables


def findings(splits: Mapping[str, Split], described: DataSpec, ranges: Mapping[str, Array]) -> tuple[str, ...]:
    """Sentences about `splits`; `ranges` are those of the training rows."""
    task = described.task
    return (*(f"{DISTANT}: {text}" for text in _distant(splits, described.names, ranges)),
            *(f"{MISSING}: {text}" for text in _missing(splits, task.names) if task.kind == "classification"),
            *(f"{SHARED}: {text}" for text in _shared(splits, described.names)))


def findings_among(notes: Iterable[str]) -> list[str]:
    """Those of the notes of a data set that `findings` made."""
    return [note for note in notes if note.split(":")[0] in HEADS]


def _distant(splits: Mapping[str, Split], modalities: Sequence[str], ranges: Mapping[str, Array]) -> Iterator[str]:
    """Validation and test rows that lie far beyond the training range: another unit, or a broken row."""
    for name in ("valid", "test"):
        for modality in modalities:
            found = outside(modality, splits[name].arrays[modality], ranges)
            if found and found.widths >= FAR:
                yield (f"{name} {modality} {found.furthest}, {found.widths:.3g} widths of that range beyond it; "
                       f"{found.rows} of {found.of_rows} rows hold values beyond the range; repair or rescale them")


def _missing(splits: Mapping[str, Split], names: Sequence[str]) -> Iterator[str]:
    for name, split in splits.items():
        for index, label in enumerate(names):
            if not (split.arrays["label"] == index).any():
                told = "nothing of it can be learned" if name == "train" else f"its {name} scores tell nothing of it"
                yield f"none of the {split.rows} rows of {name} is {label}; {told}"


def _shared(splits: Mapping[str, Split], modalities: Sequence[str]) -> Iterator[str]:
    """Rows of two splits with the same bits in all `modalities` and in the label.

    Only with the same label is it the same row: people say "I liked it" more than once. Rows of zeros say nothing.
    """
    sums = {name: _bit_sums(split.arrays, modalities) for name, split in splits.items()}
    for one, other in combinations(splits, 2):
        common = np.intersect1d(sums[one], sums[other])
        common = common[common > 0]  # 0: all bits are
        if not len(common):
            continue
        seen: dict[bytes, int] = {}
        for row in np.flatnonzero(np.isin(sums[one], common)):
            seen.setdefault(_row(splits[one], modalities, row), int(row))
        rows = [(int(row), seen[key]) for row in np.flatnonzero(np.isin(sums[other], common))
                if (key := _row(splits[other], modalities, row)) in seen]
        if rows:
            yield (f"{len(rows)} of {splits[other].rows} rows of {other} are also in {one}, the first: row "
                   f"{rows[0][0]}, there row {rows[0][1]} (same {', '.join(modalities)} and label); their scores tell "
                   "nothing of new rows")


def _bit_sums(arrays: Mapping[str, Array], modalities: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Per row the sum of its values' bits, (N,): equal for equal rows, and much cheaper than comparing all."""
    sums = [_bits(arrays[m]).sum(axis=1, dtype=np.uint64) for m in modalities]
    return np.asarray(np.sum(sums, axis=0), np.uint64)


def _bits(array: Array) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(array, np.float32).view(np.uint32).reshape(len(array), -1)


def _row(split: Split, modalities: Sequence[str], row: int) -> bytes:
    return b"".join(split.arrays[name][row].tobytes() for name in (*modalities, "label"))
