"""Published checkpoints become ours: the network in the file, and the same logits."""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.errors import UserError
from core.config import to_values
from core.convert import convert
from core.convert.__main__ import main
from core.data.published import feature_inputs
from core.runtime.backend import missing_reason
from core.training.checkpoint import Checkpoint, load_checkpoint
from core.training.plan import Batch
from parity import oracle
from tests.data_samples import one_line
from tests.published_files import (
    SIZES,
    STEPS,
    mindspore_ckpt,
    old_module,
    paddle_tensors,
    rows,
    saved,
    torch_legacy,
    write_with,
)
from tests.running import HANG, ROOT, only_error

FILES = {
    "torch": ("module_zip.pt", "module_legacy.pt", "module_wrapped.pt", "dict_zip.pt", "dict_legacy.pt",
              "dict_double.pt", "wrapped.pt", "parallel.pt", "parallel_dict.pt"),
    "paddle": ("single.pkl", "double.pkl", "wrapped.pkl"),
    "mindspore": ("plain.ckpt", "crc.ckpt", "training.ckpt"),
}
DROPOUTS = ("audio_dropout", "video_dropout", "text_dropout", "post_fusion_dropout")
BOUND = {"torch": 1e-12, "paddle": 1e-12, "mindspore": 1e-5}  # MindSpore's own network runs in float32


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """written(framework): a folder with its files, made once."""
    made: dict[str, Path] = {}

    def folder(framework: str) -> Path:
        reason = missing_reason(framework)
        if reason:
            pytest.skip(reason)
        if framework not in made:
            made[framework] = write_with(framework, tmp_path_factory.mktemp("published") / framework)
        return made[framework]

    return folder


def logits(checkpoint: Checkpoint) -> Array:
    return oracle.forward(checkpoint.graph, checkpoint.state.weights, Batch(rows(), np.zeros(0), {}))["output"]


@pytest.mark.parametrize(("framework", "name"), [(key, name) for key, names in FILES.items() for name in names])
def test_logits_are_those_of_the_network_that_was_saved(written: Callable[[str], Path], framework: str,
                                                        name: str) -> None:
    folder = written(framework)
    checkpoint = convert(folder / name, {"max_len": STEPS})
    want = np.load(folder / f"{framework}.npy")
    assert abs(logits(checkpoint) - want).max() <= BOUND[framework] * abs(want).max()
    config = checkpoint.config
    found = {**to_values(config), **{one.name: one.width for one in checkpoint.inputs}}
    assert {key: found[key] for key in SIZES} == SIZES and config.dataset == "iemocap"
    assert checkpoint.inputs == feature_inputs(SIZES["audio"], SIZES["video"], SIZES["text"], STEPS)
    assert config.precision == ("float64" if "double" in name else "float32")
    whole = "module" in name or name == "parallel.pt"  # a whole module tells its dropouts, a state dict nothing
    assert [getattr(config, key) for key in DROPOUTS] == ([0.15, 0.1, 0.25, 0.4] if whole else [0.3, 0.5, 0.2, 0.5])
    assert set(checkpoint.progress["settings"]) == (set(DROPOUTS) if whole else set())
    assert "model" not in sys.modules and framework not in sys.modules


def test_bfloat16_is_widened(written: Callable[[str], Path]) -> None:
    folder = written("torch")
    full, half = (convert(folder / f"dict_{name}.pt", {}).state.weights for name in ("zip", "bfloat16"))
    for name, value in full.items():
        np.testing.assert_allclose(half[name], value, rtol=2**-8)


@pytest.mark.parametrize("python2", [False, True])
def test_a_module_of_pytorch_0_3(tmp_path: Path, python2: bool) -> None:
    want = convert(saved(tmp_path, paddle_tensors()), {}).state.weights
    value, storages = old_module(dict(want))
    path = tmp_path / "old.pt"
    path.write_bytes(torch_legacy(value, storages, python2))
    got = convert(path, {"dataset": "iemocap"})
    assert got.backend == "converted from PyTorch legacy file"
    assert {name: value.tobytes() for name, value in got.state.weights.items()} == {
        name: value.tobytes() for name, value in want.items()}


def test_missing_modalities_are_seen(tmp_path: Path) -> None:
    """A network of audio and text: no factor and no subnet of video."""
    tensors = {name: value for name, value in paddle_tensors().items() if not name.startswith("video")}
    checkpoint = convert(saved(tmp_path, tensors), {"max_len": "9"})
    assert checkpoint.config.modalities == ("audio", "text")
    assert checkpoint.inputs == feature_inputs(audio=6, text=8, steps=9)


@pytest.mark.parametrize(("outputs", "dataset"), [(1, "mosi"), (16, "pom"), (2, "iemocap")])
def test_outputs_tell_the_data_set(tmp_path: Path, outputs: int, dataset: str) -> None:
    tensors = {name: np.ones((*value.shape[:-1], outputs), np.float32) if "factor" in name or name == "fusion_bias"
               else value for name, value in paddle_tensors().items()}
    assert convert(saved(tmp_path, tensors), {}).config.dataset == dataset


def test_mindspore_names_without_mindspore(tmp_path: Path) -> None:
    names = {"running_mean": "moving_mean", "running_var": "moving_variance", "norm.weight": "norm.gamma",
             "norm.bias": "norm.beta"}
    want = convert(saved(tmp_path, paddle_tensors()), {}).state.weights
    theirs: dict[str, Array] = {"global_step": np.ones(1, np.int32), "moment1.fusion_bias": np.ones((1, 2), np.float32)}
    for name, value in want.items():
        for ours, new in names.items():
            name = name.replace(ours, new)
        theirs[name] = value
    path = tmp_path / "x.ckpt"
    path.write_bytes(mindspore_ckpt(theirs))
    got = convert(path, {}).state.weights
    assert {name: value.tobytes() for name, value in got.items()} == {
        name: value.tobytes() for name, value in want.items()}


def test_command_writes_a_checkpoint_and_says_what_it_assumed(tmp_path: Path) -> None:
    """In a process of its own; no framework is imported."""
    source, target = saved(tmp_path, paddle_tensors()), tmp_path / "new" / "x.safetensors"
    flags = ["--input", str(source), "--output", str(target), "--emotion", "sad"]
    code = ("import sys; from core.convert.__main__ import main; code = main(sys.argv[1:]); "
            "assert not {'torch', 'paddle', 'mindspore'} & sys.modules.keys(); sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True,
                          timeout=HANG)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Paddle pickle, iemocap" in done.stdout and "rank 2" in done.stdout and f"wrote {target}" in done.stdout
    assert "max_len 20" in done.stdout and "audio_dropout 0.3" in done.stdout and "emotion" not in done.stdout
    checkpoint = load_checkpoint(target)
    assert checkpoint.config.emotion == "sad" and checkpoint.state.exp_avg == {} and checkpoint.fingerprint == ""
    assert checkpoint.progress["source"] == "x.pkl" and len(checkpoint.progress["sha256"]) == 64


def test_one_line_and_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def check(*flags: str, code: int = 2, words: tuple[str, ...]) -> None:
        assert main(flags) == code
        only_error(capsys.readouterr().err, *words)

    source, target = str(saved(tmp_path, paddle_tensors())), str(tmp_path / "y.safetensors")
    check("--output", target, words=("--input is required",))
    check("--input", source, words=("--output is required",))
    check("--input", source, "--output", str(tmp_path / "y.pkl"), words=("'.pkl'", "expected .safetensors"))
    check("--input", source, "--output", target, "--rank", "8", words=("--rank 8", "have rank 2", "leave rank out"))
    check("--input", source, "--output", target, "--dataset", "mosi", words=("2 outputs", "--dataset mosi", "1 (mosi)"))
    check("--input", source, "--output", target, "--seed", "-1", words=("seed",))
    check("--input", "none.pkl", "--output", target, words=("none.pkl", "No such file"))
    (tmp_path / "file").write_text("")
    check("--input", source, "--output", str(tmp_path / "file" / "y.safetensors"), code=1, words=("can't be written",))
    assert not Path(target).exists()


def test_our_own_checkpoint_needs_no_conversion(tmp_path: Path) -> None:
    target = tmp_path / "y.safetensors"
    assert main(["--input", str(saved(tmp_path, paddle_tensors())), "--output", str(target)]) == 0
    with pytest.raises(UserError) as error:
        convert(target, {})
    one_line(error, "already a checkpoint of this project", "--checkpoint")
