"""The comparator itself: each way of being wrong must be caught."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from core.common.arrays import Array
from parity.compare import consensus, first_difference, gap

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


def test_a_sum_that_cancels_is_measured_by_its_terms() -> None:
    """16 - 16 may leave 5.6e-17 or nothing; 1e-6 is a difference. Elements of another size are held to their own."""
    want, sizes = np.array([0.0, 1e-8]), np.array([32.0, 1e-8])
    assert gap(np.array([5.6e-17, 1e-8]), want).exceeds(1e-12), "by what is left of it, it would be a difference"
    assert not gap(np.array([5.6e-17, 1e-8]), want, sizes).exceeds(1e-12)
    assert gap(np.array([1e-6, 1e-8]), want, sizes).exceeds(1e-12)
    found = gap(np.array([0.0, 1e-8 * (1 + 1e-9)]), want, sizes)
    assert found.exceeds(1e-12) and found.where == (1,), "small ones stay strict"
    assert "relative to what was summed into it" in found.sentence(1e-12)


def test_what_underflows_is_no_difference() -> None:
    want = np.array([1e-40])
    assert not gap(np.array([0.0], np.float32), want, np.array([1e-40])).exceeds(1e-6)
    assert gap(np.array([0.0], np.float32), np.array([1e-20]), np.array([1e-20])).exceeds(1e-6)


def test_the_middle_of_three_is_no_outlier() -> None:
    """Whichever of three is wrong, in value, shape, name or by NaN, the middle is one of the others."""
    for wrong in MUTATIONS.values():
        for place in range(3):
            found: list[dict[str, Array]] = [WANT, WANT]
            found.insert(place, wrong)
            assert first_difference(consensus(found), WANT, 0) is None
    assert consensus([WANT, MUTATIONS["negated"]]) is not WANT
    assert first_difference(consensus([WANT, MUTATIONS["negated"]]), WANT, 0) is None, "of two, the first"
