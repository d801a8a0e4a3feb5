"""The loss scaler, and mixed precision O1 where it can run on a CPU."""
from __future__ import annotations

import numpy as np
import pytest

from core.backend import missing_reason
from core.config import make_config
from core.errors import UserError
from core.models import InputDims, build_spec
from core.plan import make_plan
from core.scaler import GROWTH_INTERVAL, INITIAL_SCALE, LossScaler
from core.state import initial_state
from core.worker import Worker

DIMS = InputDims(audio=7, video=4, text=6, steps=5)
MIXED = {"dataset": "iemocap", "amp_level": "O1"}


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
def torch_worker():  # type: ignore[no-untyped-def]
    reason = missing_reason("torch")
    if reason:
        pytest.skip(reason)
    worker = Worker("torch")
    yield worker
    worker.close()


def epoch(worker: Worker, changes: dict[str, object]) -> tuple[np.ndarray, int, object]:
    """Losses and skipped steps of one epoch on fixed random data."""
    values = {"dataset": "iemocap", **changes}
    spec = build_spec(make_config(values), DIMS)
    session = worker.open("amp", values, DIMS)
    draw = np.random.default_rng(0)
    arrays = {m: draw.normal(size=(40, *DIMS.row_shape(m))).astype("float32") for m in spec.modalities}
    session.load_data("train", {**arrays, "label": draw.integers(0, 2, 40)})
    scale = LossScaler(make_config(values)).scale
    session.load_state(initial_state(spec, 0, "float32", scale))
    result = session.train_epoch(make_plan(spec, 0, 0, 40, 8, "float32"))
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
    values = {"dataset": "iemocap", "amp_level": "O1", "loss_scale": "dynamic"}
    spec = build_spec(make_config(values), DIMS)
    session = torch_worker.open("overflow", values, DIMS)
    draw = np.random.default_rng(0)
    arrays = {m: draw.normal(size=(8, *DIMS.row_shape(m))).astype("float32") for m in spec.modalities}
    session.load_data("train", {**arrays, "label": np.zeros(8, np.int64)})
    before = initial_state(spec, 0, "float32", 2.0**127)
    session.load_state(before)
    result = session.train_epoch(make_plan(spec, 0, 0, 8, 8, "float32"))
    after = session.state()
    assert result.skipped == 1 and after.step == 0 and after.loss_scale == 2.0**126
    for p in spec.trainable:
        np.testing.assert_array_equal(after.weights[p.name], before.weights[p.name])


def test_o2_is_refused_with_the_way_out(torch_worker: Worker) -> None:
    with pytest.raises(UserError, match=r"amp_level = 'O2'.*--amp_level O1"):
        torch_worker.open("o2", {"dataset": "iemocap", "amp_level": "O2"}, DIMS)
