"""Numbers with their size and their gradient: held to exact arithmetic and to the oracle's own slope."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from core import oracle, rules
from core.config import make_config
from core.losses import summed_loss
from core.models import InputDims, build_spec
from core.plan import Batch
from core.randomness import Array, dropout_masks
from core.rounding import (
    Sized,
    absolute,
    leaf,
    relu,
    rounded,
    sigmoid,
    sized,
    slopes,
    sqrt,
    square,
    tanh,
    with_one,
)
from core.state import initial_state

CASES: dict[str, dict[str, Any]] = {
    "scores": {"dataset": "pom"}, "classes": {"dataset": "iemocap"},
    "post fusion": {"dataset": "pom", "apply_post_fusion_dropout": True},
    "tfn": {"dataset": "mosi", "model": "tfn", "post_fusion_dim": 4, "apply_post_fusion_dropout": True},
    "tfn linear": {"dataset": "iemocap", "model": "tfn", "post_fusion_dim": 0},
}


@pytest.mark.parametrize("case", list(CASES))
def test_every_gradient_is_the_slope_of_the_loss(case: str) -> None:
    """Up to ten elements of each tensor, by central differences: with a step of 1e-6 good to about 1e-8 of the loss."""
    config = make_config({"audio_hidden": 4, "video_hidden": 3, "text_hidden": 4, "rank": 3, **CASES[case]})
    spec = build_spec(config, InputDims(audio=4, video=3, text=4, steps=3))
    draw = np.random.default_rng(0)
    inputs = {m: draw.normal(size=(7, *spec.dims.row_shape(m))) for m in spec.modalities}
    label: Array = (draw.integers(0, 2, 7) if spec.task == "classification"
                    else draw.normal(size=(7, spec.output_dim)))
    weights = dict(initial_state(spec, 3, "float64").weights)
    batch = Batch(inputs, label, dropout_masks(spec, 3, 0, 7, "float64"))

    def loss(name: str, value: Array) -> float:
        return summed_loss(oracle.forward(spec, {**weights, name: value}, batch, train=True)["output"], label)

    found = rules.sized_gradients(spec, weights, batch)
    assert list(found) == [p.name for p in spec.trainable]
    for name, gradient in found.items():
        allowed = 1e-8 * loss(name, weights[name])
        for place in draw.permutation(list(np.ndindex(gradient.shape)))[:10]:
            moved = [np.array(weights[name]) for _ in range(2)]
            moved[0][tuple(place)] += 1e-6
            moved[1][tuple(place)] -= 1e-6
            slope = (loss(name, moved[0]) - loss(name, moved[1])) / 2e-6
            assert gradient.value[tuple(place)] == pytest.approx(slope, rel=1e-7, abs=allowed), (name, place)
        assert (gradient.size >= np.abs(gradient.value) / 10).all(), "a computed number is rounded at least once"


def test_loss_is_that_of_the_trainer() -> None:
    draw = np.random.default_rng(1)
    output = draw.normal(size=(5, 3))
    for label in (draw.normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])):
        found = rules.sized_loss(rounded(output), label)
        assert float(found.value) == pytest.approx(summed_loss(output, label), rel=1e-14)
        assert found.size > found.value


def test_what_cancels_keeps_the_size_of_its_terms() -> None:
    large = sized(np.array([1e8]))
    assert (large - large).size == 2e8
    assert (sized(np.array([[1e8, 1.0]])) @ np.array([[1.0], [-1e8]])).size == 2e8
    assert sized(np.array([1e8, -1e8])).sum().size == 2e8
    assert square(rounded(np.array([3.0]))).size == pytest.approx(9 * np.sqrt(5))


@pytest.mark.parametrize(("kinked", "jump"), [(relu, 1), (absolute, 2)])
def test_where_a_slope_jumps_its_size_is_the_jump(kinked: Callable[[Sized, float], Sized], jump: int) -> None:
    """1 - (1 - 1e-9) may come out at or below 0 in float32: the slope may be 0 (or -1). 1 - .5 can't."""
    x = leaf(np.array([1.0, 1.0]))
    gradient = slopes(kinked(x - np.array([1 - 1e-9, 0.5]), 3e-6).sum(), {"x": x})["x"]
    np.testing.assert_array_equal(gradient.value, [1, 1])
    assert 3e-6 * gradient.size[0] >= jump and gradient.size[1] < 10
    assert slopes(kinked(x - np.array([1 - 1e-9, 0.5]), 0.0).sum(), {"x": x})["x"].size.max() < 10


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b, "product": lambda a, b: a @ b.T, "sum": lambda a, b: (a * b).sum(0),
    "mean": lambda a, b: (a - a.sum(0) / len(a)) / sqrt_of(square_of(b).sum(0)), "tanh": lambda a, b: tanh_of(a @ b.T),
    "with one": lambda a, b: one_with(a) @ one_with(b).T,
}


def sqrt_of(x: Any) -> Any:
    return sqrt(x) if isinstance(x, Sized) else np.sqrt(x)


def square_of(x: Any) -> Any:
    return square(x) if isinstance(x, Sized) else x * x


def tanh_of(x: Any) -> Any:
    return tanh(x) * sigmoid(x) if isinstance(x, Sized) else np.tanh(x) * (0.5 * (1 + np.tanh(0.5 * x)))


def one_with(x: Any) -> Any:
    return with_one(x) if isinstance(x, Sized) else np.concatenate([np.ones((len(x), 1), x.dtype), x], 1)


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_float32_is_off_by_a_few_roundoffs_of_the_size(name: str) -> None:
    """NumPy's float32 on numbers of very different magnitude: within 50 u, as parity.bounds allows."""
    draw = np.random.default_rng(2)
    for scale in (1e-3, 1.0, 1e4):
        one, other = (draw.normal(shift, scale, (40, 30)).astype(np.float32) for shift in (1.0, -20.0))
        want = OPERATIONS[name](sized(one), sized(other))
        got = OPERATIONS[name](one, other)
        assert got.dtype == np.float32 and got.shape == want.shape
        assert (np.abs(got - want.value) <= 50 * 2.0**-24 * want.size).all()
