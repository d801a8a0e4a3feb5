"""Whole runs in mixed precision: what they say, keep and leave, where they go on, and what earlier ones left."""
from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from core.common.half import FORMATS, half_rounded
from core.config import Config, make_config
from core.config.flags import RUN_HEADER, make_parser, read_saved, read_values
from core.config.schema import run_keys
from core.runtime.backend import BACKENDS, missing_reason
from core.runtime.worker import Worker
from core.studies.tables.report import write_tables
from core.training.checkpoint import load_checkpoint
from tests.running import assert_same_run, history, needs, run_folder, run_in, train_flags
from tests.table_folders import finish, job, plan
from tests.test_checkpoint_damage import reseal
from tests.test_infer import test_rows_of

EPOCHS, STEPS = 4, 3  # 24 rows in batches of 10
# At 2^127 the gradient of a score that is off by 1 is beyond bfloat16 already, at 2^117 none is. After an overflow it
# takes three good steps until the next: steps 1, 5 and 9 are skipped, in every backend and on every machine.
SKIPPING = ("--amp_level", "O2", "--amp_dtype", "bfloat16", "--loss", "mse", "--loss_scale", "dynamic",
            "--loss_scale_init", str(2.0**127), "--loss_scale_growth", "1024", "--loss_scale_backoff", str(2.0**-10),
            "--loss_scale_interval", "3", "--epochs", str(EPOCHS))
SKIPPED = [1, 1, 1, 0]
COUNTERS = {2: (4, 2.0**117, 1), 4: (9, 2.0**127, 0)}  # epoch -> steps taken, scale, good steps in a row
NEW_KEYS = ("amp_dtype", "loss_scale_init", "loss_scale_growth", "loss_scale_backoff", "loss_scale_interval", "tf32")


@dataclass
class Made:
    """A finished run: its folder, and what it printed."""

    folder: Path
    printed: str


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[str, Worker]]:
    with contextlib.ExitStack() as stack:
        yield {backend: stack.enter_context(contextlib.closing(Worker(backend)))
               for backend in BACKENDS if not missing_reason(backend)}


@pytest.fixture(params=list(BACKENDS))
def worker(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> Worker:
    needs(request.param)
    return workers[request.param]


def trained(worker: Worker, data: Path, here: Path, *flags: str) -> Made:
    printed = run_in(worker, "train", *train_flags("mosi", data, here, "--store_dir", str(here / "store"), *flags))
    return Made(run_folder(printed), printed)


def config_of(data: Path, here: Path, *flags: str) -> Config:
    """What `trained` trains."""
    given = train_flags("mosi", data, here, "--store_dir", str(here / "store"), *flags)
    return make_config(*read_values(make_parser("train", "").parse(given)))


def stopped(worker: Worker, config: Config, folder: Path, epochs: int) -> Path:
    """A run that was stopped after so many epochs."""
    folder.mkdir(parents=True)
    worker.run("tests.precision_looks:stopped", worker.backend, config.model_dump(mode="json"), folder, epochs)
    assert len(history(folder)) == epochs
    return folder


def counters(folder: Path) -> tuple[int, float, int]:
    state = load_checkpoint(folder / "last.safetensors").state
    return state.step, state.loss_scale, state.good_steps


@pytest.fixture(scope="module")
def skipping(workers: dict[str, Worker], data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """In every backend a run of which three steps are skipped."""
    return {backend: trained(worker, data, tmp_path_factory.mktemp("skipping"), *SKIPPING)
            for backend, worker in workers.items()}


@pytest.fixture(scope="module")
def scaled(workers: dict[str, Worker], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """In PyTorch at O2 in float16."""
    needs("torch")
    return trained(workers["torch"], data, tmp_path_factory.mktemp("scaled"), "--amp_level", "O2", "--loss_scale",
                   "dynamic", "--loss_scale_init", "128", "--epochs", "3", "--learning_rate", "0.01")


def test_skipped_steps_are_shown_and_kept(worker: Worker, skipping: dict[str, Made]) -> None:
    """In the line of the epoch and in its row of the history."""
    made = skipping[worker.backend]
    assert [row["skipped_steps"] for row in history(made.folder)] == SKIPPED
    lines = [line for line in made.printed.splitlines() if line.startswith("epoch ")]
    assert ["skipped 1" in line for line in lines] == [count > 0 for count in SKIPPED]
    assert counters(made.folder) == COUNTERS[EPOCHS]


def test_it_says_where_and_in_what_it_was_computed(worker: Worker, skipping: dict[str, Made]) -> None:
    made, said = skipping[worker.backend], "O2, bfloat16, emulated on cpu"
    head, *rest = made.printed.splitlines()
    assert f" in {worker.backend}, {said}, " in head and f"computed: {said}" in rest
    found = json.loads((made.folder / "run.json").read_text())
    assert (found["computed"], found["device"], found["dtype"]) == (said, "cpu", "float32")
    assert json.loads((made.folder / "metrics.json").read_text())["computed"] == said


@pytest.mark.parametrize("start", list(BACKENDS))
def test_a_run_goes_on_in_any_framework(worker: Worker, workers: dict[str, Worker], skipping: dict[str, Made],
                                        data: Path, tmp_path: Path, start: str) -> None:
    """Stopped after two epochs, with a step still to be skipped: the counters end as without the stop, bit for bit; in
    the same framework all else does too.
    """
    needs(start)
    whole = skipping[start].folder
    config = read_saved(whole)
    folder = stopped(workers[start], config, tmp_path / "run", 2)
    assert counters(folder) == COUNTERS[2]
    printed = run_in(worker, "train", "--resume", str(folder))
    assert "going on after epoch 2" in printed
    assert counters(folder) == COUNTERS[EPOCHS]
    assert [row["skipped_steps"] for row in history(folder)] == SKIPPED
    assert history(folder)[:2] == history(whole)[:2]
    if worker.backend == start:
        assert_same_run(folder, whole)
    else:  # each block may round the other way, by a unit of bfloat16
        bound = 2 * FORMATS["bfloat16"].unit_roundoff * len(load_checkpoint(folder).graph.nodes)
        for now, then in zip(history(folder)[2:], history(whole)[2:], strict=True):
            assert now["train_loss"] == pytest.approx(then["train_loss"], rel=bound)


def test_its_checkpoint_is_float32_and_serves_every_backend(worker: Worker, scaled: Made, tmp_path: Path) -> None:
    """At O2 with the run's predictions to half's roundings, of each block's output by a unit of it; at O0 with those of
    its float32 weights, which differ from them by the roundings of all blocks.
    """
    for name in ("best", "last"):
        assert {array.dtype for array in load_file(scaled.folder / f"{name}.safetensors").values()} == {np.dtype("f4")}
    checkpoint = load_checkpoint(scaled.folder)
    want = np.load(scaled.folder / "predictions_test.npy")
    bound = 2 * FORMATS["float16"].unit_roundoff * len(checkpoint.graph.nodes) * np.abs(want).max()
    np.savez(tmp_path / "rows.npz", **test_rows_of("mosi"))
    found = {}
    for level, said in (("O2", "O2, float16, emulated on cpu"), ("O0", "cpu, float32")):
        flags = ("--checkpoint", str(scaled.folder), *(("--amp_level", "O0") if level == "O0" else ()))
        printed = run_in(worker, "evaluate", *flags, "--output", str(tmp_path / level))
        assert f"computed: {said}" in printed.splitlines()
        scores = json.loads((tmp_path / f"{level}.json").read_text())
        assert scores["computed"] == said
        found[level] = np.load(tmp_path / f"{level}.npy")
        np.testing.assert_allclose(found[level], want, rtol=0, atol=bound)
        recorded = json.loads((scaled.folder / "metrics.json").read_text())["test"]
        assert scores["metrics"]["MAE"] == pytest.approx(recorded["MAE"], abs=bound)
        if (worker.backend, level) == ("torch", "O2"):
            assert scores["metrics"] == recorded and np.array_equal(found[level], want)
        printed = run_in(worker, "infer", *flags, "--input", str(tmp_path / "rows.npz"), "--output",
                         str(tmp_path / "rows"))
        assert f"computed: {said}" in printed.splitlines()
        np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), found[level])
    assert np.array_equal(half_rounded(found["O2"], "float16"), found["O2"])
    assert not np.array_equal(half_rounded(found["O0"], "float16"), found["O0"])


def test_tables_say_that_half_was_emulated(tmp_path: Path) -> None:
    """In every form of the table, of a run that says nothing itself: an earlier version may have left it."""
    mixed = job("mosi", amp_level="O2", loss_scale=128.0)
    finish(tmp_path, mixed, predictions=True)
    plan(tmp_path, mixed)
    write_tables(tmp_path)
    for name in ("mosi.md", "mosi.csv", "report.html"):
        assert "O2 float16 emulated" in (tmp_path / name).read_text(), name


def test_what_a_run_wrote_before_there_was_a_choice() -> None:
    """O1 in PyTorch on the CPU was bfloat16; elsewhere float16. A user's file means what it says today."""
    old = {"dataset": "mosi", "amp_level": "O1", "device": "cpu"}
    assert run_keys(old)["amp_dtype"] == "bfloat16" and make_config(old).amp_dtype == "float16"
    for other in ({**old, "device": "cuda"}, {**old, "amp_level": "O0"}, {**old, "amp_dtype": "float16"}):
        assert make_config(run_keys(other)).amp_dtype == "float16"


def test_an_o1_run_from_then_goes_on(worker: Worker, data: Path, tmp_path: Path) -> None:
    """Its files without the keys that came later: it goes on as the run that has them, to the bit, and is evaluated."""
    flags = ("--amp_level", "O1", "--amp_dtype", "bfloat16", "--loss_scale", "dynamic", "--epochs", "3")
    whole = trained(worker, data, tmp_path / "whole", *flags)
    folder = stopped(worker, config_of(data, tmp_path / "whole", *flags), tmp_path / "then", 1)

    def without(values: dict[str, Any]) -> dict[str, Any]:
        assert values.keys() >= {*NEW_KEYS}
        return {key: value for key, value in values.items() if key not in NEW_KEYS}

    config = folder / "config.yaml"
    kept = without(yaml.safe_load(config.read_text()))
    config.write_text(f"{RUN_HEADER}{worker.backend} backend\n" + yaml.safe_dump(kept))
    for name in ("best", "last"):
        reseal(folder / f"{name}.safetensors", lambda record: {**record, "config": without(record["config"])})
    assert load_checkpoint(folder).config.amp_dtype == "bfloat16"
    assert "O1, bfloat16, emulated on cpu" in run_in(worker, "train", "--resume", str(folder))
    assert_same_run(folder, whole.folder)
    assert read_saved(folder).amp_dtype == "bfloat16"
