"""The loss scaler, and mixed precision O1 where it can run on a CPU."""
from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from core.common.errors import UserError
from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.runtime.backend import missing_reason
from core.runtime.worker import RemoteSession, Worker
from core.training.plan import make_plan
from core.training.scaler import GROWTH_INTERVAL, INITIAL_SCALE, LossScaler
from core.training.state import initial_state
from tests.running import needs, only_error, run, train_flags

INPUTS = feature_inputs(audio=7, video=4, text=6, steps=5)
MIXED = {"dataset": "iemocap", "amp_level": "O1"}
NO_LSTM = "PyTorch has no bfloat16 LSTM for this CPU"


def test_dynamic_scale_halves_on_overflow_and_doubles_after_good_steps() -> None:
    scaler = LossScaler(make_config({**MIXED, "loss_scale": "dynamic"}))
    assert scaler.scale == INITIAL_SCALE
    scaler.update(False)
    assert (scaler.scale, scaler.good_steps) == (INITIAL_SCALE / 2, 0)
    for _ in range(GROWTH_INTERVAL - 1):
        scaler.update(True)
    assert scaler.scale == INITIAL_SCALE / 2
    scaler.update(True)
    assert (scaler.scale, scaler.good_steps) == (INITIAL_SCALE, 0)


def test_static_scale_stays() -> None:
    scaler = LossScaler(make_config({**MIXED, "loss_scale": 128}))
    scaler.update(False)
    assert scaler.scale == 128


@pytest.fixture(scope="module")
def torch_worker() -> Iterator[Worker]:
    reason = missing_reason("torch")
    if reason:
        pytest.skip(reason)
    worker = Worker("torch")
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def older_cpu() -> Iterator[Worker]:
    """torch in a process whose oneDNN takes this CPU for one with AVX2 alone."""
    needs("torch")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"ONEDNN_MAX_CPU_ISA=AVX2 means nothing to a CPU of kind {platform.machine()}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        worker = Worker("torch")
    yield worker
    worker.close()


def opened(worker: Worker, values: dict[str, object]) -> RemoteSession:
    """A session; a skip with the reason where this CPU has no bfloat16 LSTM, which the last tests here are about."""
    try:
        return worker.open("amp", values, INPUTS)
    except UserError as error:
        if NO_LSTM in str(error):
            pytest.skip(str(error))
        raise


def epoch(worker: Worker, changes: dict[str, object]) -> tuple[np.ndarray, int, object]:
    """Losses and skipped steps of one epoch on fixed random data."""
    values = {"dataset": "iemocap", "batch_size": 8, **changes}
    config = make_config(values)
    graph = build_graph(config, INPUTS)
    session = opened(worker, values)
    draw = np.random.default_rng(0)
    arrays = {one.name: draw.normal(size=(40, *one.shape)).astype("float32") for one in graph.inputs}
    session.load_data("train", {**arrays, "label": draw.integers(0, 2, 40)})
    scale = LossScaler(config).scale
    session.load_state(initial_state(graph, 0, "float32", scale))
    result = session.train_epoch(make_plan(graph, config, 0, 40))
    return result.losses, result.skipped, session.state()


@pytest.mark.parametrize("scale", [1.0, 1024.0, "dynamic"])
def test_o1_trains_close_to_float32_at_any_scale(torch_worker: Worker, scale: object) -> None:
    """bfloat16 keeps 8 bits: losses are off by about 2^-8; but they must differ, or O1 did nothing."""
    full, _, _ = epoch(torch_worker, {})
    mixed, skipped, state = epoch(torch_worker, {"amp_level": "O1", "loss_scale": scale})
    assert skipped == 0
    assert 0 < np.abs(mixed / full - 1).max() < 2.0**-6
    assert state.good_steps == (5 if scale == "dynamic" else 0)  # type: ignore[attr-defined]


def test_an_overflow_skips_the_step_and_halves_the_scale(torch_worker: Worker) -> None:
    """Eight rows of one class give fusion_bias a gradient of about 4: times 2^127 that is beyond float32."""
    values = {**MIXED, "loss_scale": "dynamic", "batch_size": 8}
    config = make_config(values)
    graph = build_graph(config, INPUTS)
    session = opened(torch_worker, values)
    draw = np.random.default_rng(0)
    arrays = {one.name: draw.normal(size=(8, *one.shape)).astype("float32") for one in graph.inputs}
    session.load_data("train", {**arrays, "label": np.zeros(8, np.int64)})
    before = initial_state(graph, 0, "float32", 2.0**127)
    session.load_state(before)
    result = session.train_epoch(make_plan(graph, config, 0, 8))
    after = session.state()
    assert result.skipped == 1 and after.step == 0 and after.loss_scale == 2.0**126
    for p in graph.trainable:
        np.testing.assert_array_equal(after.weights[p.name], before.weights[p.name])


def test_o2_is_refused_with_the_way_out(torch_worker: Worker) -> None:
    with pytest.raises(UserError, match=r"amp_level = 'O2'.*--amp_level O1"):
        torch_worker.open("o2", {"dataset": "iemocap", "amp_level": "O2"}, INPUTS)


def test_o1_is_refused_where_the_lstm_has_no_bfloat16(older_cpu: Worker) -> None:
    """At once, in one line with the way out. Without text there is no LSTM, and O1 trains."""
    try:
        older_cpu.open("o1", MIXED, INPUTS)
    except UserError as error:
        assert NO_LSTM in str(error) and "\n" not in str(error)
        assert "use --amp_level O0, or --device cuda" in str(error)
    else:
        epoch(older_cpu, {"amp_level": "O1"})
        raise AssertionError("it was opened, and trains")
    without_text = {**MIXED, "modalities": "audio,video"}
    older_cpu.open("o1", without_text, INPUTS)  # `epoch` would skip where it is refused
    losses, _, _ = epoch(older_cpu, without_text)
    assert np.isfinite(losses).all()


def test_a_training_that_is_refused_leaves_nothing(older_cpu: Worker, data: Path, tmp_path: Path) -> None:
    flags = train_flags("iemocap", data, tmp_path / "runs", "--amp_level", "O1")
    done = run(tmp_path, "torch", "train", *flags, code=2, ONEDNN_MAX_CPU_ISA="AVX2")
    only_error(done.stderr, NO_LSTM, "--amp_level O0")
    assert not (tmp_path / "runs").exists()
