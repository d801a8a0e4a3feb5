"""What earlier commits left in `tests/old_runs` (README there): read, evaluated, continued and trained again."""
from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from core.common.arrays import Array
from core.runtime.backend import BACKENDS
from core.runtime.worker import Worker
from core.training.checkpoint import load_checkpoint
from parity.bounds import DRIFT, FORWARD
from tests.running import Refuse, assert_same_run, history, needs
from tests.running import run_in as run

OLD = Path(__file__).parent / "old_runs"
RUNS = {"lmf": "float64", "tfn": "float64", "iemocap": "float32", "early": "float64"}
STOPPED = {"lmf": "torch", "tfn": "paddle", "early": "torch"}  # run -> backend that wrote it
CHECKPOINTS = sorted(str(path.relative_to(OLD)) for path in OLD.glob("*/*.safetensors"))
PLACES = ("data_dir", "store_dir", "output_path")
LOSSES = ("train_loss", "valid_loss")


@pytest.fixture(scope="module", params=list(BACKENDS))
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    """All that a backend does here is done by one process, as imports take longer than all else."""
    needs(request.param)
    one = Worker(request.param)
    yield one
    one.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Flags: data where it is now, and no store beside it."""
    return ["--data_dir", str(OLD / "data"), "--store_dir", str(tmp_path_factory.mktemp("store"))]


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """The record of a checkpoint and its tensors, without this project."""
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["record"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_read_as_it_was_written(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    record, tensors = read(OLD / name)
    for key, written in record.get("tensors", {}).items():
        assert hashlib.sha256(tensors[key].tobytes()).hexdigest() == written["sha256"], "the file itself has changed"
    loaded = load_checkpoint(OLD / name)
    state = {f"{kind}/{key}": value for kind in ("weights", "exp_avg", "exp_avg_sq")
             for key, value in getattr(loaded.state, kind).items()}
    state |= {f"range/{key}": value for key, value in loaded.ranges.items()}
    assert state.keys() == tensors.keys()
    for key, value in tensors.items():
        assert (state[key].dtype, state[key].shape, state[key].tobytes()) == (value.dtype, value.shape, value.tobytes())
    assert (loaded.state.step, loaded.fingerprint, loaded.progress) == (
        record["step"], record["fingerprint"], record["progress"])
    assert any(key.startswith("exp_avg/") for key in tensors) == ("last" in name)
    assert ("has no digests" in capsys.readouterr().err) == name.startswith("early")


@pytest.mark.parametrize("name", RUNS)
def test_every_backend_evaluates_it_as_recorded(worker: Worker, name: str, data: list[str], tmp_path: Path) -> None:
    """Another CPU and another backend round in another order: within FORWARD, beside the largest prediction."""
    bound, stem = FORWARD[RUNS[name]], tmp_path / "valid"
    run(worker, "evaluate", "--checkpoint", str(OLD / name), "--split", "valid", "--output", str(stem), *data)
    found, want = np.load(f"{stem}.npy"), np.load(OLD / name / "predictions_valid.npy")
    assert (found.dtype, found.shape) == (want.dtype, want.shape)
    assert np.abs(found - want).max() <= bound * np.abs(want).max()
    scores = json.loads(Path(f"{stem}.json").read_text())["metrics"]
    for metric, value in json.loads((OLD / name / "metrics.json").read_text())["valid"].items():
        # a correlation is a share of 1, however small; counted rows are the same, or off by far more than this
        assert scores[metric] == pytest.approx(value, rel=bound, abs=bound), metric


def assert_history(folder: Path, name: str) -> None:
    """The same best and last epoch, and losses within what rounding becomes in the 200 steps that DRIFT is for: here
    are 9 to 44."""
    rows, recorded = history(folder), history(OLD / name)
    assert [(row["epoch"], row["best"]) for row in rows] == [(row["epoch"], row["best"]) for row in recorded]
    for row, then in zip(rows, recorded, strict=True):
        for key in LOSSES:
            assert row[key] == pytest.approx(then[key], rel=DRIFT[RUNS[name]]), (row["epoch"], key)
    metrics, then = (json.loads((place / "metrics.json").read_text()) for place in (folder, OLD / name))
    for key in ("epochs", "best_epoch", "parameters"):
        assert metrics[key] == then[key], key
    for split in ("valid", "test"):
        assert metrics[split]["loss"] == pytest.approx(then[split]["loss"], rel=DRIFT[RUNS[name]])


@pytest.mark.parametrize("name", STOPPED)
def test_every_backend_ends_what_was_begun(worker: Worker, name: str, data: list[str], tmp_path: Path) -> None:
    folders = [tmp_path / "once", tmp_path / "again"]
    for folder in folders if worker.backend == STOPPED[name] else folders[:1]:
        shutil.copytree(OLD / f"{name}_stopped", folder)
        assert "going on after epoch 1\n" in run(worker, "train", "--resume", str(folder), *data)
        assert history(folder)[0] == history(OLD / name)[0], "what was trained then is told as it was"
        assert_history(folder, name)
    if folders[1].exists():
        assert_same_run(*folders)


@pytest.mark.parametrize("name", RUNS)
def test_every_backend_trains_a_run_s_configuration_again(worker: Worker, name: str, data: list[str], tmp_path: Path
                                                          ) -> None:
    """Their config.yaml holds the keys of all models; the earliest lack some of today's."""
    run(worker, "train", "--config", str(OLD / name / "config.yaml"), "--output_path", str(tmp_path), *data)
    [folder] = tmp_path.iterdir()
    assert_history(folder, name)


def test_a_user_s_configuration_means_what_it_meant(worker: Worker, data: list[str], tmp_path: Path) -> None:
    run(worker, "train", "--config", str(OLD / "user.yaml"), "--output_path", str(tmp_path), "--run_id", "1", *data)
    [folder] = tmp_path.iterdir()
    assert_history(folder, "lmf")
    now, then = (yaml.safe_load((place / "config.yaml").read_text()) for place in (folder, OLD / "lmf"))
    written = yaml.safe_load((OLD / "user.yaml").read_text())
    assert written.keys() <= now.keys()
    for key in (now.keys() & then.keys()) - set(PLACES):
        assert now[key] == then[key], key


@pytest.mark.parametrize("name, flags, words", [
    ("lmf", ("--rank", "3"), ("rank (2 before, 3 now)",)),
    ("tfn", ("--post_fusion_dim", "4"), ("post_fusion_dim (3 before, 4 now)",)),
    ("early", ("--rank", "3", "--seed", "7"), ("rank (2 before, 3 now)", "seed (0 before, 7 now)")),
])
def test_another_configuration_is_refused(refuse: Refuse, tmp_path: Path, name: str, flags: tuple[str, ...],
                                          words: tuple[str, ...]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(OLD / f"{name}_stopped", folder)
    refuse("train", "--resume", str(folder), *flags, words=("the configuration changed", *words, "start a new run"))
    for path in (OLD / f"{name}_stopped").iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
