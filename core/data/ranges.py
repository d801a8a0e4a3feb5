"""What a model was trained on, feature by feature: the lowest and highest value over the training rows.

Rows beyond it are no error, but what a model says about them was never learned. Ranges are kept in the checkpoint.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.common.arrays import Array
from core.common.errors import UserError
from core.data.specs import InputSpec

CHUNK = 2**20  # values that are looked at together: bounds memory
FAR = 100  # widths of the range: no value of real data that was measured lies more than 7 beyond it
NO_RANGES = "this checkpoint holds no training range (an older or a converted one): rows can't be held against it"


@dataclass(frozen=True)
class Outside:
    """Values of one modality beyond the training range.

    values: how many, of `total`; rows: in how many of `of_rows`. place: indices of the furthest, `value` there,
    trained on `low` to `high`; widths: how far beyond, in widths of the range.
    """

    modality: str
    values: int
    total: int
    rows: int
    of_rows: int
    place: tuple[int, ...]
    value: float
    low: float
    high: float
    widths: float

    @property
    def furthest(self) -> str:
        """`row 3, column 7 is 1e+08, trained on -0.2 to 0.4`."""
        names = ("row", "step", "column") if len(self.place) == 3 else ("row", "column")
        where = ", ".join(f"{name} {index}" for name, index in zip(names, self.place, strict=True))
        trained = f"{self.low:.4g} to {self.high:.4g}" if self.low < self.high else f"{self.low:.4g} alone"
        return f"{where} is {self.value:.4g}, trained on {trained}"

    def __str__(self) -> str:
        return (f"{self.modality}: {self.values} of {self.total} values ({100 * self.values / self.total:.2g} %), in "
                f"{self.rows} of {self.of_rows} rows, lie beyond the training range; the furthest, {self.widths:.3g} "
                f"widths of it beyond: {self.furthest}")


def ranges_of(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """`<modality>_low` and `<modality>_high`, (width,) in the dtype of the arrays, over rows and text steps."""
    found: dict[str, Array] = {}
    for modality, array in arrays.items():
        axes = tuple(range(array.ndim - 1))
        found[f"{modality}_low"], found[f"{modality}_high"] = np.min(array, axes), np.max(array, axes)
    return found


def check_ranges(ranges: Mapping[str, Array], inputs: Sequence[InputSpec], origin: str) -> None:
    """Refuse ranges that aren't those of `inputs`; none at all are fine. Raises UserError naming the tensor."""
    expected = {f"{one.name}_{end}": (one.width,) for one in inputs for end in ("low", "high")} if ranges else {}
    wrong = sorted(expected.keys() ^ ranges.keys())
    wrong += [name for name, shape in expected.items() if name in ranges and (
        ranges[name].shape != shape or ranges[name].dtype.kind != "f" or not np.isfinite(_float64(ranges[name])).all())]
    if not wrong:
        wrong = [f"{one.name}_low" for one in inputs
                 if ranges and (ranges[f"{one.name}_low"] > ranges[f"{one.name}_high"]).any()]  # type: ignore[operator]
    if wrong:
        raise UserError(f"{origin}: training range {', '.join(wrong)} does not fit the model, expected finite numbers, "
                        "low and high for each feature; use another checkpoint")


def outside(modality: str, values: Array, ranges: Mapping[str, Array], rows: Sequence[int] | None = None
            ) -> Outside | None:
    """What of `values`, (N, A) or (N, T, D), lies beyond `ranges`; None where nothing does. Only of `rows`, if given.

    A feature that was constant in training has no width: it is measured by the median width of the others.
    """
    if rows is not None:
        found = outside(modality, values[list(rows)], ranges)
        return found and replace(found, place=(int(rows[found.place[0]]), *found.place[1:]))
    lowest, highest = ranges[f"{modality}_low"], ranges[f"{modality}_high"]  # (D,)
    low, high = _float64(lowest), _float64(highest)
    width = high - low
    width[width == 0] = np.median(width[width > 0]) if (width > 0).any() else 1
    count, touched, best = 0, 0, (0.0, (0,) * values.ndim)
    step = max(1, CHUNK * len(values) // max(1, values.size))
    for start in range(0, len(values), step):
        part = values[start:start + step]
        beyond = (part < lowest) | (part > highest)  # type: ignore[operator]
        flat = np.flatnonzero(beyond)
        if not len(flat):
            continue
        count, touched = count + len(flat), touched + int(beyond.reshape(len(part), -1).any(axis=1).sum())
        column, there = flat % len(low), _float64(part).reshape(-1)[flat]
        distance = np.maximum(low[column] - there, there - high[column]) / width[column]
        first = int(distance.argmax())
        if distance[first] > best[0]:
            at = np.unravel_index(flat[first], part.shape)
            best = float(distance[first]), (start + int(at[0]), *(int(index) for index in at[1:]))
    if not count:
        return None
    widths, place = best
    feature = place[-1]
    return Outside(modality, count, values.size, touched, len(values), place, float(values[place]), float(low[feature]),
                   float(high[feature]), widths)


def _float64(array: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(array, np.float64)
