"""Sequence models trained in PyTorch, exported by its command and Paddle's: the programs predict what the run did."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.common.constants import LAYERNORM_EPS
from tests.running import environment, needs
from tests.test_data_aligned import WIDTHS, split_of, write
from tests.test_elsewhere import ENDINGS, LOADERS

STEPS = 6
ROWS = {"train": 24, "valid": 8, "test": 64}
SIZES = ("--hidden_dim", "8", "--feed_forward_dim", "12", "--attention_heads", "2", "--epochs", "1")
MODELS = {
    "lstm": (), "transformer": ("--encoder", "transformer", "--encoder_layers", "2"),
    "concat": ("--fusion", "concat_lstm"),
    "self": ("--fusion", "self_attention", "--layer_norm", "false"),
    "cross": ("--fusion", "cross_attention", "--norm_order", "pre"),
}
BATCHES = (1, 7, 64)
COMMANDS = """
import sys
from core.commands import main
for command, *flags in {calls!r}:
    code = main(command, {backend!r}, flags)
    assert code == 0, (command, flags, code)
"""
CALL = """
import numpy as np
rows = np.load("rows.npz")
for size in {sizes}:
    part = [np.ascontiguousarray(rows[name][:size]) for name in {names}]
    np.save("{model} " + str(size), call(*part))
"""


def python(folder: Path, code: str) -> None:
    """Run it in a process of its own: one framework each."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, text=True, capture_output=True,
                          env=environment(folder, {}))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def run_of(trained: Path, model: str) -> Path:
    folder, = (trained / model).glob("*-1")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of every model, and the rows that they were tested on."""
    needs("torch")
    folder = tmp_path_factory.mktemp("sequences")
    content = {name: split_of(rows, rows, STEPS) for name, rows in ROWS.items()}
    for row in range(3):
        content["test"]["text"][row] = 0  # words that no vector is known of: no step is real
    write(folder / "mosi_raw.pkl", content)
    np.savez(folder / "rows.npz", **{name: content["test"][name] for name in WIDTHS})
    python(folder, COMMANDS.format(backend="torch", calls=[
        ("train", "--dataset", "mosi_aligned", "--data_dir", ".", "--model", "msa", "--output_path", model,
         *SIZES, *flags) for model, flags in MODELS.items()]))
    return folder


@pytest.fixture(scope="module", params=["torch", "paddle"])
def exported(request: pytest.FixtureRequest, trained: Path) -> Path:
    """A folder with what each program said of the first rows, in batches of several sizes."""
    backend: str = request.param
    needs(backend)
    folder = trained / backend
    folder.mkdir()
    (folder / "rows.npz").symlink_to(trained / "rows.npz")
    python(folder, COMMANDS.format(backend=backend, calls=[
        ("export", "--checkpoint", str(run_of(trained, model)), "--output", f"{model}{ENDINGS[backend]}")
        for model in MODELS]))
    loading = "".join(LOADERS[backend].replace('"net', f'"{model}')
                      + CALL.format(model=model, sizes=BATCHES, names=tuple(WIDTHS)) for model in MODELS)
    python(folder, loading)
    return folder


@pytest.mark.parametrize("model", MODELS)
def test_it_predicts_alike_at_any_batch_size(exported: Path, trained: Path, model: str) -> None:
    want = np.load(run_of(trained, model) / "predictions_test.npy")
    assert np.ptp(want) > 10 * LAYERNORM_EPS, "all rows alike: nothing would be shown"
    for size in BATCHES:
        got = np.load(exported / f"{model} {size}.npy")
        assert got.shape == (size, 1)
        np.testing.assert_allclose(got, want[:size], rtol=1e-5, atol=1e-5)
