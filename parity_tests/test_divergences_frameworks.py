"""PyTorch, and what all frameworks do: each check fails against it. One test per row of docs/divergences.md."""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.arrays import Array
from core.runtime.worker import Worker
from core.training.losses import loss_of, softmax
from core.training.plan import Batch
from parity import oracle
from parity.compare import assert_same, gap
from parity_tests import test_rungs as rungs
from parity_tests.conftest import ROWS, Lab
from parity_tests.divergences import Altered, fails, installed
from tests import test_data_readers

Uncorrected = Callable[..., AbstractContextManager[Lab]]
Written = Callable[[float], None]


def run(workers: dict[str, Worker], backend: str, function: str, *args: Any) -> Any:
    return workers[backend].run(f"parity_tests.defaults.{backend}:{function}", *args)


@pytest.mark.parametrize("case", ["three", "three scores"])
def test_mean_reduction(uncorrected: Uncorrected, backend: str, case: str, written: Written) -> None:
    with uncorrected(backend, "mean_loss", "float32", case) as lab:
        fails(rungs.test_loss, lab, ROWS, match="loss: max abs")
        batch = lab.batch(slice(0, ROWS))
        output = oracle.forward(lab.graph, lab.state.weights, batch, train=True)["output"]
        ratio = loss_of(lab.config).value(output, batch.label) / lab.session.gradients(batch)[0]
        written(ratio / (1 if case == "three" else lab.graph.task.outputs))


def test_initial_streams(open_lab: Any, workers: dict[str, Worker], backend: str, written: Written) -> None:
    lab: Lab = open_lab(backend, "float64", "three")
    shapes = {p.name: p.shape for p in lab.graph.trainable}
    values = run(workers, backend, "initial", {n: s for n, s in shapes.items() if "linear" in n or "factor" in n},
                 "float64")
    session = Altered(lab.session, state=lambda: replace(lab.state, weights={**lab.state.weights, **values}))
    written(fails(rungs.test_init, replace(lab, session=session), "initial", match="audio_factor"))


def test_dropout_streams(open_lab: Any, workers: dict[str, Worker], backend: str, written: Written) -> None:
    lab: Lab = open_lab(backend, "float32", "three")
    own = {site.name: run(workers, backend, "dropout", ROWS, site.width, site.rate, "float32")
           for site in lab.graph.dropout_sites}

    def with_its_own(batch: Batch, train: bool) -> dict[str, Array]:
        layers: dict[str, Array] = lab.session.forward(replace(batch, masks=own), train)
        return layers

    altered = replace(lab, session=Altered(lab.session, forward=with_its_own))
    fails(rungs.test_train_mode, altered, ROWS, match="relative to what was summed into it")
    ours = lab.plan(0, 8).masks(0, -(-ROWS // 8))
    different = np.concatenate([(own[name] != ours[name]).ravel() for name in own])
    for name in own:  # but alike in kind: 0, or 1 / (1 - rate)
        np.testing.assert_allclose(np.unique(own[name]), np.unique(ours[name]), rtol=1e-6)
    written(different.mean())


@pytest.mark.parametrize("backend", ["mindspore", "paddle"])
def test_relu_hides_nan(open_lab: Any, backend: str) -> None:
    """An infinity in each row of the audio: the branch gives the same for all rows, and nothing says so."""
    batch = open_lab(backend, "float32", "three").batch(slice(0, 8))
    audio = batch.inputs["audio"].copy()
    audio[:, 0] = np.inf
    outputs = {}
    for name in (backend, "torch"):
        lab: Lab = open_lab(name, "float32", "three")
        outputs[name] = lab.session.forward(replace(batch, inputs={**batch.inputs, "audio": audio}), True)
    assert not np.isfinite(outputs["torch"]["output"]).any()
    assert np.isfinite(outputs[backend]["output"]).all()
    assert np.ptp(outputs[backend]["audio_subnet.linear_3"], axis=0).max() == 0


def test_nothing_cleaned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ports clean NaN in audio only: infinities and NaN in text reach the network."""
    def default(features: Array) -> tuple[Array, dict[str, int]]:
        values = np.asarray(features, np.float32).copy()
        bad = np.isnan(values) & (values.ndim == 2)
        values[bad] = 0
        return values, {"nan": int(bad.sum()), "posinf": 0, "neginf": 0}

    monkeypatch.setattr("core.data.readers.clean", default)
    with np.errstate(over="ignore", invalid="ignore"):
        fails(test_data_readers.test_cleaning_counts, tmp_path, match="posinf")


def test_torch_one_row(uncorrected: Uncorrected) -> None:
    with uncorrected("torch", "batch_norm", "float32") as lab:
        fails(rungs.test_train_mode, lab, 1, match="more than 1 value per channel")


def test_torch_bare_squeeze(uncorrected: Uncorrected) -> None:
    with uncorrected("torch", "bare_squeeze", "float32") as lab:
        rungs.test_forward(lab, 2)
        fails(rungs.test_forward, lab, 1, match="RuntimeError|IndexError|shape")


def test_torch_softmax_axis(open_lab: Any, workers: dict[str, Worker], written: Written) -> None:
    open_lab("torch", "float64", "three")
    scores = np.random.default_rng(0).normal(size=(3, 4, 2))
    got = run(workers, "torch", "softmax_without_axis", scores)
    written(fails(assert_same, {"softmax": got}, {"softmax": softmax(scores)}, 1e-12, match="softmax"))
    flat = run(workers, "torch", "softmax_without_axis", scores[0])
    assert_same({"softmax": flat}, {"softmax": softmax(scores[0])}, 1e-12)


def test_torch_threads(open_lab: Any, workers: dict[str, Worker], written: Written) -> None:
    """At the published sizes of text and batch, in float64. How a kernel divides its work is a matter of the CPU."""
    open_lab("torch", "float64", "three")
    x = np.random.default_rng(0).normal(size=(20, 128, 300))
    one, again, *more = (run(workers, "torch", "lstm_gradient", x, threads) for threads in (1, 1, 2, 3, 4))
    assert_same(again, one, 0)
    sizes = [gap(other["weight_ih_l0"], one["weight_ih_l0"]).relative for other in more]
    sizes += [float(abs(other["sum"] - one["sum"]) / np.abs(x).sum()) for other in more]  # of what was summed
    written(max(sizes))
    if not any(sizes):
        pytest.skip("on this CPU 1, 2, 3 and 4 threads give the same bits: the divergence does not show")


def test_torch_float16_on_the_cpu(open_lab: Any, workers: dict[str, Worker]) -> None:
    open_lab("torch", "float32", "three")
    with installed(workers["torch"], "autocast"):
        fails(rungs.test_borders, open_lab, "torch", "three", "O1", "float16", match="LSTM|Half")
