"""How two sets of named tensors are compared: never by a mean, always naming the first that differs."""
from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.randomness import Array


def first_difference(got: Mapping[str, Array], want: Mapping[str, Array], tolerance: float) -> str | None:
    """A sentence on the first tensor that differs, in the order of `want`; None when all agree.

    A tensor differs when its names or shapes do, when one side isn't finite, or when any element is off
    by more than `tolerance` times the largest magnitude in `want`'s tensor (0 asks for equal bits).
    """
    missing, extra = sorted(want.keys() - got.keys()), sorted(got.keys() - want.keys())
    if missing or extra:
        return f"names differ: missing {missing}, unexpected {extra}"
    for name, expected in want.items():
        problem = _difference(np.asarray(got[name]), np.asarray(expected), tolerance)
        if problem:
            return f"{name}: {problem}"
    return None


def _difference(got: Array, want: Array, tolerance: float) -> str | None:
    if got.shape != want.shape:
        return f"shape {got.shape}, expected {want.shape}"
    a, b = got.astype(np.float64), want.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return f"{int((~np.isfinite(a)).sum())} values are not finite, expected {int((~np.isfinite(b)).sum())}"
    if a.size == 0 or (gap := np.abs(a - b)).max() <= tolerance * np.abs(b).max():
        return None
    where = tuple(int(i) for i in np.unravel_index(gap.argmax(), gap.shape))
    largest = np.abs(b).max()
    spacing = np.spacing(np.maximum(np.abs(want[where]), np.finfo(got.dtype).tiny).astype(got.dtype))
    cosine = float((a * b).sum() / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-300))
    return (f"max abs {gap.max():.3e} at {where} ({a[where]!r}, expected {b[where]!r}), relative to the largest "
            f"{gap.max() / max(largest, 1e-300):.3e} (allowed {tolerance:.1e}), {gap.max() / spacing:.0f} ULP, "
            f"cosine {cosine:.12f}")


def assert_same(got: Mapping[str, Array], want: Mapping[str, Array], tolerance: float) -> None:
    """Fail with the first difference."""
    problem = first_difference(got, want, tolerance)
    assert problem is None, problem
