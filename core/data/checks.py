"""Checks of single arrays, shared by training data and data without labels."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from core.common.errors import UserError
from core.data.specs import DataSpec, InputSpec
from core.data.unpickle import UnreadArray

Numbers = npt.NDArray[Any]  # integers or floats of any width
SHAPES = {"rows": "(rows, width)", "sequence": "(rows, steps, width)"}  # layout -> axes


def keys_of(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    """`mapping` with text keys: Python 2 wrote byte strings."""
    return {key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key): value
            for key, value in mapping.items()}


def listed(names: Mapping[str, Any]) -> str:
    """The keys of a mapping for a message: quoted, on one line, not too many."""
    shown = ", ".join(repr(name[:40]) for name in list(names)[:8])
    return (shown or "nothing") + (", ..." if len(names) > 8 else "")


def numeric(value: Any, where: str, way_out: str) -> Numbers:
    """`value` if it is a NumPy array of integers or floats. Raises UserError otherwise."""
    if isinstance(value, UnreadArray):
        raise UserError(f"{where}: dtype {value.code[:20]!r} (no plain numbers), expected numbers; "
                        f"{way_out}")
    if not isinstance(value, np.ndarray):
        raise UserError(f"{where}: is a {type(value).__name__}, expected a NumPy array of numbers; {way_out}")
    if value.dtype.kind not in "iuf":
        raise UserError(f"{where}: dtype {value.dtype}, expected integers or floats; {way_out}")
    return value


def features(value: Any, one: InputSpec, where: str, way_out: str) -> Numbers:
    """Rows (N, D) or sequences (N, T, D). Rows as (N, 1, D) lose the middle axis, as in the original.

    Raises UserError for anything else, and for an axis of length 0.
    """
    array = numeric(value, where, way_out)
    axes = SHAPES[one.layout]
    if one.layout == "rows" and array.ndim == 3 and array.shape[1] == 1:
        array = array[:, 0]
    elif one.layout == "rows" and array.ndim == 3 and 0 not in array.shape:
        raise UserError(f"{where}: shape {array.shape}, a sequence of {array.shape[1]} steps in each row; LMF and TFN "
                        f"take one vector per row, {axes}, and this data set has no sequences of {one.name}; average "
                        "over the steps, array.mean(axis=1), with padding left out, or describe the data as sequences "
                        "(docs/data.md)")
    if array.ndim != axes.count(",") + 1 or 0 in array.shape:
        raise UserError(f"{where}: shape {array.shape}, expected {axes}, "
                        f"none of them 0; {way_out}")
    return array


def label(value: Any, known: DataSpec, where: str, way_out: str) -> npt.NDArray[np.float32 | np.int64]:
    """Regression: float32 (N, O). Classification: int64 (N,), out of one-hot rows or of classes counted from 0.

    Raises UserError for a wrong shape, NaN, a value out of range, or a row that isn't one-hot.
    """
    array = numeric(value, where, way_out)
    shape = array.shape
    if array.ndim == 3 and shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1:
        array = array[:, None]
    if known.label_columns:
        array = _columns(array, known, where, way_out)
    counted = known.task.kind == "classification" and array.ndim == 2 and array.shape[1] == 1  # (N, 1): classes
    if counted and len(array):
        return _counted(array[:, 0], known.task.outputs, where, way_out)
    if array.ndim != 2 or array.shape[1] != known.task.outputs or not len(array):
        raise UserError(f"{where}: shape {shape}, expected (rows, {known.task.outputs}); {way_out}")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        row, column = bad[0]
        raise UserError(f"{where}: {array[row, column]} in row {row}, column {column} ({len(bad)} such), "
                        f"expected finite labels; {way_out}")
    if known.task.label_range is None:
        return _class_index(array, where, way_out)
    low, high = known.task.label_range
    bad = np.argwhere((array < low) | (array > high))
    if len(bad):
        row, column = bad[0]
        raise UserError(f"{where}: {array[row, column]:g} in row {row}, column {column} ({len(bad)} such), "
                        f"expected {low:g} to {high:g}; {way_out}")
    return array.astype(np.float32, order="C")


def _columns(array: Numbers, known: DataSpec, where: str, way_out: str) -> Numbers:
    """Those that are used of (rows, columns)."""
    if array.ndim != 2 or array.shape[1] <= max(known.label_columns):
        raise UserError(f"{where}: shape {array.shape}, expected (rows, columns) with a column "
                        f"{max(known.label_columns)}, counted from 0, which the data description names; {way_out}")
    return array[:, list(known.label_columns)]


def _counted(array: Numbers, classes: int, where: str, way_out: str) -> npt.NDArray[np.int64]:
    """Classes (N,) as numbers from 0."""
    bad = np.flatnonzero(~np.isin(array, np.arange(classes)))
    if len(bad):
        raise UserError(f"{where}: {array[bad[0]]:g} in row {bad[0]} ({len(bad)} such rows), expected a class as a "
                        f"whole number from 0 to {classes - 1}; {way_out}")
    return array.astype(np.int64)


def _class_index(array: Numbers, where: str, way_out: str) -> npt.NDArray[np.int64]:
    one_hot = np.all((array == 0) | (array == 1), axis=1) & ((array == 1).sum(axis=1) == 1)  # (N,)
    if not one_hot.all():
        row = int(np.argmin(one_hot))
        values = " ".join(f"{value:g}" for value in array[row])
        raise UserError(f"{where}: [{values}] in row {row} ({int((~one_hot).sum())} such rows), expected "
                        f"one-hot rows of {array.shape[1]}; {way_out}")
    return np.asarray(array.argmax(axis=1), np.int64)
