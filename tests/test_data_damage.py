"""A store that is not what was written is converted again and says so; one that is, is not looked at twice."""
from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.errors import UserError
from core.common.files import remove_leftovers
from core.data import Dataset, load_dataset, manifest, store
from tests.data_samples import config_for, content_of, one_line, write
from tests.test_checkpoint_damage import flipped
from tests.test_data_store import loads

KINDS = {"tensors": "mosi-*.safetensors", "manifest": "mosi.manifest.json", "note": "mosi.verified.json"}
TENSORS = 12  # three splits of audio, video, text and label


@pytest.fixture(autouse=True)
def hang_guard() -> Iterator[None]:
    """To open a FIFO for reading waits for ever: then the test ends with an error."""
    def stop(*_: object) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(300)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path, "mosi", content_of("mosi"))


@pytest.fixture
def whole(source: Path) -> Dataset:
    return loaded(source)


def loaded(source: Path, **keys: Any) -> Dataset:
    return load_dataset(config_for(source.parent, "mosi", **keys))


def place(source: Path, kind: str) -> Path:
    return next((source.parent / "store").glob(KINDS[kind]))


def assert_same(one: Dataset, other: Dataset) -> None:
    assert one.fingerprint == other.fingerprint and one.cleaning == other.cleaning and one.notes == other.notes
    for split, content in one.splits.items():
        for name, value in content.arrays.items():
            assert value.tobytes() == other.splits[split].arrays[name].tobytes(), (split, name)


def write_in_place(path: Path, content: bytes) -> None:
    """Same inode, same size, and the mtime set back: only the ctime tells."""
    stamp = path.stat()
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_mtime_ns == stamp.st_mtime_ns and path.stat().st_ino == stamp.st_ino


def tensor_bits(content: bytes) -> dict[str, int]:
    """A bit somewhere in each tensor."""
    header, draw = 8 + int.from_bytes(content[:8], "little"), np.random.default_rng(5)
    layout = json.loads(content[8:header])
    return {name: 8 * (header + int(draw.integers(*entry["data_offsets"]))) + int(draw.integers(8))
            for name, entry in layout.items() if name != "__metadata__"}


def test_a_flipped_bit_in_a_tensor(source: Path, whole: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    path = place(source, "tensors")
    content = path.read_bytes()
    bits = tensor_bits(content)
    assert len(bits) == TENSORS
    for name, bit in bits.items():
        write_in_place(path, flipped(content, bit))
        assert_same(loaded(source), whole)
        said = capsys.readouterr().err
        assert said.startswith(f"warning: {path}: {name} is not what was written (sha256 ")
        assert said.endswith(f"; {source} is converted again\n") and len(said.splitlines()) == 1
        assert path.read_bytes() == content
        assert_same(loaded(source), whole)
        assert capsys.readouterr().err == "", "repaired"


@pytest.mark.parametrize("kind", ["tensors", "manifest"])
def test_a_flipped_bit_elsewhere(source: Path, whole: Dataset, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """In the header of the tensors' file; anywhere in the manifest."""
    path = place(source, kind)
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little") if kind == "tensors" else len(content)
    for bit in [0, 5, 63, *np.random.default_rng(6).integers(0, 8 * end, 25).tolist()]:
        content = path.read_bytes()
        write_in_place(path, flipped(content, bit))
        assert_same(loaded(source), whole)
        said = capsys.readouterr().err
        assert said.startswith("warning: ") and str(path) in said and len(said.splitlines()) == 1, (bit, said)
        assert said.endswith(f"; {source} is converted again\n")


def test_a_flipped_bit_in_the_note(source: Path, whole: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    """Then the store is verified once more, and the note is right again."""
    path = place(source, "note")
    content = path.read_bytes()
    for bit in np.random.default_rng(7).integers(0, 8 * len(content), 10).tolist():
        path.write_bytes(flipped(content, bit))
        assert_same(loaded(source), whole)
        assert capsys.readouterr().err == "" and path.read_bytes() == content


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def holds(content: bytes) -> Callable[[Path], None]:
    def put(path: Path) -> None:
        path.write_bytes(content)

    return put


IN_PLACE = {"a FIFO": fifo, "a device": device, "an empty folder": Path.mkdir, "nothing": lambda path: None,
            "an empty file": holds(b""), "deep nesting": holds(b"[" * 100_000),
            "deep objects": holds(b'{"a":' * 100_000), "too much": holds(b" " * 2**21 + b"{}"),
            "no text": holds(b"\xff\xfe\x00"), "a list": holds(b"[]"),
            "a number": holds(b"9" * 5000), "nothing in it": holds(b"{}")}


@pytest.mark.parametrize("what", IN_PLACE)
@pytest.mark.parametrize("kind", KINDS)
def test_something_else_in_its_place(source: Path, whole: Dataset, capsys: pytest.CaptureFixture[str], kind: str,
                                     what: str) -> None:
    path = place(source, kind)
    path.unlink()
    IN_PLACE[what](path)
    assert_same(loaded(source), whole)
    silent = kind == "note" or (kind, what) == ("manifest", "nothing")  # nothing was there: nothing is damaged
    said = capsys.readouterr().err
    assert (said == "") if silent else (str(path) in said and len(said.splitlines()) == 1), said
    if (kind, what) != ("note", "an empty folder"):
        assert path.is_file() and not path.is_symlink()
    assert_same(loaded(source), whole)
    assert capsys.readouterr().err == ""


def test_a_folder_with_files_stays(source: Path, whole: Dataset) -> None:
    path = place(source, "manifest")
    path.unlink()
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(UserError) as caught:
        loaded(source)
    one_line(caught, str(path.parent), "can't be written there", "choose a writable --store_dir")
    assert (path / "mine").read_text() == "mine"


def changed(source: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A manifest that says something else and has the sha256 of that."""
    path = place(source, "manifest")
    content = json.loads(path.read_text())
    del content["sha256"]
    content = change(content) or content
    text = json.dumps(content, sort_keys=True)
    path.write_text(json.dumps({**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}))


@pytest.mark.parametrize("change", [
    *({key: value} for key in ("schema", "source", "store", "tensors", "parts") for value in (None, [], "x", {"a": 1})),
    {"store": {"file": "../../etc/passwd", "bytes": 1}},
    {"store": {"file": "mosi-0123456789ab.safetensors", "bytes": 1}},
    {"parts": {"": {"modalities": "audio", "cleaning": {}, "useless": {}}}}, {"tensors": {}},
], ids=str)
def test_a_manifest_of_other_types(source: Path, whole: Dataset, capsys: pytest.CaptureFixture[str],
                                   change: dict[str, Any]) -> None:
    """It would pass as what was written, and is not believed either."""
    changed(source, lambda content: {**content, **change})
    assert_same(loaded(source), whole)
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("key", ["schema", "source", "store", "tensors", "parts"])
def test_a_manifest_that_lacks_a_key(source: Path, whole: Dataset, capsys: pytest.CaptureFixture[str], key: str
                                     ) -> None:
    changed(source, lambda content: content.pop(key) and None)
    assert_same(loaded(source), whole)
    assert key in capsys.readouterr().err


def test_a_store_of_an_earlier_version(source: Path, whole: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    """Without digests of tensors nothing can be said of them: it is made again, the data is the same."""
    path = place(source, "manifest")
    old = json.loads(path.read_text())
    for entry in [old, *old["tensors"].values()]:
        del entry["sha256"]
    path.write_text(json.dumps(old, indent=2))
    assert_same(loaded(source), whole)
    said = capsys.readouterr().err
    assert "an earlier version may have made it" in said and len(said.splitlines()) == 1


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows with every tensor that is verified."""
    seen: list[str] = []
    original = store.difference

    def counted(array: Any, written: Any) -> str | None:
        seen.append(written["sha256"])
        return original(array, written)

    monkeypatch.setattr(store, "difference", counted)
    return seen


def test_each_version_of_the_file_is_verified_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, pickles = hashed(monkeypatch), loads(monkeypatch)
    loaded(source)
    assert len(seen) == TENSORS, "what was just converted is verified as it lies on the disk"
    for keys in ({}, {"modalities": "audio"}, {"seed": 3}):
        loaded(source, **keys)
    assert len(seen) == TENSORS
    path = place(source, "tensors")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)  # as a copy of the folder would have it
    loaded(source)
    loaded(source)
    assert len(seen) == 2 * TENSORS and len(pickles) == 1


def test_where_nothing_can_be_noted_it_is_verified_each_time(
        source: Path, whole: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a folder without the right to write, which the superuser who may run these tests has everywhere."""
    note, seen = place(source, "note"), hashed(monkeypatch)
    note.unlink()
    (note / "in the way").mkdir(parents=True)
    for times in (1, 2):
        assert_same(loaded(source), whole)
        assert len(seen) == times * TENSORS
    path = place(source, "tensors")
    content = path.read_bytes()
    write_in_place(path, flipped(content, 8 * len(content) - 1))
    assert_same(loaded(source), whole)
    assert "is not what was written" in capsys.readouterr().err


def test_a_young_file_is_noted_when_a_change_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a tick of the file system's clock a file can change twice and keep its times."""
    now, slept = [1000.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(manifest.time, "time", lambda: now[0])
    monkeypatch.setattr(manifest.time, "sleep", sleep)

    def changed_at(seconds: float) -> manifest.Stamp:
        return [1, 0, int(seconds * 1e9), 1]

    assert manifest.settle(changed_at(999.0)) and not slept
    assert manifest.settle(changed_at(999.99)) and sum(slept) == pytest.approx(manifest.TICK - 0.01)
    assert not manifest.settle(changed_at(5000.0)), "a clock far ahead of ours proves nothing"
    assert len(slept) == 1, "nor is it waited for"


def test_a_killed_conversion_leaves_nothing(source: Path, whole: Dataset) -> None:
    folder = source.parent / "store"
    for name in (".mosi-0123456789ab.safetensors.abcd_123.tmp", ".mosi.manifest.json.abcd_123.tmp"):
        (folder / name).write_bytes(b"half")
    place(source, "manifest").unlink()
    loaded(source)
    assert not list(folder.glob(".*"))


def test_another_process_tidies_up_while_we_convert(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being written is locked, the very file: it isn't taken for a leftover."""
    sync, times = os.fsync, []

    def tidying(handle: int) -> None:
        times.append(handle)
        remove_leftovers(source.parent / "store")
        sync(handle)

    monkeypatch.setattr(os, "fsync", tidying)
    assert loaded(source).splits["train"].rows == 7
    assert len(times) == 3, "the tensors, the manifest, the note"
