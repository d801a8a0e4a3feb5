"""How two sets of named tensors are compared: never by a mean, always naming the first that differs."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from core.common.arrays import Array

# A number of this size rounds by as much as the smallest one that has all its digits: what is below may become 0.
UNDERFLOW = {np.float32: float(np.finfo(np.float32).tiny) * 2.0**24, np.float64: np.finfo(np.float64).tiny * 2.0**53}


@dataclass(frozen=True)
class Gap:
    """How far a tensor is from the expected one.

    max_abs: largest absolute difference; relative: that over the expected tensor's largest magnitude. Where `sized`,
    relative is the largest difference over the element's own size, what was summed into it, and max_abs is there;
    ulp: that in units of the last place of the expected element; cosine: of the flattened tensors.
    `problem` is set where no number can say it: other shape, or values that aren't finite.
    """

    max_abs: float = 0.0
    relative: float = 0.0
    ulp: float = 0.0
    cosine: float = 1.0
    where: tuple[int, ...] = ()
    got: float = 0.0
    want: float = 0.0
    problem: str | None = None
    sized: bool = False

    def exceeds(self, tolerance: float) -> bool:
        """Whether this is a difference; a tolerance of 0 asks for equal numbers."""
        return self.problem is not None or self.relative > tolerance

    def sentence(self, tolerance: float) -> str:
        """The gap in words."""
        beside = "what was summed into it" if self.sized else "the largest"
        return self.problem or (
            f"max abs {self.max_abs:.3e} at {self.where} ({self.got!r}, expected {self.want!r}), relative to {beside} "
            f"{self.relative:.3e} (allowed {tolerance:.1e}), {self.ulp:.0f} ULP, cosine {self.cosine:.12f}")


def gap(got: Array, want: Array, size: Array | float | None = None) -> Gap:
    """Compare one tensor, in float64. `size`: of each element or of all, if not the tensor's largest magnitude."""
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape:
        return Gap(problem=f"shape {got.shape}, expected {want.shape}")
    a, b = got.astype(np.float64), want.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Gap(problem=f"{int((~np.isfinite(a)).sum())} values are not finite, in the expected tensor "
                           f"{int((~np.isfinite(b)).sum())}")
    off = np.abs(a - b)
    if a.size == 0 or off.max() == 0:
        return Gap()
    precise = np.float32 if got.dtype == np.float32 else np.float64
    sizes = np.broadcast_to(np.abs(b).max() if size is None else np.asarray(size, np.float64), b.shape)
    if size is not None:
        sizes = sizes + UNDERFLOW[precise]
    shares = np.divide(off, sizes, out=np.where(off > 0, np.inf, 0.0), where=sizes > 0)
    where = tuple(int(i) for i in np.unravel_index(shares.argmax(), off.shape))
    place = float(np.spacing(precise(max(abs(b[where]), np.finfo(precise).tiny))))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return Gap(float(off[where]), float(shares[where]), float(off[where]) / place,
               float((a * b).sum()) / norms if norms else 0.0, where, float(a[where]), float(b[where]),
               sized=size is not None)


def consensus(found: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """The element in the middle of all, tensor by tensor: one that is wrong has no say. Of two there is no middle: the
    first stands for both. Names and shapes are those that most have; NaN counts as the largest.
    """
    if len(found) < 3:
        return dict(found[0])
    counts = Counter(name for one in found for name in one)
    middle = {}
    for name in (name for name, count in counts.items() if 2 * count > len(found)):
        arrays = [np.asarray(one[name]) for one in found if name in one]
        shape = Counter(array.shape for array in arrays).most_common(1)[0][0]
        stack = np.sort([array for array in arrays if array.shape == shape], axis=0)
        middle[name] = np.asarray(stack[(len(stack) - 1) // 2])
    return middle


def blamed(accused: Sequence[str]) -> str:
    """`torch`, or `torch or paddle (one more backend would tell)`."""
    return accused[0] if len(accused) == 1 else f"{' or '.join(accused)} (one more backend would tell)"


def first_difference(got: Mapping[str, Array], want: Mapping[str, Array], tolerance: float) -> str | None:
    """A sentence on the first tensor that differs, in the order of `want`; None when all agree."""
    missing, extra = sorted(want.keys() - got.keys()), sorted(got.keys() - want.keys())
    if missing or extra:
        return f"names differ: missing {missing}, unexpected {extra}"
    for name, expected in want.items():
        found = gap(got[name], expected)
        if found.exceeds(tolerance):
            return f"{name}: {found.sentence(tolerance)}"
    return None


def assert_same(got: Mapping[str, Array], want: Mapping[str, Array], tolerance: float) -> None:
    """Fail with the first difference."""
    problem = first_difference(got, want, tolerance)
    assert problem is None, problem
