"""A checkpoint of PyTorch evaluated and exported in every backend; exported programs loaded by their framework."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.runtime.backend import BACKENDS
from tests.conftest import Run, finished
from tests.running import environment, needs, run
from tests.test_infer import test_rows_of

LOADERS = {
    "torch": """
import torch
program = torch.export.load("net.pt2").module()
call = lambda *rows: program(*map(torch.from_numpy, rows)).detach().numpy()
""",
    "mindspore": """
import mindspore
program = mindspore.nn.GraphCell(mindspore.load("net.mindir"))
call = lambda *rows: program(*map(mindspore.Tensor, rows)).asnumpy()
""",
    "paddle": """
import paddle
program = paddle.jit.load("net")
call = lambda *rows: program(*map(paddle.to_tensor, rows)).numpy()
""",
}
CALL = """
import numpy as np
rows = np.load("rows.npz")
for name, part in (("one", slice(0, 1)), ("five", slice(2, 7)), ("all", slice(None))):
    np.save(name, call(*(np.ascontiguousarray(rows[m][part].astype(np.float32)) for m in ("audio", "video", "text"))))
"""
ENDINGS = {"torch": ".pt2", "mindspore": ".mindir", "paddle": ".json"}


@pytest.fixture(scope="session")
def tensor_fused(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """POM with the full outer product."""
    return finished("pom", data, tmp_path_factory.mktemp("tensor_fused"), "--model", "tfn", "--post_fusion_dim", "6",
                    "--epochs", "3", "--learning_rate", "0.02", "--factor_learning_rate", "0.02")


@pytest.fixture
def trained(request: pytest.FixtureRequest, model: str) -> Run:
    """A finished run of `model`."""
    run: Run = request.getfixturevalue({"lmf": "scored", "tfn": "tensor_fused"}[model])
    return run


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_evaluates_it_alike(scored: Run, tmp_path: Path, backend: str) -> None:
    needs(backend)
    done = run(tmp_path, backend, "evaluate", "--checkpoint", str(scored.folder), "--output", "found")
    assert done.stderr == "" and f"{backend}, checkpoint: torch" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())["metrics"]
    want = json.loads((scored.folder / "metrics.json").read_text())["test"]
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name  # float32, labels around 4


@pytest.mark.parametrize("model", ["lmf", "tfn"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_exported_program_predicts_alike_at_any_batch_size(trained: Run, tmp_path: Path, backend: str) -> None:
    needs(backend)
    done = run(tmp_path, backend, "export", "--checkpoint", str(trained.folder), "--output", f"net{ENDINGS[backend]}")
    assert done.stdout.startswith(f"wrote net{ENDINGS[backend]}")
    np.savez(tmp_path / "rows.npz", **test_rows_of("pom"))
    subprocess.run([sys.executable, "-c", LOADERS[backend] + CALL], cwd=tmp_path, check=True,
                   env=environment(tmp_path, {}), capture_output=True)
    want = np.load(trained.folder / "predictions_test.npy")
    for name, part in (("one", slice(0, 1)), ("five", slice(2, 7)), ("all", slice(None))):
        got = np.load(tmp_path / f"{name}.npy")
        assert got.shape == want[part].shape
        np.testing.assert_allclose(got, want[part], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_unknown_form_names_the_known_one(scored: Run, tmp_path: Path, backend: str) -> None:
    needs(backend)
    done = run(tmp_path, backend, "export", "--checkpoint", str(scored.folder), "--output", "net.onnx", code=2)
    assert len(done.stderr.splitlines()) == 1
    assert "'onnx'" in done.stderr and ENDINGS[backend][1:] in done.stderr
    assert not list(tmp_path.glob("net*"))
