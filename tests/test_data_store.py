"""The store: made once, redone when it has to be, whole or absent."""
from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from core.common.errors import UserError
from core.common.files import sha256_of
from core.data import load_dataset, readers, store
from core.data.published import feature_inputs
from tests.data_samples import config_for, content_of, one_line, real_folder, write

__all__ = ["real_folder"]


def loads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A list that grows with every pickle that is read."""
    seen: list[Path] = []
    original = readers.load_pickle

    def counted(path: Path, *way_out: str) -> Any:
        seen.append(path)
        return original(path, *way_out)

    monkeypatch.setattr(readers, "load_pickle", counted)
    return seen


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "store").iterdir())


def test_the_pickle_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = write(tmp_path, "pom", content_of("pom")), loads(monkeypatch)
    first = load_dataset(config_for(tmp_path, "pom"))
    again = load_dataset(config_for(tmp_path, "pom", modalities="video"))
    os.utime(path, (1, 1))  # touched, not changed
    load_dataset(config_for(tmp_path, "pom"))
    assert len(seen) == 1
    np.testing.assert_array_equal(first.splits["test"].arrays["video"], again.splits["test"].arrays["video"])
    assert stored(tmp_path) == [f"pom-{sha256_of(path)[:12]}.safetensors", "pom.manifest.json", "pom.verified.json"]


def test_redone_when_the_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, seen = content_of("mosi"), loads(monkeypatch)
    path = write(tmp_path, "mosi", content, protocol=4)
    old = load_dataset(config_for(tmp_path, "mosi"))
    stamp = path.stat()
    content["train"]["covarep"][0, 0] = 42
    write(tmp_path, "mosi", content, protocol=4)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same size, same time: still noticed
    assert path.stat().st_size == stamp.st_size
    new = load_dataset(config_for(tmp_path, "mosi"))
    assert len(seen) == 2 and new.splits["train"].arrays["audio"][0, 0] == 42
    assert new.fingerprint != old.fingerprint
    assert stored(tmp_path) == [f"mosi-{sha256_of(path)[:12]}.safetensors", "mosi.manifest.json", "mosi.verified.json"]


def test_an_unchanged_source_is_not_even_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "mosi", content_of("mosi"))
    load_dataset(config_for(tmp_path, "mosi"))
    monkeypatch.setattr(store, "sha256_of", None)
    assert load_dataset(config_for(tmp_path, "mosi")).splits["train"].rows == 7


def damage(path: Path, how: str) -> None:
    tensors = next(path.glob("*.safetensors"))
    manifest = next(path.glob("*.manifest.json"))
    if how == "gone":
        tensors.unlink()
    elif how == "short":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    elif how == "another":
        save_file({name: value[:1] for name, value in load_file(tensors).items()}, tensors)
    elif how == "garbage":
        tensors.write_bytes(b"\xff" * tensors.stat().st_size)
    elif how == "manifest":
        manifest.write_text(manifest.read_text()[:-30])
    elif how == "schema":
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 0}))


@pytest.mark.parametrize("how", ["gone", "short", "another", "garbage", "manifest", "schema"])
def test_a_damaged_store_is_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    write(tmp_path, "mosi", content_of("mosi"))
    seen = loads(monkeypatch)
    before = load_dataset(config_for(tmp_path, "mosi"))
    damage(tmp_path / "store", how)
    after = load_dataset(config_for(tmp_path, "mosi"))
    assert len(seen) == 2 and after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after.splits["train"].arrays["text"], before.splits["train"].arrays["text"])


def test_store_lost_between_look_and_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "mosi", content_of("mosi"))
    original, calls = store.Store.read, []

    def lossy(self: store.Store, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            self.path.unlink()
        return original(self, *args)

    monkeypatch.setattr(store.Store, "read", lossy)
    assert load_dataset(config_for(tmp_path, "mosi")).splits["train"].rows == 7
    assert len(calls) == 2


def test_manifest(tmp_path: Path) -> None:
    content = content_of("mosi")
    content["train"]["covarep"][0, 0] = np.inf
    path = write(tmp_path, "mosi", content)
    load_dataset(config_for(tmp_path, "mosi", store_dir=tmp_path / "elsewhere"))
    manifest = json.loads((tmp_path / "elsewhere" / "mosi.manifest.json").read_text())
    file = tmp_path / "elsewhere" / manifest["store"]["file"]
    assert manifest["source"]["sha256"] == sha256_of(path)
    assert manifest["source"]["bytes"] == path.stat().st_size
    text = load_file(file)["train/text"]
    assert manifest["tensors"]["train/text"] == {"shape": [7, 5, 6], "dtype": "float32",
                                                 "sha256": hashlib.sha256(text.tobytes()).hexdigest()}
    assert manifest["store"]["bytes"] == file.stat().st_size
    assert manifest["parts"][""]["cleaning"]["train"]["audio"]["posinf"] == 1


def test_only_the_tensors_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "iemocap", content_of("iemocap"))
    load_dataset(config_for(tmp_path, "iemocap"))
    names: list[str] = []

    class Counting:
        def __init__(self, *args: Any, **keys: Any) -> None:
            self.file = safe_open(*args, **keys)

        def __enter__(self) -> Counting:
            self.file.__enter__()
            return self

        def __exit__(self, *args: Any) -> None:
            self.file.__exit__(*args)

        def keys(self) -> Any:
            return self.file.keys()

        def get_tensor(self, name: str) -> Any:
            names.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(store, "safe_open", Counting)
    load_dataset(config_for(tmp_path, "iemocap", emotion="sad", modalities="audio"))
    assert sorted(names) == [f"sad/{split}/{name}" for split in ("test", "train", "valid")
                             for name in ("audio", "label")]


def test_unwritable_store(tmp_path: Path) -> None:
    write(tmp_path, "mosi", content_of("mosi"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        load_dataset(config_for(tmp_path, "mosi", store_dir=tmp_path / "file" / "store"))
    one_line(error, str(tmp_path / "file" / "store"), "--store_dir")


def test_data_dir_may_be_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "mosi", content_of("mosi")).rename(tmp_path / "mine.pickle")
    data = load_dataset(config_for(path, "mosi"))
    assert data.source == str(path) and (tmp_path / "store" / "mosi.manifest.json").is_file()


def test_fingerprint_follows_what_decides_the_data(tmp_path: Path) -> None:
    write(tmp_path, "iemocap", content_of("iemocap"))
    choices: list[dict[str, Any]] = [{}, {"emotion": "sad"}, {"modalities": "audio"}, {"max_len": 2}]
    prints = [load_dataset(config_for(tmp_path, "iemocap", **keys)).fingerprint for keys in choices]
    assert len(set(prints)) == 4
    same = [{"seed": 7}, {"rank": 2}, {"max_len": 9}]  # max_len beyond the 5 steps there are
    assert {load_dataset(config_for(tmp_path, "iemocap", **keys)).fingerprint for keys in same} == {prints[0]}


def test_two_processes_at_once(tmp_path: Path) -> None:
    write(tmp_path, "mosi", content_of("mosi"))
    code = ("import sys; from core.data import load_dataset; from core.config import make_config; "
            "d = load_dataset(make_config({'dataset': 'mosi', 'data_dir': sys.argv[1]})); "
            "print(d.fingerprint, float(d.splits['train'].arrays['text'].sum()))")
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE,
                             cwd=Path(__file__).parents[1]) for _ in range(3)]
    outputs = {run.communicate()[0] for run in runs}
    assert all(run.returncode == 0 for run in runs) and len(outputs) == 1
    assert len(stored(tmp_path)) == 3


@pytest.mark.parametrize(("dataset", "rows", "widths"), [
    ("mosi", (1284, 229, 686), (73, 100, 300, 20)), ("pom", (600, 100, 203), (43, 41, 0, 0))])
def test_real_data(real_folder: Path, tmp_path: Path, dataset: str, rows: tuple[int, ...],
                   widths: tuple[int, ...]) -> None:
    modalities = "audio,video" if dataset == "pom" else "audio,video,text"
    data = load_dataset(config_for(real_folder, dataset, modalities=modalities, store_dir=tmp_path))
    assert tuple(data.splits[name].rows for name in ("train", "valid", "test")) == rows
    assert data.inputs == feature_inputs(*widths)
    assert not any(sum(c.values()) for split in data.cleaning.values() for c in split.values())
    assert any("is not the published file" in note for note in data.notes)


def test_real_pom_has_no_text(real_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_dataset(config_for(real_folder, "pom", store_dir=tmp_path))
    one_line(error, "train glove", "constant", "--modalities audio,video")
