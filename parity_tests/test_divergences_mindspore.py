"""MindSpore: each rung fails against MindSpore's own call. One test per row of docs/divergences.md."""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

from core.runtime.backend import missing_reason
from core.runtime.worker import Worker
from parity_tests import graphs, test_blocks
from parity_tests import test_rungs as rungs
from parity_tests.conftest import ROWS, Lab
from parity_tests.divergences import differs, fails, installed

Uncorrected = Callable[..., AbstractContextManager[Lab]]
Written = Callable[[float], None]


def test_place_of_epsilon(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("mindspore", "adam", "float32") as lab:
        fails(rungs.test_adam, lab, "tiny weights", match="mindspore adam")
        written(differs(rungs.climbed(lab, "adam", state="tiny weights"), "audio_factor"))


def test_second_moment(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("mindspore", "adam_kernel", "float32") as lab:
        fails(rungs.test_adam, lab, "initial", match="exp_avg_sq audio_factor")
        found = rungs.climbed(lab, "adam").gaps["exp_avg_sq audio_factor"]
        written(abs(found.got / found.want - 1))


def test_plain_list_spares_batch_norm(uncorrected: Uncorrected, written: Written) -> None:
    """Channel 2 of audio is constant: the gradient of its weight is zero, and only the decay moves it."""
    with uncorrected("mindspore", "adam_of_a_plain_list", "float32", "audio video") as lab:
        differs(rungs.climbed(lab, "adam"), "exp_avg audio_subnet.norm.weight")
        after = lab.after_a_step().weights["audio_subnet.norm.weight"]
        assert after[2] == 1
        written(lab.config.learning_rate - abs(float(after[2]) - 1))


def test_mint_adam_does_nothing(uncorrected: Uncorrected) -> None:
    with uncorrected("mindspore", "mint_adam", "float32") as lab:
        fails(rungs.test_adam, lab, "initial", match="exp_avg audio_factor")
        after = lab.after_a_step().weights
        assert all((after[p.name] == lab.state.weights[p.name]).all() for p in lab.graph.trainable)


def test_statistics_are_no_parameters(uncorrected: Uncorrected, written: Written) -> None:
    """Twenty steps of one row each, which leave the statistics alone, but for Adam."""
    with uncorrected("mindspore", "statistics_in_adam", "float32") as lab:
        fails(rungs.test_statistics, lab, 8, match="audio_subnet.norm.running_mean")
        lab.session.load_state(lab.state)
        lab.session.train_epoch(lab.plan(0, 1, 20))
        written(np.abs(lab.session.state().weights["audio_subnet.norm.running_var"] - 1).max())


def test_lstm_in_float64(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("mindspore", "lstm_float64", "float64") as lab:
        written(fails(rungs.test_forward, lab, ROWS, match="text_subnet.rnn"))


def test_lstm_gradient_in_float64(uncorrected: Uncorrected) -> None:
    """What comes back is memory that nobody wrote: zeros, 1e18 or NaN. The rung sees all three."""
    with uncorrected("mindspore", "lstm_float64", "float64", "text") as lab:
        fails(rungs.test_gradients, lab, ROWS, match="text_factor|text_subnet.rnn")


@pytest.fixture
def small_graph(open_lab: Any, workers: dict[str, Worker]) -> Callable[..., float]:
    """small_graph(default, precision, name, match): that graph of test_blocks with that default, which has to fail."""
    def one(default: str, precision: str, name: str, match: str) -> float:
        open_lab("mindspore", precision, "three")  # starts the worker
        with installed(workers["mindspore"], default):
            return fails(test_blocks.check, workers["mindspore"], graphs.made(test_blocks.GRAPHS[name][0]), precision,
                         10, match=match)

    return one


def test_epsilon_of_layer_norm(small_graph: Callable[..., float], written: Written) -> None:
    written(small_graph("layer_norm_cell", "float32", "normed", "evaluation plain"))


def test_epsilon_of_layer_norm_s_gradient(small_graph: Callable[..., float], written: Written) -> None:
    written(small_graph("layer_norm_gradient", "float32", "normed", "gradient of plain.weight"))


def test_layer_norm_in_float64(small_graph: Callable[..., float], written: Written) -> None:
    written(small_graph("layer_norm_float64", "float64", "normed", "evaluation plain"))


def test_gradient_of_one_value_twice(small_graph: Callable[..., float], written: Written) -> None:
    written(small_graph("one_value_twice", "float32", "states", "gradient of"))


def test_l1_loss_in_float64(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("mindspore", "l1_loss", "float64", "three scores") as lab:
        written(fails(rungs.test_loss, lab, ROWS, match="loss: max abs"))


def test_log_softmax_in_float64(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("mindspore", "log_softmax", "float64") as lab:
        written(fails(rungs.test_loss, lab, ROWS, match="loss: max abs"))


def test_constants_in_float64(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("mindspore", "float_constants", "float64") as lab:
        written(fails(rungs.test_statistics, lab, 8, match="audio_subnet.norm.running_mean"))


def test_cells_start_in_evaluation_mode(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("mindspore", "batch_norm_cell", "float32") as lab:
        written(fails(rungs.test_train_mode, lab, ROWS, match="audio_subnet.norm"))


def test_one_row(uncorrected: Uncorrected, written: Written) -> None:
    with uncorrected("mindspore", "batch_norm_of_one_row", "float32") as lab:
        written(fails(rungs.test_train_mode, lab, 1, match="audio_subnet.norm"))
        got = lab.session.forward(lab.batch(slice(0, 1)), True)["audio_subnet.norm"]
        assert (got == lab.state.weights["audio_subnet.norm.bias"]).all()
        fails(rungs.test_statistics, lab, 4, match="audio_subnet.norm.running_mean")
        lab.session.load_state(lab.state)
        lab.session.train_epoch(lab.plan(0, 4))
        assert np.isnan(lab.session.state().weights["audio_subnet.norm.running_var"]).all()  # 0 / 0


def test_writing_to_views(uncorrected: Uncorrected) -> None:
    with uncorrected("mindspore", "writing_to_views", "float32") as lab:
        fails(rungs.test_init, lab, "anything", match="audio_factor")


def test_parameter_made_in_the_forward_pass(open_lab: Any, workers: dict[str, Worker], tmp_path: Any) -> None:
    lab: Lab = open_lab("mindspore", "float32", "audio video")
    error = workers["mindspore"].run("parity_tests.defaults.mindspore:compile_with_parameter_in_construct")
    assert "Parameter" in error
    assert lab.session.export(tmp_path / "lmf.mindir", "mindir")  # which compiles the whole network


def test_paddle_before_mindspore() -> None:
    for framework in ("paddle", "mindspore"):
        reason = missing_reason(framework)
        if reason:
            pytest.skip(reason)
    done = subprocess.run([sys.executable, "-c", "import paddle, mindspore"], capture_output=True, text=True)
    assert done.returncode != 0 and "undefined symbol" in done.stderr
