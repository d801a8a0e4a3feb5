"""A student's best_model.pth becomes a checkpoint for every backend, with the same scores."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.errors import UserError
from core.convert import convert
from core.convert.__main__ import main
from core.models.reference import measured
from core.runtime.backend import missing_reason
from core.training.checkpoint import Checkpoint, load_checkpoint
from core.training.plan import Batch
from tests.data_samples import one_line
from tests.published_files import mindspore_ckpt, saved
from tests.running import HANG, ROOT, environment, only_error

SIZES = {"hidden": 6, "vision": 5, "text": 6, "audio": 4}  # text: a square layer, whose transposition keeps its shape
STEPS, ROWS = 4, 7
BOUND = 1e-12  # of scores of about 1, both in float64


def rows() -> dict[str, Array]:
    """Some padded in front, one of zeros; rounded to float32."""
    draw = np.random.default_rng(0)
    found = {}
    for name in ("vision", "text", "audio"):
        x = draw.normal(size=(ROWS, STEPS, SIZES[name])).astype(np.float32)
        x[0], x[1:3, :2] = 0, 0
        found[name] = x.astype(np.float64)
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a student's files."""
    reason = missing_reason("torch")
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("course")
    np.savez(folder / "rows.npz", **rows())
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "published" / "write_course.py"), json.dumps(SIZES)],
                          cwd=folder, capture_output=True, text=True, timeout=HANG, env=environment(folder, {}))
    assert done.returncode == 0, done.stderr
    return folder


def scores(checkpoint: Checkpoint) -> Array:
    """(N, 1) of the rows."""
    found: Array = measured(checkpoint.graph, checkpoint.state.weights, Batch(rows(), np.zeros(0), {}))["output"].value
    return found


def tensors(hidden: int = 6, fused: int = 6, norm: bool = True) -> dict[str, Array]:
    """A complete network under torch's names."""
    draw, shapes = np.random.default_rng(1), {"fc.weight": (1, hidden), "fc.bias": (1,)}
    for name, width in {**{f"{m}_": hidden for m in ("vision", "text", "audio")}, "mm_": fused}.items():
        shapes |= {f"{name}lstm.weight_ih_l0": (4 * hidden, width), f"{name}lstm.weight_hh_l0": (4 * hidden, hidden),
                   f"{name}lstm.bias_ih_l0": (4 * hidden,), f"{name}lstm.bias_hh_l0": (4 * hidden,)}
    for m in ("vision", "text", "audio"):
        shapes |= {f"{m}_fc.weight": (hidden, SIZES[m]), f"{m}_fc.bias": (hidden,)}
        shapes |= {f"{m}_norm.{key}": (SIZES[m],) for key in ("weight", "bias")} if norm else {}
    return {name: draw.uniform(-0.5, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def of_paddle(state: dict[str, Array]) -> dict[str, Array]:
    """As Paddle's state dict has it: linear layers (in, out), LSTMs under two names."""
    found = {name: np.ascontiguousarray(value.T) if name.endswith("fc.weight") else value
             for name, value in state.items()}
    for name, value in state.items():
        found |= {name.replace("lstm.", "lstm.0.cell.").removesuffix("_l0"): value} if "lstm." in name else {}
    return found


@pytest.mark.parametrize("name", ["best_model", "whole", "parallel", "wrapped", "two", "bare", "concat"])
def test_scores_are_those_of_the_student_s_network(written: Path, name: str) -> None:
    """Whoever saved it how: a state dict tells itself which network it is, a whole module has a class of any name."""
    checkpoint = convert(written / f"{name}.pth", {"max_len": STEPS, **({"model": "msa"} if name == "whole" else {})})
    wanted = written / f"{name}.npy"
    want = np.load(wanted if wanted.is_file() else written / "best_model.npy")
    np.testing.assert_allclose(scores(checkpoint), want, rtol=0, atol=BOUND)
    config: Any = checkpoint.config
    assert (config.model, config.dataset, config.hidden_dim, config.encoder) == ("msa", "mosi_aligned", 6, "lstm")
    assert config.layer_norm is (name != "bare") and config.output_dim == 1 and config.precision == "float32"
    assert config.fusion == ("concat_lstm" if name == "concat" else "sum_lstm")
    names = ("vision", "audio") if name == "two" else ("vision", "text", "audio")
    assert config.modalities == names
    assert [(one.name, one.shape) for one in checkpoint.inputs] == [(m, (STEPS, SIZES[m])) for m in names]
    assert "torch" not in sys.modules


def test_files_of_paddle_and_mindspore(tmp_path: Path) -> None:
    state = tensors()
    renamed = {name.replace("norm.weight", "norm.gamma").replace("norm.bias", "norm.beta"): value
               for name, value in state.items()}
    files = {"model.pdparams": saved(tmp_path, of_paddle(state), "model.pdparams").read_bytes(),
             "model.ckpt": mindspore_ckpt({**renamed, "moment1.fc.bias": np.ones(1, np.float32)})}
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
        checkpoint = convert(tmp_path / name, {})
        assert checkpoint.graph.model == "msa" and checkpoint.inputs[0].shape == (50, 5)
        assert checkpoint.state.weights.keys() == state.keys()
        for key, value in state.items():
            assert checkpoint.state.weights[key].tobytes() == value.tobytes(), key


def test_the_command_and_a_backend(written: Path, tmp_path: Path) -> None:
    """From the student's file to scores of rows that a user has; and what is said of it."""
    target = tmp_path / "best.safetensors"
    done = subprocess.run([sys.executable, "-m", "core.convert", "--input", str(written / "best_model.pth"), "--output",
                           str(target), "--max_len", str(STEPS)], cwd=ROOT, capture_output=True, text=True,
                          timeout=HANG)
    assert (done.returncode, done.stderr) == (0, "")
    assert "mosi_aligned, vision 5, text 6, audio 4 -> 6, sum_lstm, 1 outputs" in done.stdout
    assert load_checkpoint(target).config.selection == "Corr"
    np.savez(tmp_path / "rows.npz", **{name: value.astype(np.float32) for name, value in rows().items()})
    output = tmp_path / "scores"
    done = subprocess.run([sys.executable, "-m", "backends.torch.infer", "--checkpoint", str(target), "--input",
                           str(tmp_path / "rows.npz"), "--output", str(output)], cwd=ROOT, capture_output=True,
                          text=True, timeout=HANG)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(f"{output}.npy"), np.load(written / "best_model.npy"), rtol=0, atol=1e-5)


def changed(**changes: Array | None) -> dict[str, Array]:
    """A network with other tensors (`__` for a dot), or without some."""
    state: dict[str, Array | None] = {**tensors(), **{name.replace("__", "."): x for name, x in changes.items()}}
    return {name: value for name, value in state.items() if value is not None}


ONE = np.ones((6, 6), np.float32)


@pytest.mark.parametrize(("state", "words"), [
    (changed(text_fc__weight=None), ["text_fc.weight is missing"]),
    (changed(text_norm__bias=None), ["text_norm.bias is missing"]),
    (changed(fc__bias=np.ones(3, np.float32)), ["fc.bias has 3 outputs", "1 (mosi_aligned)"]),
    (changed(mm_lstm__weight_ih_l0=np.ones((24, 7), np.float32)), ["takes 7 numbers a step", "6 (modalities added)"]),
    (changed(text_norm__weight=ONE), ["text_norm.gamma has shape (6, 6)", "1 axes"]),
    (changed(text_lstm__weight_hh_l0=ONE), ["text_lstm.weight_hh_l0 is (6, 6)", "expected (24, 6)"]),
    (changed(text_lstm__weight_ih_l0_reverse=ONE), ["an LSTM is bidirectional: text_lstm.weight_ih_l0_reverse"]),
    (changed(mm_lstm__weight_ih_l1=ONE), ["more than one layer: mm_lstm.weight_ih_l1"]),
    (changed(text_attn__in_proj_weight=ONE), ["attention, whose names differ", "text_attn.in_proj_weight"]),
    (changed(post_fc__weight=ONE), ["no place in the course's model for post_fc.weight"]),
    (changed(text_fc__bias=np.full(6, np.nan, np.float32)), ["text_fc.bias", "NaN"]),
])
def test_what_does_not_fit_gets_one_line(tmp_path: Path, state: dict[str, Array], words: list[str]) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(mindspore_ckpt({name.replace("norm.weight", "norm.gamma").replace("norm.bias", "norm.beta"): value
                                     for name, value in state.items()}))
    with pytest.raises(UserError) as error:
        convert(path, {})
    one_line(error, str(path), *words)


def test_modules_that_compute_something_else(written: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = str(tmp_path / "x.safetensors")

    def refused(name: str, *flags: str, words: tuple[str, ...]) -> None:
        assert main(["--input", str(written / name), "--output", target, *flags]) == 2
        only_error(capsys.readouterr().err, *words)

    refused("other_eps.pth", "--model", "msa", words=("text_norm.eps is 1e-06, expected 1e-05",))
    refused("whole.pth", words=("asks for __main__.SentimentNet", "--model msa"))
    refused("best_model.pth", "--model", "lmf", words=("no place in LMF for", "vision_fc.weight"))
    refused("best_model.pth", "--model", "tfn", words=("only checkpoints of lmf and msa",))
    refused("best_model.pth", "--fusion", "concat_lstm", words=("--fusion concat_lstm", "have fusion sum_lstm"))
    refused("best_model.pth", "--dataset", "mosi", words=("--dataset mosi", "(vision, text", "use mosi_aligned"))
    assert not Path(target).exists()
