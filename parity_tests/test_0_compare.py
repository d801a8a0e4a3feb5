"""The comparator itself: each way of being wrong must be caught."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from core.randomness import Array
from parity.compare import first_difference, gap
from parity.ladder import gradient_sizes

WANT = {"a": np.arange(1.0, 10.0).reshape(3, 3), "b": np.linspace(-1, 1, 12)}


def with_a(change: Callable[[Array], Array]) -> dict[str, Array]:
    return {"a": change(WANT["a"].copy()), "b": WANT["b"]}


def one_off(a: Array) -> Array:
    a[1, 2] += 1e-6
    return a


def one_nan(a: Array) -> Array:
    a[0, 0] = np.nan
    return a


MUTATIONS = {
    "permuted": with_a(lambda a: a[[1, 0, 2]]), "transposed": with_a(lambda a: a.T), "negated": with_a(lambda a: -a),
    "one element off": with_a(one_off), "NaN": with_a(one_nan), "shorter": with_a(lambda a: a[:2]),
    "renamed": {"A": WANT["a"], "b": WANT["b"]}, "missing": {"a": WANT["a"]},
    "extra": {**WANT, "c": WANT["a"]},
}


@pytest.mark.parametrize("mutation", list(MUTATIONS))
def test_mutation_is_caught(mutation: str) -> None:
    assert first_difference(MUTATIONS[mutation], WANT, 1e-9) is not None


def test_equal_tensors_agree_to_the_bit() -> None:
    assert first_difference({name: value.copy() for name, value in WANT.items()}, WANT, 0) is None


def test_nan_on_both_sides_is_no_agreement() -> None:
    broken = with_a(one_nan)
    assert first_difference(broken, broken, 1e-9) is not None


def test_the_message_names_the_tensor_and_the_size() -> None:
    message = first_difference(MUTATIONS["one element off"], WANT, 1e-9)
    assert message is not None
    assert message.startswith("a: max abs 1.000e-06 at (1, 2)")
    assert "ULP" in message and "cosine" in message


def test_a_gradient_that_cancels_is_measured_beside_the_others() -> None:
    """Zero here and 5.6e-17 there is rounding beside a gradient of 16; 1e-6 there is not."""
    want = {"weight": np.array([16.0, -3.0]), "small": np.array([1e-8, 2e-8]), "cancelled": np.array([0.0, 1e-16])}
    sizes = gradient_sizes(want)
    assert sizes == {"weight": None, "small": None, "cancelled": 16.0}
    assert gap(np.array([5.6e-17, 0.0]), want["cancelled"]).exceeds(1e-12), "by its own size it would be a difference"
    assert not gap(np.array([5.6e-17, 0.0]), want["cancelled"], sizes["cancelled"]).exceeds(1e-12)
    assert gap(np.array([1e-6, 0.0]), want["cancelled"], sizes["cancelled"]).exceeds(1e-12)
    assert gap(want["small"] * (1 + 1e-9), want["small"], sizes["small"]).exceeds(1e-12), "small ones stay strict"
