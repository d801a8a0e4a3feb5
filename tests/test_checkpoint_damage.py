"""Damage to a checkpoint: each flipped bit, a record that says something else, a history that does not follow."""
from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from core.common.arrays import Array
from core.common.digests import describe
from core.common.errors import UserError
from core.config import make_config
from core.training.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from core.training.progress import Progress, read_progress
from core.training.selection import selection_of
from tests.conftest import Run
from tests.running import Refuse
from tests.test_checkpoint import assert_equal, make, refused
from tests.test_trainer import Scripted


def reseal(path: Path, change: Callable[[dict[str, Any]], Any] = lambda record: None, sealed: bool = True,
           tensors: dict[str, Array] | None = None) -> None:
    """Write the file again with a record that `change` had in hand, and the sha256 that then belongs to it."""
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    record = json.loads(metadata["record"])
    record = change(record) or record
    text = record if isinstance(record, str) else json.dumps(record)
    seal = {"sha256": hashlib.sha256(text.encode()).hexdigest()} if sealed else {}
    save_file(tensors or load_file(path), path, {"format": metadata["format"], "record": text, **seal})


def without_digests(path: Path, **tensors: Array) -> None:
    """As an earlier version wrote it, with other tensors in place of some."""
    def strip(record: dict[str, Any]) -> None:
        del record["tensors"]

    reseal(path, strip, sealed=False, tensors={**load_file(path), **tensors})


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def bits_to_flip(content: bytes) -> list[int]:
    """Every bit of the header's length, one of every byte of its first and last parts, and some of all else."""
    header, draw = 8 + int.from_bytes(content[:8], "little"), np.random.default_rng(3)
    layout = json.loads(content[8:header])
    one_each = [8 * (header + int(draw.integers(*entry["data_offsets"]))) + int(draw.integers(8))
                for name, entry in layout.items() if name != "__metadata__"]
    edges = [8 * place + int(draw.integers(8)) for place in (*range(8, 108), *range(header - 100, header))]
    return [*range(64), *edges, *draw.integers(64, 8 * header, 150).tolist(), *one_each,
            *draw.integers(8 * header, 8 * len(content), 50).tolist()]


def test_a_flipped_bit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever it is: in the header's length, the layout, the record, a tensor. No bit of the file says nothing."""
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make(text_hidden=4))
    content = path.read_bytes()
    for bit in bits_to_flip(content):
        path.write_bytes(flipped(content, bit))
        with pytest.raises(UserError) as caught:
            load_checkpoint(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value), bit
    assert capsys.readouterr().err == "", "none passes for an older file"


def test_a_flipped_bit_names_its_tensor(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8:header]).items():
        if name != "__metadata__":
            path.write_bytes(flipped(content, 8 * (header + entry["data_offsets"][0])))
            refused(path, f"{name} is not what was written (sha256 ", "use a copy or another checkpoint")


def test_tensors_under_each_other_s_names(tmp_path: Path) -> None:
    """Same shapes, same bytes in all: but not as they were written."""
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    tensors = load_file(path)
    one, other = "weights/text_subnet.rnn.bias_ih_l0", "weights/text_subnet.rnn.bias_hh_l0"
    tensors[one], tensors[other] = tensors[other], tensors[one]
    reseal(path, tensors=tensors)
    refused(path, f"{other} is not what was written (sha256 ")
    del tensors[one]
    reseal(path, tensors=tensors)
    refused(path, f"{other} is not what was written")
    save_checkpoint(path, make())
    reseal(path, tensors={**load_file(path), "weights/stray": np.zeros(1, np.float32)})
    refused(path, "weights/stray was not written with it")
    save_checkpoint(path, make())
    reseal(path, tensors={name: value for name, value in load_file(path).items() if name != one})
    refused(path, f"{one} is missing")


def test_half_a_seal_is_no_older_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    reseal(path, sealed=False)
    refused(path, "the sha256 of its record is missing")
    save_checkpoint(path, make())
    reseal(path, lambda record: {name: value for name, value in record.items() if name != "tensors"})
    refused(path, "the sha256 of its tensors is missing")


def test_older_files_are_read_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, saved = tmp_path / "a.safetensors", make()
    save_checkpoint(path, saved)
    assert load_checkpoint(path) and capsys.readouterr().err == ""
    without_digests(path)
    assert_equal(dict(load_checkpoint(path).state.exp_avg_sq), dict(saved.state.exp_avg_sq))
    assert capsys.readouterr().err == (f"warning: {path}: has no digests, an earlier version wrote it: changed numbers "
                                       "in it would not be noticed\n")


BIAS = "audio_subnet.linear_1.bias"
VARIANCE = "video_subnet.norm.running_var"


@pytest.mark.parametrize(("tensors", "words"), [
    ({f"weights/{BIAS}": np.full(16, np.nan, np.float32)}, f"{BIAS} has 16 values that are NaN or inf"),
    ({f"exp_avg/{BIAS}": np.full(16, -np.inf, np.float32)}, f"exp_avg/{BIAS} has 16 values that are NaN or inf"),
    ({f"exp_avg_sq/{BIAS}": np.full(16, -1, np.float32)}, f"exp_avg_sq/{BIAS} has 16 negative values"),
    ({f"weights/{VARIANCE}": np.full(5, -1, np.float32)}, f"{VARIANCE} has 5 negative variances"),
    ({f"weights/{BIAS}": np.zeros(16)}, f"weights/{BIAS} is float64, expected float32"),
    ({f"exp_avg/{BIAS}": np.zeros(16, np.int32)}, f"exp_avg/{BIAS} is int32, expected float32"),
    ({f"exp_avg/{BIAS}": np.zeros(15, np.float32)}, f"exp_avg/{BIAS} is (15,), expected (16,)"),
    ({f"exp_avg/{VARIANCE}": np.zeros(5, np.float32)}, f"exp_avg/{VARIANCE} is not part of this model"),
])
def test_tensors_that_no_run_leaves(tmp_path: Path, capsys: pytest.CaptureFixture[str], tensors: dict[str, Array],
                                    words: str) -> None:
    """Of an older file, whose bytes nothing vouches for; and of one that is sealed, for which they are checked too."""
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    without_digests(path, **tensors)
    refused(path, words)
    assert capsys.readouterr().err == "", "one line: the error"
    save_checkpoint(path, make())
    def described(record: dict[str, Any]) -> None:
        record["tensors"].update({name: describe(value) for name, value in tensors.items()})
    reseal(path, described, tensors={**load_file(path), **tensors})
    refused(path, words)


def test_moments_are_there_or_not(tmp_path: Path) -> None:
    path, saved = tmp_path / "a.safetensors", make()
    save_checkpoint(path, dataclasses.replace(saved, state=dataclasses.replace(saved.state, exp_avg_sq={})))
    refused(path, "exp_avg_sq/audio_factor is missing")


AUDIO, VIDEO, TEXT = ({"name": name, "shape": shape, "layout": layout, "keys": ""} for name, shape, layout in (
    ("audio", [6], "rows"), ("video", [5], "rows"), ("text", [7, 8], "sequence")))


LATER = ("loss", "loss_reduction", "huber_delta", "schedule", "selection", "selection_direction")


def widths(**changes: Any) -> dict[str, Any]:
    """A record as earlier versions wrote it: widths by modality instead of inputs."""
    return {"inputs": None, "dims": {"audio": 6, "video": 5, "text": 8, "steps": 7, **changes}}


@pytest.mark.parametrize(("change", "words"), [
    ({"step": "3"}, "step = '3'"), ({"step": -1}, "step = -1"), ({"step": 2**63}, "step = "), ({"step": True}, "step"),
    ({"step": 1.0}, "step = 1.0"), ({"good_steps": None}, "good_steps = None"), ({"loss_scale": 0}, "loss_scale = 0"),
    ({"loss_scale": float("inf")}, "Infinity is no number"),
    ({"loss_scale": float("nan")}, "NaN is no number"),
    ({"dims": [6, 5, 8, 7]}, "dims = [6, 5, 8, 7]"), ({"dims": {"audio": 6}}, "dims.video"),
    (widths(audio=6.0), "dims.audio = 6.0"), (widths(audio=0), "(inputs video, text, expected"),
    (widths(audio=7), "linear_1.weight is (16, 6), expected (16, 7)"), ({"inputs": None}, "inputs none, expected ['au"),
    ({"inputs": {}}, "inputs = {}"), ({"inputs": [AUDIO, VIDEO, {"name": "text"}]}, "inputs.2.shape"),
    ({"inputs": [AUDIO, VIDEO]}, "configuration can't be used (inputs audio, video, expected ['audio', 'video', 'te"),
    ({"inputs": [VIDEO, AUDIO, TEXT]}, "configuration can't be used (inputs video, audio, text, expected"),
    ({"inputs": [AUDIO, AUDIO, TEXT]}, "configuration can't be used (inputs audio, audio, text, expected"),
    ({"inputs": [{**AUDIO, "shape": [7]}, VIDEO, TEXT]}, "linear_1.weight is (16, 6), expected (16, 7)"),
    ({"inputs": [{**AUDIO, "shape": []}, VIDEO, TEXT]}, "inputs.0.shape = []"),
    ({"inputs": [{**AUDIO, "shape": [0]}, VIDEO, TEXT]}, "inputs.0.shape.0 = 0"),
    ({"inputs": [{**AUDIO, "shape": [6.0]}, VIDEO, TEXT]}, "inputs.0.shape.0 = 6.0"),
    ({"inputs": [{**AUDIO, "shape": [2, 3]}, VIDEO, TEXT]}, "input 'audio' has the shape (2, 3), expected width"),
    ({"inputs": [{**AUDIO, "layout": "cube"}, VIDEO, TEXT]}, "inputs.0.layout = 'cube'"),
    ({"inputs": [{**AUDIO, "layout": "sequence"}, VIDEO, TEXT]}, "input 'audio' has the shape (6,), expected steps x"),
    ({"inputs": [{**AUDIO, "layout": "sequence", "shape": [2, 6]}, VIDEO, TEXT]}, "audio_subnet.norm.weight is not p"),
    ({"inputs": [AUDIO, VIDEO, {**TEXT, "shape": [8]}]}, "input 'text' has the shape (8,), expected steps x width"),
    ({"inputs": [{**AUDIO, "keys": "smell"}, VIDEO, TEXT]}, "input audio: this model has keys for"),
    ({"inputs": [{**AUDIO, "keys": 3}, VIDEO, TEXT]}, "inputs.0.keys = 3"),
    ({"backend": 3}, "backend = 3"), ({"fingerprint": None}, "fingerprint = None"), ({"progress": []}, "progress = []"),
    ({"config": None}, "config = None"), ({"config": {"dataset": "x"}}, "configuration can't be used (dataset = 'x'"),
    ({"config": {"dataset": "mosi", "wrong": 1}}, "unknown key 'wrong'"), ({"tensors": {"x": 1}}, "tensors.x = 1"),
    ({"tensors": []}, "tensors = []"),
])
def test_records_that_say_something_else(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    reseal(path, lambda record: {**record, **change})
    refused(path, words)


def test_a_record_of_an_earlier_version(tmp_path: Path) -> None:
    """Widths instead of inputs, the keys of all models, and none of the keys that came later: the same checkpoint."""
    path, saved = tmp_path / "a.safetensors", make()
    save_checkpoint(path, saved)

    def older(record: dict[str, Any]) -> dict[str, Any]:
        config = {key: value for key, value in record["config"].items() if key not in LATER}
        return {**record, **widths(), "config": {**config, "post_fusion_dim": 32}}

    reseal(path, older)
    found = load_checkpoint(path)
    assert (found.config, found.inputs, found.graph) == (saved.config, saved.inputs, saved.graph)
    save_checkpoint(tmp_path / "b.safetensors", found)
    assert load_checkpoint(tmp_path / "b.safetensors").inputs == saved.inputs


@pytest.mark.parametrize("text", ["", "null", "[]", "7", '"x"', "{}", "[" * 100_000, '{"a":' * 100_000, '{"a":1,',
                                  '{"step": ' + "9" * 5000 + "}", "\x1b[31m", "{'step': 1}"])
def test_records_that_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, make())
    for sealed in (True, False):
        save_file(load_file(path), path, {"format": FORMAT, "record": text, **(
            {"sha256": hashlib.sha256(text.encode()).hexdigest()} if sealed else {})})
        refused(path, "its record: ")


def test_headers_that_are_too_much(tmp_path: Path) -> None:
    """A header of 40 MB would take safetensors seconds; types that NumPy lacks, and shapes that it can't make."""
    path = tmp_path / "a.safetensors"
    entry = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    for header, words in (
            (b"{" + b",".join(b'"%d":%s' % (i, entry) for i in range(700_000)) + b"}", "a header of "),
            (b"[" * 100_000, "not a readable safetensors file"),
            *((b'{"__metadata__":{"format":"lmf-checkpoint-1"},"weights/x":{"dtype":"%s","shape":%s,"data_offsets":[0,0]}}'
               % given, "not a readable safetensors file")
              for given in ((b"BF16", b"[0]"), (b"F8_E4M3", b"[0]"), (b"F32", b"[0,9223372036854775808]"),
                            (b"F32", b"[0" + b",1" * 70 + b"]")))):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        refused(path, words)


@pytest.mark.parametrize("damage", ["flipped", "NaN"])
@pytest.mark.parametrize("command", ["evaluate", "infer", "export"])
def test_commands_refuse_damage(refuse: Refuse, classified: Run, tmp_path: Path, data: Path, command: str, damage: str
                                ) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes((classified.folder / "best.safetensors").read_bytes())
    words = damaged(path, damage)
    refuse(command, "--checkpoint", str(path), "--data_dir", str(data), words=(str(path), words))


def damaged(path: Path, how: str) -> str:
    """Damage the audio factor of a checkpoint; what an error then says."""
    tensors = load_file(path)
    if how == "NaN":
        without_digests(path, **{"weights/audio_factor": np.full_like(tensors["weights/audio_factor"], np.nan)})
        return "audio_factor has "
    place = path.read_bytes().index(tensors["weights/audio_factor"].tobytes())
    path.write_bytes(flipped(path.read_bytes(), 8 * place))
    return "weights/audio_factor is not what was written (sha256 "


@pytest.mark.parametrize("damage", ["flipped", "NaN"])
@pytest.mark.parametrize("name", ["best", "last"])
def test_resume_refuses_damage(refuse: Refuse, classified: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               name: str, damage: str) -> None:
    """Before anything is trained, and the run stays as it was."""
    folder = tmp_path / classified.folder.name
    shutil.copytree(classified.folder, folder)
    words = damaged(folder / f"{name}.safetensors", damage)
    monkeypatch.setattr("core.runtime.start.open_session", lambda *_: Scripted([]))
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    refuse("train", "--resume", str(folder), words=(str(folder / f"{name}.safetensors"), words))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_resume_needs_moments(refuse: Refuse, classified: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / classified.folder.name
    shutil.copytree(classified.folder, folder)
    shutil.copy(folder / "best.safetensors", folder / "last.safetensors")
    monkeypatch.setattr("core.runtime.start.open_session", lambda *_: Scripted([]))
    refuse("train", "--resume", str(folder), words=("last.safetensors: has no moments of Adam",))


ROWS = [{"epoch": 1, "train_loss": 3.0, "valid_loss": 2.0, "best": True, "skipped_steps": 0},
        {"epoch": 2, "train_loss": 2.0, "valid_loss": 1.0, "best": True, "skipped_steps": 1},
        {"epoch": 3, "train_loss": 1.0, "valid_loss": 1.0, "best": False, "skipped_steps": 0, "later": "more"}]
BY_LOSS = selection_of(make_config({"dataset": "mosi"})).better
PROGRESS = {"epoch": 3, "best_loss": 1.0, "best_epoch": 2, "stale": 1, "history": ROWS}


def test_progress() -> None:
    assert read_progress(PROGRESS, Path("x"), BY_LOSS) == Progress(**PROGRESS)  # type: ignore[arg-type]


@pytest.mark.parametrize(("change", "words"), [
    ({"epoch": 2}, "epoch = 2, by its history 3"), ({"best_loss": 0.5}, "best_loss = 0.5, by its history 1.0"),
    ({"best_epoch": None}, "best_epoch = None"), ({"stale": 0}, "stale = 0"), ({"stale": "1"}, "stale = '1'"),
    ({"history": None}, "history = None"), ({"history": [1]}, "0 = 1"), ({"history": ROWS[1:]}, "row 1"),
    ({"history": [*ROWS[:2], {**ROWS[2], "best": True}]}, "row 3 of its history"),
    ({"history": [*ROWS[:2], {**ROWS[2], "valid_loss": float("nan")}]}, "2.valid_loss = nan"),
    ({"history": [*ROWS[:2], {**ROWS[2], "valid_loss": "1"}]}, "2.valid_loss = '1'"),
    ({"history": [*ROWS[:2], {**ROWS[2], "skipped_steps": -1}]}, "2.skipped_steps = -1"),
    ({"history": [{"epoch": 1}]}, "0.train_loss"),
])
def test_progress_that_does_not_follow(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_progress({**PROGRESS, **change}, Path("last.safetensors"), BY_LOSS)
    assert str(caught.value).startswith("last.safetensors: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)
