"""The published Paddle checkpoints, converted: the same logits in every backend, and those of the oracle."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.common.arrays import Array
from core.config import changed, to_values
from core.convert import convert
from core.runtime.backend import missing_reason
from core.runtime.worker import Worker
from core.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from core.training.plan import Batch
from core.training.trainer import full_state
from parity import oracle
from parity.compare import assert_same
from tests.data_samples import REAL
from tests.running import run

CELLS = {  # emotion -> audio, video, text hidden and rank, as published
    "happy": (4, 16, 128, 1), "sad": (8, 4, 128, 4),
}
LOGITS = {"float64": 1e-12, "float32": 1e-5}  # of the largest magnitude
ROWS = 50


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """converted(emotion): the path of our checkpoint of that published one."""
    folder = tmp_path_factory.mktemp("converted")

    def one(emotion: str) -> Path:
        source, target = REAL / "lmf_paddle_checkpoints" / f"{emotion}.pkl", folder / f"{emotion}.safetensors"
        if not source.is_file():
            pytest.skip(f"{source}: no such file; set LMF_REAL_DATA to the folder that holds lmf_paddle_checkpoints")
        if not target.exists():
            save_checkpoint(target, convert(source, {"emotion": emotion}))
        return target

    return one


def rows(checkpoint: Checkpoint) -> dict[str, Array]:
    """Features with the means and deviations that the checkpoint's BatchNorm has seen; text as word vectors."""
    draw, weights = np.random.default_rng(4), checkpoint.state.weights
    arrays = {}
    for one in checkpoint.inputs:
        if one.layout == "sequence":
            values = draw.normal(0, 0.4, (ROWS, *one.shape))
        else:
            mean, var = (weights[f"{one.name}_subnet.norm.running_{key}"] for key in ("mean", "var"))
            values = mean + np.sqrt(var) * draw.normal(size=(ROWS, *one.shape))
        arrays[one.name] = values.astype(np.float32)
    return arrays


def logits(workers: dict[str, Worker], backend: str, precision: str, path: Path) -> Array:
    """What `backend` predicts from the checkpoint file, as the commands do it."""
    reason = missing_reason(backend)
    if reason:
        pytest.skip(reason)
    if backend not in workers:
        workers[backend] = Worker(backend)
    checkpoint = load_checkpoint(path)
    config = changed(checkpoint.config, {"precision": precision})
    session = workers[backend].open(f"published {path.stem} {precision}", to_values(config), checkpoint.inputs)
    session.load_state(full_state(checkpoint, checkpoint.graph, config))
    session.load_data("input", rows(checkpoint))
    output: Array = session.predict("input")
    assert output.dtype == np.dtype(precision)
    return output


@pytest.mark.parametrize("emotion", CELLS)
def test_the_architecture_is_the_published_one(converted: Callable[[str], Path], emotion: str) -> None:
    checkpoint = load_checkpoint(converted(emotion))
    config, shapes = checkpoint.config, {one.name: one.shape for one in checkpoint.inputs}
    assert (config.audio_hidden, config.video_hidden, config.text_hidden, config.rank) == CELLS[emotion]
    assert shapes == {"audio": (74,), "video": (35,), "text": (20, 300)} and config.text_out == 64
    assert (config.dataset, config.emotion, config.output_dim) == ("iemocap", emotion, 2)


@pytest.mark.parametrize("emotion", CELLS)
def test_logits_agree_with_the_oracle(workers: dict[str, Worker], converted: Callable[[str], Path], backend: str,
                                      precision: str, emotion: str) -> None:
    path = converted(emotion)
    checkpoint = load_checkpoint(path)
    batch = Batch(rows(checkpoint), np.zeros(0), {})
    want = oracle.forward(checkpoint.graph, checkpoint.state.weights, batch)["output"]
    assert np.ptp(want, axis=0).min() > 0.1, "all rows are alike: a wrong weight may not show"
    assert_same({"logits": logits(workers, backend, precision, path)}, {"logits": want}, LOGITS[precision])


@pytest.mark.parametrize("emotion", CELLS)
def test_logits_agree_with_torch(workers: dict[str, Worker], converted: Callable[[str], Path], backend: str,
                                 precision: str, emotion: str) -> None:
    if backend == "torch":
        pytest.skip("torch is the reference here")
    path = converted(emotion)
    got, want = (logits(workers, name, precision, path) for name in (backend, "torch"))
    assert_same({"logits": got}, {"logits": want}, LOGITS[precision])


def test_infer_reads_a_converted_checkpoint(converted: Callable[[str], Path], tmp_path: Path, backend: str) -> None:
    reason = missing_reason(backend)
    if reason:
        pytest.skip(reason)
    path = converted("happy")
    checkpoint = load_checkpoint(path)
    np.savez(tmp_path / "rows.npz", **rows(checkpoint))
    run(tmp_path, backend, "infer", "--checkpoint", str(path), "--input", "rows.npz", "--precision", "float64")
    got = np.load(tmp_path / "predictions.npy", allow_pickle=False)
    batch = Batch(rows(checkpoint), np.zeros(0), {})
    want = oracle.forward(checkpoint.graph, checkpoint.state.weights, batch)["output"]
    odds = np.exp(want - want.max(axis=1, keepdims=True))
    np.testing.assert_allclose(got, odds / odds.sum(axis=1, keepdims=True), rtol=1e-11)
