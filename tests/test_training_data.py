"""Training as data: losses, learning rates and bounded pieces of an epoch, against torch and by hand."""
from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.errors import UserError
from core.config import Config, build_graph, make_config
from core.data.published import feature_inputs
from core.data.specs import LossKind, Reduction
from core.models.graph import Graph
from core.runtime.worker import Worker
from core.training import plan as plans
from core.training.losses import Loss, loss_of
from core.training.plan import EpochPlan, GivenMasks, make_plan
from core.training.randomness import Masks
from tests.running import needs

INPUTS = feature_inputs(audio=7, video=5, text=6, steps=4)
UNIT = 2.0**-53
REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean")
# sha256 of the masks of a whole epoch, as the project drew them when it made them all at once.
LMF = {"dataset": "pom", "rank": 3, "apply_post_fusion_dropout": True}
ODD = {"dataset": "mosi", "rank": 5, "apply_post_fusion_dropout": True, "audio_dropout": 0.15, "text_hidden": 9,
       "precision": "float64"}
TFN = {"dataset": "iemocap", "model": "tfn", "apply_post_fusion_dropout": True, "audio_hidden": 2, "video_hidden": 3,
       "text_hidden": 7, "text_out": 4, "modalities": "audio,text"}
WHOLE: list[tuple[dict[str, object], int, int, int, dict[str, str]]] = [
    (LMF, 11, 2, 45, {"audio_subnet": "33ff8f3037f44646", "video_subnet": "5120cb92b081d95e",
                      "text_subnet": "8655d1f5d49969c3", "fusion": "8bad792df544dbd5"}),
    (ODD, 3, 0, 31, {"audio_subnet": "cc9cca0630b6d2e7", "video_subnet": "810a0d44c86057d5",
                     "text_subnet": "bdc8187c8d2b1682", "fusion": "0a382d5348b30030"}),
    (TFN, 5, 7, 20, {"audio_subnet": "b6d8db856f89362b", "text_subnet": "9d62a7aa773acfca",
                     "fusion": "d5bae1ab8df75e19"}),
]


@pytest.fixture(scope="module")
def torch_worker() -> Iterator[Worker]:
    needs("torch")
    worker = Worker("torch")
    yield worker
    worker.close()


def made(values: dict[str, object]) -> tuple[Config, Graph]:
    config = make_config(values)
    return config, build_graph(config, INPUTS)


@pytest.mark.parametrize(("values", "seed", "epoch", "rows", "digests"), WHOLE, ids=["lmf", "odd widths", "tfn"])
def test_masks_are_those_of_earlier_versions(values: dict[str, object], seed: int, epoch: int, rows: int,
                                             digests: dict[str, str]) -> None:
    """And any piece of them is that piece of the whole, bit for bit: widths are odd, so pieces begin within a draw."""
    config, graph = made(values)
    masks = Masks(graph.dropout_sites, seed, epoch, config.precision)
    whole = masks.rows(0, rows)
    assert {name: hashlib.sha256(mask.tobytes()).hexdigest()[:16] for name, mask in whole.items()} == digests
    assert all(mask.dtype == config.precision for mask in whole.values())
    assert masks.row_bytes == sum(mask[:1].nbytes for mask in whole.values()) == GivenMasks(whole).row_bytes
    for start, stop in [(0, 0), (0, 1), (1, 2), (3, 3), (2, 9), (5, rows), (rows - 1, rows)]:
        for source in (masks, GivenMasks(whole)):
            for name, mask in source.rows(start, stop).items():
                assert mask.tobytes() == whole[name][start:stop].tobytes(), (name, start, stop)


@pytest.mark.parametrize(("memory", "pieces"), [(1 << 26, 1), (1, 6), (2000, 6), (5000, 3)])
def test_pieces_are_the_steps_in_order_and_bounded(monkeypatch: pytest.MonkeyPatch, memory: int, pieces: int) -> None:
    """45 rows in batches of 8, the last of 5. A step is never cut, however little memory there is."""
    monkeypatch.setattr(plans, "MASK_BYTES", memory)
    config, graph = made({**LMF, "batch_size": 8, "text_hidden": 9, "audio_hidden": 2})
    plan = make_plan(graph, config, 2, 45)
    assert plan.bounds[-1] == (40, 45) and plan.sizes.tolist() == [8] * 5 + [5] and plan.order.shape == (45,)
    steps = list(plan.pieces())
    assert [step for first, last in steps for step in range(first, last)] == list(range(6)) and len(steps) == pieces
    whole = plan.masks(0, 6)
    for first, last in steps:
        masks = plan.masks(first, last)
        assert last == first + 1 or sum(mask.nbytes for mask in masks.values()) <= memory
        start, stop = plan.bounds[first][0], plan.bounds[last - 1][1]
        for name, mask in masks.items():
            assert mask.tobytes() == whole[name][start:stop].tobytes()


def test_a_plan_without_dropout_is_one_piece() -> None:
    config, graph = made({"dataset": "mosi", "audio_dropout": 0, "video_dropout": 0, "text_dropout": 0})
    plan = make_plan(graph, config, 0, 33)
    assert list(plan.pieces()) == [(0, 3)] and plan.masks(0, 3) == {}


RATES = {"learning_rate": 0.003, "factor_learning_rate": 0.0005}


def test_constant_rates_are_the_groups() -> None:
    config, graph = made({"dataset": "mosi", "weight_decay": 0.01, **RATES})
    rates = {group.name: (group.rate, group.decay) for group in graph.groups}
    assert rates == {"factors": (0.0005, 0.01), "others": (0.003, 0.01)}
    for epoch in (0, 499):
        plan = make_plan(graph, config, epoch, 80)
        assert plan.rates.tolist() == [[group.rate for group in graph.groups]] * 5


def test_cosine_is_torch_s(torch_worker: Worker) -> None:
    """torch multiplies its way on, three roundings a step, where 1 + cos itself cancels: off by a few units of 2."""
    config, graph = made({"dataset": "mosi", "schedule": "cosine", "epochs": 7, "batch_size": 8, **RATES})
    got = np.concatenate([make_plan(graph, config, epoch, 45).rates for epoch in range(7)])  # (42, 2)
    first = np.array([group.rate for group in graph.groups])
    want = np.array(torch_worker.run("tests.torch_answers:cosine", first.tolist(), 42))
    assert got.shape == want.shape == (42, 2) and (got[0] == first).all()
    assert (np.abs(got - want) <= 3 * 42 * UNIT * want + 8 * UNIT * first).all()
    assert (np.diff(got, axis=0) < 0).all() and (got[-1] > 0).all()
    closed = [[(1 + math.cos(math.pi * t / 42)) / 2 * rate for rate in first] for t in range(42)]
    np.testing.assert_allclose(got, closed, rtol=0, atol=8 * UNIT * first.max())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", get_args(LossKind))
def test_losses_are_torch_s(torch_worker: Worker, kind: LossKind, reduction: Reduction) -> None:
    """Off by a rounding for each of up to 48 positive terms, whose own size is at most that of a few logits."""
    draw, loss = np.random.default_rng(1), Loss(kind, reduction, 0.7)
    output = draw.normal(0, 2, (12, 4))
    label: Array = draw.integers(0, 4, 12) if kind == "cross_entropy" else draw.normal(0, 2, (12, 4))
    if kind != "cross_entropy":
        label[0], label[1] = output[0], output[1] - 0.7  # no error, and one at delta
    want = torch_worker.run("tests.torch_answers:loss", kind, reduction, 0.7, output, label)
    assert loss.value(output, label) == pytest.approx(want, rel=64 * UNIT, abs=64 * UNIT * np.abs(output).max())
    terms = loss.terms(output, label)
    assert terms.shape == ((12,) if kind == "cross_entropy" else (12, 4)) and (terms >= 0).all()


def test_an_epoch_s_loss_is_that_of_its_rows() -> None:
    """From the steps' losses, 5 rows in 2, 2 and 1: a sum is per row, a mean that of all."""
    draw = np.random.default_rng(0)
    output, label, rows = draw.normal(size=(5, 3)), draw.normal(size=(5, 3)), np.array([2.0, 2.0, 1.0])
    for reduction in REDUCTIONS:
        loss = Loss("mse", reduction)
        steps = np.array([loss.value(output[part], label[part]) for part in (slice(2), slice(2, 4), slice(4, 5))])
        assert loss.of_epoch(steps, rows) == pytest.approx(loss.shown(output, label), rel=16 * UNIT)
    summed, mean = (Loss("l1", reduction).shown(output, label) for reduction in REDUCTIONS)
    assert summed == pytest.approx(3 * mean), "a sum per row is over its outputs"


def test_the_loss_of_a_configuration() -> None:
    assert loss_of(make_config({"dataset": "pom"})) == Loss("l1", "sum", 1.0)
    assert loss_of(make_config({"dataset": "iemocap"})) == Loss("cross_entropy", "sum", 1.0)
    given = {"dataset": "mosi", "loss": "huber", "loss_reduction": "mean", "huber_delta": 0.5}
    assert loss_of(make_config(given)) == Loss("huber", "mean", 0.5)


@pytest.mark.parametrize(("values", "words"), [
    ({"dataset": "mosi", "loss": "cross_entropy"},
     "loss = 'cross_entropy' (from --loss): mosi is a regression; use l1 or mse or huber"),
    ({"dataset": "iemocap", "loss": "l1"}, "loss = 'l1' (from --loss): iemocap is a classification; use cross_entropy"),
    ({"dataset": "mosi", "loss": "hinge"}, "loss = 'hinge' (from --loss): should be 'l1', 'mse', 'huber' or"),
    ({"dataset": "mosi", "loss_reduction": "none"}, "loss_reduction = 'none'"),
    ({"dataset": "mosi", "huber_delta": 0}, "huber_delta = 0"),
    ({"dataset": "mosi", "schedule": "step"}, "schedule = 'step'"),
    ({"dataset": "mosi", "selection": "F1"}, "selection = 'F1' (from --selection): no validation value of mosi; use l"),
    ({"dataset": "iemocap", "selection": "Corr"}, "no validation value of iemocap; use loss, F1, Acc-2"),
    ({"dataset": "mosi", "selection_direction": "up"}, "selection_direction = 'up'"),
])
def test_keys_that_do_not_fit_the_task(values: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        make_config(values, {key: f"--{key}" for key in values})
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_plan_says_the_same_twice() -> None:
    """A pure function of its arguments, whatever was asked of it before."""
    config, graph = made({**LMF, "batch_size": 8, "schedule": "cosine", "epochs": 9})
    one, other = make_plan(graph, config, 3, 45), make_plan(graph, config, 3, 45)
    other.masks(4, 6)

    def said(plan: EpochPlan) -> list[bytes]:
        return [plan.order.tobytes(), plan.rates.tobytes(), *(mask.tobytes() for mask in plan.masks(1, 3).values())]

    assert said(one) == said(other) != said(make_plan(graph, config, 4, 45))
