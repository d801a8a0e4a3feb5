"""A stand-in for an Ascend NPU on host memory: what it is itself, and the torch backend on it."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from core.common.arrays import F64
from core.common.errors import UserError
from core.config import build_graph, make_config
from core.data.specs import InputSpec
from core.runtime.worker import Worker
from core.training.plan import make_plan
from core.training.scaler import initial_scale
from core.training.state import State, initial_state
from parity.bounds import DRIFT
from parity.runs import FACTOR
from tests.running import HANG, environment, history, needs, only_error, run, run_folder, train_flags

FOLDER = Path(__file__).parent / "standin"
CHECKS = re.findall(r"^def (\w+)\(\) -> None:", (FOLDER / "checks.py").read_text(encoding="utf-8"), re.MULTILINE)
LMF = {"dataset": "iemocap"}
MSA = {"dataset": "mosi_aligned", "model": "msa", "hidden_dim": 8, "attention_heads": 2, "feed_forward_dim": 12}
MODELS = {"lmf": LMF, "lmf regression": {"dataset": "mosi", "loss": "mse"},  # the default's sign may flip
          "lstm": MSA, "attention": {**MSA, "encoder": "transformer", "fusion": "cross_attention"}}
ROWS, BATCH, EPOCHS, STEPS = 40, 8, 3, 5
WIDTHS = {"audio": 7, "video": 4, "text": 6}
SEEDS = (1, 2, 3)
UNITS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}  # between 1 and the next number
# Beyond float16 in the first step, which is skipped; small from then on, so that the scale grows and stays within.
DYNAMIC = {"loss_scale": "dynamic", "loss_scale_init": 2.0**24, "loss_scale_backoff": 2.0**-16,
           "loss_scale_interval": 6}
SCALES: dict[str, dict[str, object]] = {"128": {"loss_scale": 128}, "dynamic": DYNAMIC}
WITHOUT_LSTM = {"dataset": "iemocap", "modalities": "audio,video"}  # which has no bfloat16 on an Ascend NPU


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-in's package, built once. Skips where there is no compiler."""
    needs("torch")
    compiler = os.environ.get("CXX", "c++")  # which torch's extensions are built with
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler ({compiler}) to build the stand-in with; install g++")
    folder = tmp_path_factory.mktemp("standin")
    done = subprocess.run([sys.executable, str(FOLDER / "build.py"), str(folder)], text=True, capture_output=True,
                          env=environment(folder, {}), timeout=HANG)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def worker(standin: Path) -> Iterator[Worker]:
    """torch in a process that finds the stand-in when it imports torch_npu."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(standin))
        worker = Worker("torch")
    worker.run("tests.standin.checks:it_says_that_it_is_there")  # a device must be there before the first way back
    yield worker
    worker.close()


@pytest.mark.parametrize("check", CHECKS)
def test_the_stand_in(worker: Worker, check: str) -> None:
    worker.run(f"tests.standin.checks:{check}")


def inputs_of(values: dict[str, object]) -> tuple[InputSpec, ...]:
    sequences = list(WIDTHS) if values["dataset"] == "mosi_aligned" else ["text"]
    return tuple(InputSpec(name, (STEPS, width) if name in sequences else (width,),
                           "sequence" if name in sequences else "plain") for name, width in WIDTHS.items())


class Run(NamedTuple):
    """The mean loss of every step, and last the largest output; the counters at the end, skipped steps among them."""

    losses: F64
    counters: tuple[float, ...]


def trained(worker: Worker, values: dict[str, object], nudge: int | None = None) -> Run:
    """A short run on fixed random data.

    nudge: a seed; every weight is then off by one rounding of the run's own precision, up or down.
    """
    values = {"batch_size": BATCH, "learning_rate": 0.003, **values}
    config = make_config(values)
    graph = build_graph(config, inputs_of(values))
    draw = np.random.default_rng(0)
    arrays = {one.name: draw.normal(size=(ROWS, *one.shape)).astype("float32") for one in graph.inputs}
    label = draw.integers(0, 2, ROWS) if values["dataset"] == "iemocap" else draw.uniform(-3, 3, (ROWS, 1)).astype("f4")
    session = worker.open("run", values, graph.inputs)
    session.load_data("train", {**arrays, "label": label})
    state = initial_state(graph, 0, "float32", initial_scale(config))
    session.load_state(state if nudge is None else nudged(state, nudge, UNITS[precision_of(values)]))
    assert session.observed().device == ("cpu" if config.device == "cpu" else "npu:0")
    losses, skipped = [], 0
    for epoch in range(EPOCHS):
        plan = make_plan(graph, config, epoch, ROWS)
        result = session.train_epoch(plan)
        losses.append(result.losses / (plan.sizes if config.loss_reduction == "sum" else 1))
        skipped += result.skipped
    after = session.state()
    return Run(np.array([*np.concatenate(losses), np.abs(session.predict("train")).max()]),
               (skipped, after.step, after.loss_scale, after.good_steps))


def precision_of(values: dict[str, object]) -> str:
    return str(values["amp_dtype"]) if "amp_level" in values else "float32"


def nudged(state: State, seed: int, unit: float) -> State:
    """Every weight times 1 + `unit` or 1 - `unit`."""
    draw = np.random.default_rng(seed)
    weights = {name: (value * (1 + unit * draw.choice([-1, 1], value.shape))).astype(value.dtype)
               for name, value in state.weights.items()}
    return State(weights, state.exp_avg, state.exp_avg_sq, state.step, state.loss_scale, state.good_steps)


def relative(one: F64, other: F64) -> F64:
    return np.asarray(np.abs(one - other) / np.abs(other))


def floor_of(worker: Worker, values: dict[str, object], base: F64) -> F64:
    """How far the CPU is from itself when every weight is off by one rounding: the furthest so far, per step.

    The device rounds elsewhere than the CPU, which is as if its weights were off. At least one rounding.
    """
    found = [relative(trained(worker, values, seed).losses, base) for seed in SEEDS]
    return np.asarray(np.maximum(np.maximum.accumulate(np.max(found, axis=0)), UNITS[precision_of(values)]))


@pytest.mark.parametrize("model", MODELS)
def test_float32_trains_to_the_cpu_s_losses(worker: Worker, model: str) -> None:
    """Within what parity allows to two frameworks: FACTOR times how far one is from itself. In the first epoch also
    within what it allows to losses there.
    """
    values: dict[str, object] = MODELS[model]
    on_cpu, on_npu = trained(worker, values), trained(worker, {**values, "device": "npu"})
    difference = relative(on_npu.losses, on_cpu.losses)
    assert (difference <= FACTOR * floor_of(worker, values, on_cpu.losses)).all()
    assert difference[:ROWS // BATCH].max() <= DRIFT["float32"]


HALVED = [(model, level, half, scale) for level in ("O1", "O2") for scale in SCALES for model, half in
          (*((model, "float16") for model in MODELS), ("without lstm", "bfloat16"))]


@pytest.mark.parametrize(("model", "level", "half", "scale"), HALVED)
def test_half_trains_to_the_losses_of_the_emulated_run(worker: Worker, model: str, level: str, half: str, scale: str
                                                       ) -> None:
    """The CPU rounds at the borders of blocks, the device at every operator within them too. That stays within FACTOR
    times what one rounding of every weight does. The loss scale takes the same way.
    """
    values = {**MODELS.get(model, WITHOUT_LSTM), "amp_level": level, "amp_dtype": half, **SCALES[scale]}
    on_cpu, on_npu = trained(worker, values), trained(worker, {**values, "device": "npu"})
    assert (relative(on_npu.losses, on_cpu.losses) <= FACTOR * floor_of(worker, values, on_cpu.losses)).all()
    assert on_npu.counters == on_cpu.counters
    steps = ROWS // BATCH * EPOCHS
    overflows = scale == "dynamic" and half == "float16"  # bfloat16 has float32's range
    assert on_npu.counters[:2] == ((1, steps - 1) if overflows else (0, steps))
    plain = trained(worker, {**MODELS.get(model, WITHOUT_LSTM), "device": "npu"})
    assert not np.array_equal(on_npu.losses, plain.losses), "half precision did nothing"


def test_bfloat16_is_refused_to_an_lstm(worker: Worker) -> None:
    with pytest.raises(UserError, match=r"bfloat16.*LSTM.*--amp_dtype float16"):
        worker.open("run", {**LMF, "device": "npu", "amp_level": "O1", "amp_dtype": "bfloat16"}, inputs_of(LMF))


def test_the_command_trains_there_as_on_the_cpu(standin: Path, data: Path, tmp_path: Path) -> None:
    """On the second device; and says where it was."""
    losses = []
    for device in ("cpu", "npu:1"):
        flags = train_flags("iemocap", data, tmp_path / device, "--epochs", "2", "--device", device)
        done = run(tmp_path, "torch", "train", *flags, PYTHONPATH=str(standin))
        assert f"{device}, float32" in done.stdout, done.stdout
        losses.append(np.array([row["train_loss"] for row in history(run_folder(done.stdout))]))
    assert relative(*losses).max() <= DRIFT["float32"]


def test_float64_is_refused_before_data_is_read(standin: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "torch", "train", *train_flags("iemocap", tmp_path / "nowhere", tmp_path / "runs", "--device",
                                                        "npu", "--precision", "float64"), code=2,
               PYTHONPATH=str(standin))
    only_error(done.stderr, "float64", "Ascend NPUs", "--precision float32")
    assert not (tmp_path / "runs").exists()


def test_a_device_beyond_the_last_is_refused(worker: Worker) -> None:
    with pytest.raises(UserError, match=r"npu:2.*there are 2"):
        worker.open("run", {**LMF, "device": "npu:2"}, inputs_of(LMF))
