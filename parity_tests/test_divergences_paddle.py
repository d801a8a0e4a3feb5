"""Paddle: each rung fails against Paddle's own call. One test per row of docs/divergences.md."""
from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.runtime.worker import Worker
from parity_tests import test_layer_norm
from parity_tests import test_rungs as rungs
from parity_tests.conftest import ROWS, Lab
from parity_tests.divergences import Altered, differs, fails, installed
from tests import test_precision

Uncorrected = Callable[..., AbstractContextManager[Lab]]
Written = Callable[[float], None]
DEFAULTS = "parity_tests.defaults.paddle"


@pytest.fixture
def lab(open_lab: Any) -> Lab:
    return open_lab("paddle", "float32", "three")


@pytest.fixture
def worker(lab: Lab, workers: dict[str, Worker]) -> Worker:
    return workers["paddle"]


def test_running_variance(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("paddle", "batch_norm", "float32") as lab:
        written(fails(rungs.test_statistics, lab, 8, match="audio_subnet.norm.running_var"))


def test_epsilon_of_batch_norm(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("paddle", "batch_norm", "float64") as lab:
        written(fails(rungs.test_channels_of_little_variance, lab, "forward", ROWS, match="audio_subnet.norm"))


def test_epsilon_of_layer_norm(worker: Worker, written: Written) -> None:
    with installed(worker, "layer_norm"):
        written(fails(test_layer_norm.test_features_of_little_variance, worker, "float64", (), match="norm"))


def test_one_row(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("paddle", "batch_norm", "float64") as lab:  # 5e-6: eps beside a variance of 1
        fails(rungs.test_train_mode, lab, 1, match="audio_subnet.norm")
    with uncorrected("paddle", "batch_norm", "float32") as lab:
        batch = lab.batch(slice(0, 1))
        got = lab.session.forward(batch, True)["audio_subnet.norm"]
        np.testing.assert_array_equal(got, batch.inputs["audio"])  # passed through
        written(fails(rungs.test_channels_of_little_variance, lab, "train mode", 1, match="audio_subnet.norm"))


def test_lr_is_no_key_of_a_group(uncorrected: Uncorrected, written: Written) -> None:
    """The rate of `others` happens to be Paddle's default, so that only the factors are off."""
    with uncorrected("paddle", "adam_with_lr_groups", "float32") as lab:
        differs(rungs.climbed(lab, "adam"), "audio_factor")
        after = lab.after_a_step().weights
        steps = {p.name: np.abs(after[p.name] - lab.state.weights[p.name]).max() for p in lab.graph.trainable}
        assert steps["audio_factor"] == pytest.approx(steps["fusion_weights"], rel=1e-3)  # configured: three times
        written(steps["audio_factor"])


def test_learning_rate_is_a_multiplier(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("paddle", "adam_with_learning_rate_groups", "float32") as lab:
        differs(rungs.climbed(lab, "adam"), "audio_factor")
        after = lab.after_a_step().weights
        step = np.abs(after["audio_factor"] - lab.state.weights["audio_factor"]).max()
        written(step / lab.config.factor_learning_rate)


def test_second_moment(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("paddle", "adam_kernel", "float32") as lab:
        fails(rungs.test_adam, lab, "initial", match="exp_avg_sq audio_factor")
        found = rungs.climbed(lab, "adam").gaps["exp_avg_sq audio_factor"]
        written(abs(found.got / found.want - 1))


def test_linear_layout(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("paddle", "linear_layout", "float32") as lab:
        written(fails(rungs.test_forward, lab, 8, match="audio_subnet.linear_2"))


def test_initial_range_of_linear(worker: Worker, lab: Lab, written: Written) -> None:
    shapes = {p.name: p.shape for p in lab.graph.trainable if "linear" in p.name}
    values = worker.run(f"{DEFAULTS}:initial", shapes, "float32")
    assert all((value == 0).all() for name, value in values.items() if name.endswith("bias"))
    session = Altered(lab.session, state=lambda: replace(lab.state, weights={**lab.state.weights, **values}))
    fails(rungs.test_init, replace(lab, session=session), "initial", match="audio_subnet.linear_1.weight")
    weight = worker.run(f"{DEFAULTS}:initial", {"linear_1.weight": (32, 64)}, "float64")["linear_1.weight"]
    written(weight.std() * np.sqrt(3 * 64))  # torch's standard deviation is 1 / sqrt(3 inputs)


def test_lstm_aliases(worker: Worker, lab: Lab) -> None:
    names = worker.run(f"{DEFAULTS}:lstm_names")
    aliases = {f"text_subnet.rnn.{name}": np.zeros(1) for name in names}
    session = Altered(lab.session, state=lambda: replace(lab.state, weights={**aliases, **lab.state.weights}))
    assert len(names) == 8
    fails(rungs.test_init, replace(lab, session=session), "initial", match=r"text_subnet.rnn.0.cell.\w+: is unexpected")


def test_autocast_on_the_cpu(open_lab: Any, worker: Worker) -> None:
    assert worker.run(f"{DEFAULTS}:autocast_dtype") == "float32"
    with installed(worker, "autocast"):
        fails(rungs.test_borders, open_lab, "paddle", "three", "O1", "bfloat16", match="audio_subnet.linear_1")


def test_cast_to_float16(worker: Worker) -> None:
    with installed(worker, "own_cast"):
        fails(test_precision.test_a_border_rounds_both_ways_as_numpy_does, worker, "float16", True,
              match="Mismatched")


def test_width_one_output(worker: Worker, open_lab: Any) -> None:
    shape = tuple(worker.run(f"{DEFAULTS}:squeezed_output", 2, 4))
    assert shape == (1, 2)
    lab: Lab = open_lab("paddle", "float32", "post fusion")
    session = Altered(lab.session, predict=lambda split: lab.session.predict(split).reshape(shape))
    fails(rungs.test_predict, replace(lab, session=session), 2, match=r"shape \(1, 2\), expected \(2, 1\)")


def test_deployment(worker: Worker, lab: Lab, tmp_path: Path) -> None:
    """A fixed device, a fixed batch, `.pdmodel`, enable_memory_optim(): none of them works on a CPU in 3.3."""
    answers = worker.run(f"{DEFAULTS}:export_for_inference", str(tmp_path))
    assert (answers["files"], answers["json"]) == (".json .pdiparams", "")
    assert answers["gpu"] and "Cannot open" in answers["pdmodel"] and "memory_optimize_pass" in answers["memory"]
    widths = {one.name: one.shape for one in lab.graph.inputs}
    path = tmp_path / "lmf.json"
    assert [file.suffix for file in lab.session.export(path, "json")] == [".json", ".pdiparams"]
    for rows in (1, 2, 5):
        assert worker.run(f"{DEFAULTS}:exported_shape", str(path), widths, rows) == [rows, lab.graph.task.outputs]
