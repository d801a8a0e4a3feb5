"""Files that must not be converted: each gets one line that names what is wrong, and nothing in them runs."""
from __future__ import annotations

import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from core.common.arrays import Array
from core.common.errors import UserError
from core.convert import convert
from core.convert.__main__ import main
from tests.data_samples import one_line
from tests.published_files import (
    Call,
    Global,
    New,
    Reference,
    mindspore_ckpt,
    paddle_tensors,
    pickled,
    saved,
    torch_legacy,
    torch_zip,
)
from tests.running import only_error

LINEAR = Global("torch.nn.modules.linear", "Linear")
FLOATS = Global("torch", "FloatStorage")
ORDERED = Global("collections", "OrderedDict")
ATTACKS: dict[str, tuple[Callable[[str], Any], str]] = {  # what the file asks for -> what the line names
    "os.system": (lambda run: Call(Global("os", "system"), (run,)), "os.system"),
    "posix.system": (lambda run: Call(Global("posix", "system"), (run,)), "posix.system"),
    "eval": (lambda run: Call(Global("builtins", "eval"), (f"__import__('os').system({run!r})",)), "builtins.eval"),
    "exec of Python 2": (lambda run: Call(Global("__builtin__", "execfile"), (run,)), "__builtin__.execfile"),
    "a call that builds a module": (lambda run: Call(LINEAR, (3, 4)), "a call of torch.nn.modules.linear.Linear"),
    "a new module with arguments": (lambda run: Call(Global("model", "LMF"), (run,)), "a call of model.LMF"),
    "another load": (lambda run: Call(Global("torch", "load"), (run,)), "torch.load"),
    "a tool of torch": (lambda run: Call(Global("torch.hub", "load"), (run,)), "torch.hub.load"),
    "an attribute of ours": (lambda run: Global("torch._utils", "_rebuild_tensor.__globals__"), "__globals__"),
    "any other class": (lambda run: New(Global("subprocess", "Popen"), {"args": run}), "subprocess.Popen"),
    "state of a function": (lambda run: Call(Global("functools", "partial"), (run,)), "functools.partial"),
    "a storage that is called": (lambda run: Call(FLOATS, (3,)), "a call of torch.FloatStorage"),
    "a reference of another kind": (lambda run: Reference(("file", FLOATS, run, "cpu", 1)),
                                    "a reference of kind 'file'"),
    "a tensor without storage": (lambda run: Call(Global("torch._utils", "_rebuild_tensor_v2"), (run, 0, (1,), (1,))),
                                 "a tensor without a storage"),
    "a parameter of text": (lambda run: Call(Global("torch._utils", "_rebuild_parameter"), (run,)), "a parameter"),
}
CONTAINERS: dict[str, Callable[[Any], bytes]] = {
    "pickle": lambda value: pickled({"fusion_bias": value}),
    "zip": lambda value: torch_zip({"fusion_bias": value}, {}),
    "legacy": lambda value: torch_legacy({"fusion_bias": value}, {}),
    "legacy header": lambda value: torch_legacy({}, {}, system={"little_endian": value}),
    "module": lambda value: torch_zip(New(Global("model", "LMF"), {"_parameters": Call(ORDERED, ()), "x": value}), {}),
}


def refused(folder: Path, raw: bytes, *words: str) -> str:
    path = folder / "x.bin"
    path.write_bytes(raw)
    with pytest.raises(UserError) as error:
        convert(path, {})
    one_line(error, str(path), *words)
    return str(error.value)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_by_name_and_do_nothing(tmp_path: Path, container: str, attack: str) -> None:
    make, named = ATTACKS[attack]
    target = tmp_path / "pwned"
    refused(tmp_path, CONTAINERS[container](make(f"touch {target}")), "refused", named, "nothing of it was run")
    assert not target.exists() and "torch" not in sys.modules


def test_the_attack_is_real(tmp_path: Path) -> None:
    """Python's own pickle would run it."""
    target = tmp_path / "pwned"
    pickle.loads(CONTAINERS["pickle"](ATTACKS["posix.system"][0](f"touch {target}")))
    assert target.exists()


def tensor(shape: tuple[Any, ...], strides: tuple[Any, ...], offset: Any = 0, count: int = 4) -> Call:
    storage = Reference(("storage", FLOATS, "0", "cpu", count))
    arguments = (storage, offset, shape, strides, False, Call(ORDERED, ()))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


@pytest.mark.parametrize(("value", "words"), [
    (tensor((2, 3), (3, 1)), ["reaches beyond its storage"]),
    (tensor((2, 2), (2, 1), offset=1), ["reaches beyond its storage"]),
    (tensor((2**40,), (0,)), ["reaches beyond its storage"]),  # one number seen 2^40 times
    (tensor((2,), (-1,), offset=1), ["a tensor with sizes"]),
    (tensor((2,), (1,), offset=True), ["a tensor with sizes"]),
    (tensor((2, 2), (1,)), ["not a readable PyTorch zip file"]),
    (tensor((5,), (1,), count=5), ["5 numbers comes with 16 bytes"]),
    ("text", ["'fusion_bias', a str where a tensor should be"]),
])
def test_tensors_that_lie(tmp_path: Path, value: Any, words: list[str]) -> None:
    refused(tmp_path, torch_zip({"fusion_bias": value}, {"0": bytes(16)}), *words)


def test_an_instance_gets_no_arguments(tmp_path: Path) -> None:
    refused(tmp_path, b"\x80\x02cmodel\nLMF\nK\x01\x85\x81.", "a new model.LMF with arguments")


def test_one_storage_under_many_names(tmp_path: Path) -> None:
    """400 names for the same 100 kB: 40 MB out of a file of 140 kB."""
    names = {f"a{i}": tensor((25000,), (1,), count=25000) for i in range(400)}
    refused(tmp_path, torch_zip(names, {"0": bytes(100000)}), "more than 8 times the file")


def test_names_can_not_steer_a_terminal(tmp_path: Path) -> None:
    refused(tmp_path, pickled({"\x1b[2J": Call(Global("numpy", "dtype"), ())}), r"the name '\x1b[2J'")
    assert "\x1b" not in refused(tmp_path, pickled(Global("os", "\x1b[2J")), "os.\\x1b[2J")


def test_modules_that_never_end(tmp_path: Path) -> None:
    state = pickled(New(Global("model", "LMF"), {"_modules": {"a": None}}))
    circle = state.replace(b"LMF\n)\x81", b"LMF\n)\x81q\x00").replace(b"aN", b"ah\x00")
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("archive/data.pkl", circle)
    refused(tmp_path, (tmp_path / "c.pt").read_bytes(), "module", "twice")
    refused(tmp_path, torch_zip({}, {}), "no tensor of LMF")


@pytest.mark.parametrize(("raw", "words"), [
    (b"", ["empty (0 bytes)"]),
    (b"version https://git-lfs.github.com/graph/v1\n", ["unknown format", "version https"]),
    (b"PK\x03\x04 not a zip", ["not a readable PyTorch zip file"]),
    (torch_zip({}, {}, zipfile.ZIP_DEFLATED), ["the compressed entry 'archive/data.pkl'"]),
    (torch_legacy({}, {})[:-4], ["not a readable PyTorch legacy file", "cut short"]),
    (torch_legacy({"a": Reference(("storage", FLOATS, "0", "cpu", 4, None))}, {"0": np.zeros(9, np.float32)}),
     ["9 numbers, announced with 4"]),
    (pickled(tensor((2,), (1,))), ["numbers are not in this file"]),
    (pickled([1, 2]), ["a list where a state dict"]),
    (pickled({f"a{i}": i for i in range(501)}), ["501 tensors"]),
    (mindspore_ckpt({"a": np.zeros(3)})[:-5], ["not a readable MindSpore checkpoint", "cut short: a field of"]),
    (mindspore_ckpt({"a": np.zeros(3)}) + b"crc_num" + bytes(10), ["its checksum is"]),
    (mindspore_ckpt({"a": np.zeros(3)}).replace(b"\x08\x03", b"\x08\x04"), ["a of shape (4,) comes with 3 numbers"]),
    (mindspore_ckpt({"a": np.zeros(3)}).replace(b"Float64", b"Strange"), ["'a' of type 'Strange'"]),
    (save({"a": np.zeros(3)}), ["safetensors file of another program"]),
    (bytes(257) + b"ustar" + bytes(250), ["a .tar file"]),
])
def test_unusable_files(tmp_path: Path, raw: bytes, words: list[str]) -> None:
    refused(tmp_path, raw, *words)


def test_other_zip_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    refused(tmp_path, (tmp_path / "x.npz").read_bytes(), "0 files data.pkl")
    with zipfile.ZipFile(tmp_path / "s.pt", "w") as archive:
        archive.writestr("s/data.pkl", pickled({}))
        archive.writestr("s/constants.pkl", pickled(()))
    refused(tmp_path, (tmp_path / "s.pt").read_bytes(), "TorchScript", "state_dict()")


def broken(name: str, at: Any, value: float) -> dict[str, Array]:
    tensors = paddle_tensors()
    tensors[name][at] = value
    return tensors


def changed(drop: str = "", **new: Array) -> dict[str, Array]:
    kept = {name: value for name, value in paddle_tensors().items() if name != drop}
    return {**kept, **{name.replace("__", "."): value for name, value in new.items()}}


ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(("tensors", "words"), [
    (changed(post_fusion__weight=ONE), ["no place in LMF for post_fusion.weight"]),
    (changed(text_subnet__rnn__weight_ih_l0_reverse=ONE), ["bidirectional: text_subnet.rnn.weight_ih_l0_reverse"]),
    (changed(text_subnet__rnn__weight_ih_l1=ONE), ["more than one layer: text_subnet.rnn.weight_ih_l1"]),
    (changed(text_subnet__rnn__weight=ONE), ["one flat LSTM weight", "text_subnet.rnn.weight"]),
    (changed("video_subnet.linear_2.bias"), ["not one network", "video_subnet.linear_2.bias is missing"]),
    (changed("fusion_weights"), ["fusion_weights is missing"]),
    (changed("audio_factor"), ["audio_factor is missing"]),
    (changed(fusion_weights=np.ones((1, 3), np.float32)), ["audio_factor is (2, 5, 2), expected (3, 5, 2)"]),
    (changed(fusion_weights=np.ones((1, 2, 1), np.float32)), ["fusion_weights has shape (1, 2, 1), expected 2 axes"]),
    (changed(video_subnet__linear_1__weight=np.ones((0, 3), np.float32)),
     ["video_subnet.linear_1.weight is (3, 0), expected some inputs"]),
    (changed(fusion_bias=np.ones((1, 2), np.int64)), ["fusion_bias holds int64"]),
    (changed(fusion_bias=np.ones((1, 7), np.float32)), ["7 outputs", "1 (mosi), 16 (pom), 2 (iemocap)"]),
    (changed(fusion_weights=np.ones((1, 0), np.float32)), ["rank = 0"]),
    (changed(audio_subnet__norm___mean=np.ones(5, np.float32)), ["audio_subnet.norm.running_mean is (5,)"]),
    (changed(text_subnet__rnn__0__cell__bias_ih=np.ones(24, np.float32)), ["differs from its other name"]),
    (broken("text_factor", (0, 0, 0), np.nan), ["text_factor has 1 values that are NaN or inf"]),
    (broken("audio_subnet.linear_1.bias", slice(2), np.inf), ["audio_subnet.linear_1.bias has 2 values"]),
    (broken("video_subnet.norm._variance", slice(4), -0.1), ["video_subnet.norm.running_var has 4 negative variances"]),
    ({name: value.astype(np.float64) * 1e200 for name, value in paddle_tensors().items()},
     ["fusion_bias has 2 values that are NaN or inf"]),
])
def test_what_is_no_lmf_network(tmp_path: Path, tensors: dict[str, Array], words: list[str]) -> None:
    path = saved(tmp_path, tensors)
    with pytest.raises(UserError) as error:
        convert(path, {"precision": "float32"})
    one_line(error, str(path), *words)


SEEDS = {
    "pickle": pickled({"fusion_bias": 1, "audio_factor": None}),
    "zip": torch_zip({"fusion_bias": tensor((2, 2), (2, 1))}, {"0": bytes(16)}),
    "legacy": torch_legacy({"a": tensor((2, 2), (2, 1))}, {"0": np.zeros(4, np.float32)}),
    "ckpt": mindspore_ckpt({"fusion_bias": np.zeros((1, 2)), "global_step": np.zeros(1, np.int64)}),
}


@settings(max_examples=300, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # it may be busy here
@given(seed=st.sampled_from(sorted(SEEDS)),
       edits=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=4))
def test_garbage_is_a_user_error(tmp_path: Path, seed: str, edits: list[tuple[float, bytes]]) -> None:
    raw = bytearray(SEEDS[seed])
    for place, piece in edits:
        at = int(place * len(raw))
        raw[at:at + len(piece) or at + 1] = piece
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(raw))
    with pytest.raises(UserError) as error:  # none of the seeds is a whole network
        convert(path, {})
    assert "\n" not in str(error.value)


def test_a_size_that_is_only_mentioned_costs_no_memory(tmp_path: Path) -> None:
    huge = Reference(("storage", FLOATS, "0", "cpu", 2**45, None))
    raw = torch_legacy({"a": huge}, {}).replace(pickled([]), pickled(["0"])) + struct.pack("<q", 2**45)
    refused(tmp_path, raw, "not a readable PyTorch legacy file", f"announced with {2**45}")


def test_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "tfn.safetensors"
    assert main(["--input", str(tmp_path / "happy.pkl"), "--output", str(target), "--model", "tfn"]) == 2
    only_error(capsys.readouterr().err, "model = 'tfn' (from --model)", "leave it out")
    assert not target.exists()
