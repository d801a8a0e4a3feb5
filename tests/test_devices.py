"""Devices in every backend: what a name finds, and what can't be had, in one line and before data is read."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from backends.paddle import prepare
from core.common.errors import UserError
from core.config import make_config
from core.config.flags import make_parser, read_values
from core.data.published import feature_inputs
from core.runtime.backend import BACKENDS
from core.runtime.worker import Worker
from tests.running import ROOT, Refuse, needs, only_error, run, run_in, train_flags

INPUTS = feature_inputs(audio=7, video=4, text=6, steps=5)
OLD_RUN = ROOT / "tests" / "old_runs" / "lmf"
WORDS = {  # what is missing, and the way out
    ("torch", "cuda"): ("this PyTorch sees no CUDA device; install a CUDA build of torch", "use --device cpu"),
    ("torch", "npu"): ("torch_npu can't be imported; install torch_npu, CANN", "set_env.sh, or use --device cpu"),
    ("mindspore", "cuda"): ("MindSpore's packages are for the CPU and for Ascend NPUs; use --device cpu",
                            "the torch or the paddle backend"),
    ("mindspore", "npu"): ("MindSpore can't use it: libge_runner.so is missing; install CANN",
                           "set_env.sh, or use --device cpu"),
    ("paddle", "cuda"): ("this Paddle sees no CUDA device; install paddlepaddle-gpu", "use --device cpu"),
    ("paddle", "npu"): ("this Paddle has no NPU plugin; install paddle-custom-npu, CANN",
                        "set_env.sh, or use --device cpu"),
}
DEVICES = ["cuda", "cuda:3", "npu", "npu:1"]


@pytest.fixture(scope="module", params=list(BACKENDS))
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    needs(request.param)
    with contextlib.closing(Worker(request.param)) as made:
        yield made


def device_of(*flags: str) -> str:
    return make_config(*read_values(make_parser("train", "").parse(["--dataset", "mosi", *flags]))).device


@pytest.mark.parametrize(("name", "device"), [
    ("gpu", "cuda"), ("gpu:1", "cuda:1"), ("GPU", "cuda"), ("Ascend", "npu"), ("Ascend:2", "npu:2"), ("npu:7", "npu:7"),
    ("cuda:1", "cuda:1"), ("cpu", "cpu"),
])
def test_old_spellings(name: str, device: str) -> None:
    assert device_of("--device", name) == device


def test_the_flag_of_the_ascend_port(capsys: pytest.CaptureFixture[str]) -> None:
    assert device_of("--device_target", "Ascend") == "npu" and "use --device npu" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "words"), [
    (("--device", "tpu"), ("device = 'tpu'", "--device")), (("--device", "cuda:x"), ("device = 'cuda:x'",)),
    (("--device", "cpu:1"), ("device = 'cpu:1'",)), (("--device", "cuda:1000"), ("device = 'cuda:1000'",)),
    (("--tf32",), ("tf32 = True", "only CUDA devices have it", "use --device cuda")),
    (("--tf32", "--device", "npu"), ("tf32 = True", "only CUDA devices have it")),
    (("--precision", "float64", "--device", "npu:1"), ("precision = 'float64'", "use --precision float32")),
], ids=lambda value: " ".join(value) if value[0].startswith("--") else "")
def test_what_no_machine_has_is_refused(refuse: Refuse, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    refuse("train", "--dataset", "mosi", *flags, words=words)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("command", ["train", "evaluate", "infer"])
def test_a_device_that_is_not_there_is_refused_first(worker: Worker, tmp_path: Path, command: str, device: str) -> None:
    """The data isn't there either, and is not what is complained about; nothing is written. The CPU still serves."""
    may_be = worker.run("tests.precision_looks:there", worker.backend, device)
    if may_be:
        pytest.skip(f"this machine may have {device}: {may_be}")
    nothing = tmp_path / "no_such_folder"
    flags = {"train": train_flags("mosi", nothing, tmp_path / "runs"),
             "evaluate": ["--checkpoint", str(OLD_RUN), "--data_dir", str(nothing), "--output", str(tmp_path / "out")],
             "infer": ["--checkpoint", str(OLD_RUN), "--input", str(nothing), "--output", str(tmp_path / "out")]}
    given = [*flags[command], "--device", device, "--precision", "float32"]
    said = run_in(worker, command, *given, code=2)
    only_error(said, f"device = {device!r}: ", *WORDS[worker.backend, device.partition(":")[0]])
    assert not list(tmp_path.iterdir())
    assert str(worker.open("device", {"dataset": "mosi"}, INPUTS).observed()) == "cpu, float32"


def test_the_exit_code_of_the_command(tmp_path: Path) -> None:
    """As a shell sees it, once: of the one device that a backend has on no machine."""
    needs("mindspore")
    done = run(tmp_path, "mindspore", "train", "--dataset", "mosi", "--data_dir", "nowhere", "--device", "gpu:1",
               code=2)
    only_error(done.stderr, "device = 'cuda:1': ", *WORDS["mindspore", "cuda"])
    assert done.stdout == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "device"), [("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"),
                                              ("npu", "npu:0"), ("npu:2", "npu:2")])
def test_a_name_finds_its_device(worker: Worker, name: str, device: str) -> None:
    """On a machine with two CUDA devices and three NPUs, as the framework tells of them."""
    if worker.backend == "mindspore" and name.startswith("cuda"):
        with pytest.raises(UserError, match=f"{name!r}: {WORDS['mindspore', 'cuda'][0]}"):
            worker.run("tests.precision_looks:placed", worker.backend, name, 2, 3)
    else:
        assert worker.run("tests.precision_looks:placed", worker.backend, name, 2, 3) == device


@pytest.mark.parametrize(("name", "there", "words"), [
    ("cuda:2", (2, 0), "there are 2 here, from cuda:0 on|MindSpore's packages"),
    ("cuda", (0, 3), "this .* sees no CUDA device|MindSpore's packages"),
    ("npu:3", (0, 3), "there are 3 here, from npu:0 on|MindSpore can't use it: no device 3"),
    ("npu:1", (2, 0), "use --device cpu"),
])
def test_too_few_devices(worker: Worker, name: str, there: tuple[int, int], words: str) -> None:
    with pytest.raises(UserError, match=f"^device = {name!r}: .*({words})"):
        worker.run("tests.precision_looks:placed", worker.backend, name, *there)


def test_no_bfloat16_lstm_on_an_npu(worker: Worker) -> None:
    """Refused before the device is looked for. Without text LMF has no LSTM: then it is the device that is missing."""
    if worker.run("tests.precision_looks:there", worker.backend, "npu"):
        pytest.skip("this machine may have an NPU")
    values = {"dataset": "mosi", "device": "npu", "amp_level": "O1", "amp_dtype": "bfloat16"}
    words = ("amp_dtype = 'bfloat16': the LSTM of Ascend NPUs has float16 and float32; use --amp_dtype float16"
             if worker.backend == "torch" else "device = 'npu': ")  # the others don't take Ascend's LSTM
    with pytest.raises(UserError, match=words):
        worker.open("npu", values, INPUTS)
    for changes, inputs in (({"modalities": "audio,video"}, INPUTS[:2]), ({"amp_dtype": "float16"}, INPUTS)):
        with pytest.raises(UserError, match="device = 'npu': "):
            worker.open("npu", {**values, **changes}, inputs)


@pytest.mark.parametrize(("device", "tf32", "override"), [("cuda:1", False, "0"), ("cuda", True, None),
                                                          ("cpu", False, None)])
def test_tf32_is_off_unless_asked_for(device: str, tf32: bool, override: str | None) -> None:
    """NVIDIA's libraries read it: Paddle has no switch for that of the LSTM."""
    with patch.dict(os.environ, clear=True):
        prepare(make_config({"dataset": "mosi", "device": device, "tf32": tf32}))
        assert os.environ.get("NVIDIA_TF32_OVERRIDE") == override
