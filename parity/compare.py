"""How two sets of named tensors are compared: never by a mean, always naming the first that differs."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from core.randomness import Array


@dataclass(frozen=True)
class Gap:
    """How far a tensor is from the expected one.

    max_abs: largest absolute difference; relative: that over the expected tensor's largest magnitude, or over
    `size` where it was given;
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

    def exceeds(self, tolerance: float) -> bool:
        """Whether this is a difference; a tolerance of 0 asks for equal numbers."""
        return self.problem is not None or self.relative > tolerance

    def sentence(self, tolerance: float) -> str:
        """The gap in words."""
        return self.problem or (
            f"max abs {self.max_abs:.3e} at {self.where} ({self.got!r}, expected {self.want!r}), relative to the "
            f"largest {self.relative:.3e} (allowed {tolerance:.1e}), {self.ulp:.0f} ULP, cosine {self.cosine:.12f}")


def gap(got: Array, want: Array, size: float | None = None) -> Gap:
    """Compare one tensor, in float64."""
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
    where = tuple(int(i) for i in np.unravel_index(off.argmax(), off.shape))
    largest = float(np.abs(b).max()) if size is None else size
    precise = np.float32 if got.dtype == np.float32 else np.float64
    place = float(np.spacing(precise(max(abs(b[where]), np.finfo(precise).tiny))))
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return Gap(float(off.max()), float(off.max()) / largest if largest else float("inf"), float(off.max()) / place,
               float((a * b).sum()) / norms if norms else 0.0, where, float(a[where]), float(b[where]))


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
