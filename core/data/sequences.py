"""What becomes of sequences (N, T, D) before a network takes them, and what is said about them.

A step is real where any of its numbers is not zero; everything else is padding, or a word that nothing is known of.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from core.common.arrays import Array
from core.data.specs import DataSpec, InputSpec, Padding

Splits = Mapping[str, Mapping[str, Array]]  # split -> name -> array
Real = npt.NDArray[np.bool_]


def real_steps(values: Array) -> Real:
    """(N, T): which steps of (N, T, D) are real."""
    return np.asarray(values.any(axis=2))


def keep_steps(values: Array, most: int | None, padding: Padding | None) -> Array:
    """(N, T, D) with at most `most` of its steps, contiguous; None: all. From the end that is not padding."""
    if most is None or values.shape[1] <= most:
        return np.ascontiguousarray(values)
    return np.ascontiguousarray(values[:, -most:] if padding == "front" else values[:, :most])


def mean_of_steps(values: Array) -> npt.NDArray[np.float32]:
    """(N, T, D) -> the mean over real steps (N, D) float32; zeros where a row has none."""
    total = np.zeros((len(values), values.shape[2]))
    for step in range(values.shape[1]):  # one after the other, in float64: same bits on every machine
        total += np.asarray(values[:, step], np.float64)
    count = real_steps(values).sum(axis=1)[:, None]  # (N, 1)
    return np.asarray((total / np.maximum(count, 1)).astype(np.float32))


def padding_of(sequences: Sequence[Array], described: Padding | None) -> Padding | None:
    """At which end the padding of these (N, T, D) is: where most rows that begin or end with zeros have them.

    `described` where none has; None where nothing is described, and sequences are taken as they are.
    """
    if described is None:
        return None
    front = end = 0
    for values in sequences:
        real = values[:, [0, -1]].any(axis=2)  # (N, 2), the first and the last step
        front, end = front + int((real[:, 1] & ~real[:, 0]).sum()), end + int((real[:, 0] & ~real[:, 1]).sum())
    return described if front == end else "front" if front > end else "end"


def fit(splits: Splits, inputs: Sequence[InputSpec], most: int | None, padding: Padding | None
        ) -> dict[str, dict[str, Array]]:
    """The arrays as `inputs` take them: at most `most` steps, and the mean over steps where an input is pooled."""
    return {split: {name: _fit(array, next((one for one in inputs if one.name == name), None), most, padding)
                    for name, array in arrays.items()} for split, arrays in splits.items()}


def _fit(values: Array, one: InputSpec | None, most: int | None, padding: Padding | None) -> Array:
    if one is None or values.ndim != 3:
        return values
    kept = keep_steps(values, most, padding)
    return mean_of_steps(kept) if one.layout == "rows" else kept


def pooled_note(inputs: Sequence[InputSpec]) -> tuple[str, ...]:
    """A sentence about the inputs that are means over steps, if there are any."""
    names = [one.name for one in inputs if one.layout == "rows" and one.pooled]
    return (f"{' and '.join(names)}: means over the steps that are not all zero, for a model that takes rows of it",
            ) if names else ()


def sequence_notes(splits: Splits, whole: DataSpec, padding: Padding | None) -> tuple[str, ...]:
    """Sentences about `splits` as they were read: where they are not as described, and rows that say little."""
    return tuple((*_other_shapes(splits, whole), *_other_padding(whole, padding), *_empty_rows(splits),
                  *_repeated_steps(splits)))


def _other_shapes(splits: Splits, whole: DataSpec) -> Iterator[str]:
    if whole.padding is None or whole.published.sha256:
        return
    train, said = splits["train"], "described" if whole.description else "published"
    others = [one for one in whole.inputs if one.name in train and train[one.name].shape[1:] != one.shape]
    if others:
        found, expected = (", ".join(f"{one.name} {'x'.join(map(str, shapes[one.name]))}" for one in others)
                           for shapes in ({name: array.shape[1:] for name, array in train.items()},
                                          {one.name: one.shape for one in others}))
        yield f"steps x width of a row: {found}; {said}: {expected}"
    rows = tuple(len(arrays["label"]) for arrays in splits.values())
    if rows != whole.published.rows and not whole.description:
        yield (f"rows of {', '.join(splits)}: {', '.join(map(str, rows))}; published: "
               f"{', '.join(map(str, whole.published.rows))}")


def _other_padding(whole: DataSpec, padding: Padding | None) -> Iterator[str]:
    if padding != whole.padding:
        found, kept = ("at the end", "first") if padding == "end" else ("in front", "last")
        told = "in front" if whole.padding == "front" else "at the end"
        yield f"padding is {found} of the sequences, described is {told}; max_len keeps their {kept} steps"


def _empty_rows(splits: Splits) -> Iterator[str]:
    counts = {f"{len(array)} of {split} {name}": int((~array.any(axis=(1, 2))).sum())
              for split, arrays in splits.items() for name, array in arrays.items() if array.ndim == 3}
    found = [f"{count} of {of}" for of, count in counts.items() if count]
    if found:
        yield f"rows that are zero at every step: {', '.join(found)}"


def _repeated_steps(splits: Splits) -> Iterator[str]:
    names = [name for name, array in splits["train"].items() if array.ndim == 3 and _repeats(array)]
    if names:
        yield f"{' and '.join(names)}: one vector per row of train, written at every real step: no sequence but in form"


def _repeats(values: Array) -> bool:
    """Whether all real steps of each row (N, T, D) are the same, in rows of two and more."""
    for some in (values[:32], values):  # the first rows of a sequence proper tell already
        real = real_steps(some)
        both = real[:, 1:] & real[:, :-1]  # (N, T - 1)
        if not both.any() or (some[:, 1:] != some[:, :-1]).any(axis=2)[both].any():
            return False
    return True
