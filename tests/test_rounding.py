"""Numbers with their size and their gradient: held to exact arithmetic and to the oracle's own slope."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.rounding import (
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
from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.data.specs import LossKind, Reduction
from core.training.losses import Loss, loss_of
from core.training.plan import Batch
from core.training.randomness import Masks
from core.training.state import initial_state
from parity import oracle, rules

WIDTHS: dict[str, Any] = {"audio_hidden": 4, "video_hidden": 3, "text_hidden": 4}
CASES: dict[str, dict[str, Any]] = {
    "scores": {"dataset": "pom", "rank": 3}, "classes": {"dataset": "iemocap", "rank": 3},
    "post fusion": {"dataset": "pom", "rank": 3, "apply_post_fusion_dropout": True},
    "tfn": {"dataset": "mosi", "model": "tfn", "post_fusion_dim": 4, "apply_post_fusion_dropout": True},
    "tfn linear": {"dataset": "iemocap", "model": "tfn", "post_fusion_dim": 0},
    "mse": {"dataset": "pom", "loss": "mse"}, "huber": {"dataset": "pom", "loss": "huber", "huber_delta": 0.7},
    "mean": {"dataset": "pom", "loss_reduction": "mean"},
    "mean of classes": {"dataset": "iemocap", "loss_reduction": "mean"},
}
REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean")


@pytest.mark.parametrize("case", list(CASES))
def test_every_gradient_is_the_slope_of_the_loss(case: str) -> None:
    """Up to ten elements of each tensor, by central differences: with a step of 1e-6 good to about 1e-8 of the loss."""
    config = make_config({**WIDTHS, **CASES[case]})
    graph = build_graph(config, feature_inputs(audio=4, video=3, text=4, steps=3))
    draw = np.random.default_rng(0)
    inputs = {one.name: draw.normal(size=(7, *one.shape)) for one in graph.inputs}
    label: Array = (draw.integers(0, 2, 7) if graph.task.kind == "classification"
                    else draw.normal(size=(7, graph.task.outputs)))
    weights = dict(initial_state(graph, 3, "float64").weights)
    batch = Batch(inputs, label, Masks(graph.dropout_sites, 3, 0, "float64").rows(0, 7))
    trained = loss_of(config)

    def loss(name: str, value: Array) -> float:
        return trained.value(oracle.forward(graph, {**weights, name: value}, batch, train=True)["output"], label)

    found = rules.sized_gradients(trained, graph, weights, batch)
    assert list(found) == [p.name for p in graph.trainable]
    for name, gradient in found.items():
        allowed = 1e-8 * loss(name, weights[name])
        for place in draw.permutation(list(np.ndindex(gradient.shape)))[:10]:
            moved = [np.array(weights[name]) for _ in range(2)]
            moved[0][tuple(place)] += 1e-6
            moved[1][tuple(place)] -= 1e-6
            slope = (loss(name, moved[0]) - loss(name, moved[1])) / 2e-6
            assert gradient.value[tuple(place)] == pytest.approx(slope, rel=1e-7, abs=allowed), (name, place)
        assert (gradient.size >= np.abs(gradient.value) / 10).all(), "a computed number is rounded at least once"


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", get_args(LossKind))
def test_loss_is_that_of_the_trainer(kind: LossKind, reduction: Reduction) -> None:
    draw, loss = np.random.default_rng(1), Loss(kind, reduction, 0.7)
    output = draw.normal(size=(5, 3))
    label = np.array([0, 2, 1, 1, 0]) if kind == "cross_entropy" else draw.normal(size=(5, 3))
    found = rules.sized_loss(loss, rounded(output), label)
    assert float(found.value) == pytest.approx(loss.value(output, label), rel=1e-14)
    assert found.size > found.value


@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_a_loss_in_float32_is_off_by_a_few_roundoffs_of_its_size(kind: LossKind) -> None:
    """Outputs of about 30,000, errors of about 1, some at huber's delta: within 50 u, as parity.bounds allows."""
    draw, loss, unit = np.random.default_rng(5), Loss(kind, "sum", 0.7), 2.0**-24
    given, scale, delta = draw.uniform(0.5, 1.5, (40, 3)).astype(np.float32), np.float32(1e5 / 3), np.float32(0.7)
    label = (given * np.float64(scale) + draw.normal(0, 1, (40, 3))).astype(np.float32)
    label[:, 0] = (given[:, 0] * np.float64(scale) - 0.7).astype(np.float32)
    x = leaf(given)
    want = rules.sized_loss(loss, x * scale, label, 50 * unit)
    error = given * scale - label
    far = np.abs(error) > delta
    got = error * error if kind == "mse" else np.where(far, delta * (np.abs(error) - delta / 2), error * error / 2)
    slope = scale * (2 * error if kind == "mse" else np.where(far, delta * np.sign(error), error))
    assert got.dtype == slope.dtype == np.float32
    assert abs(float(got.sum()) - want.value) <= 50 * unit * want.size
    found = slopes(want, {"x": x})["x"]
    assert (np.abs(slope - found.value) <= 50 * unit * found.size).all()


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


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_every_operation_has_its_slope_in_both_arguments(name: str) -> None:
    """By central differences of a weighted sum, on numbers of about 1: a step of 1e-6 is good to about 1e-9 of it."""
    draw = np.random.default_rng(3)
    given = {"a": draw.normal(1, 0.5, (5, 4)), "b": draw.normal(2, 0.3, (5, 4))}
    weights = draw.normal(size=OPERATIONS[name](*given.values()).shape)
    leaves = {key: leaf(value) for key, value in given.items()}
    found = slopes((OPERATIONS[name](*leaves.values()) * weights).sum(), leaves)
    for key, value in given.items():
        for place in np.ndindex(value.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = value.copy()
                moved[place] += step
                ends.append((OPERATIONS[name](*{**given, key: moved}.values()) * weights).sum())
            slope = (ends[0] - ends[1]) / 2e-6
            assert found[key].value[place] == pytest.approx(slope, rel=1e-6, abs=1e-7), (key, place)
        assert (found[key].size >= np.abs(found[key].value) / 10).all(), "a computed number is rounded at least once"
