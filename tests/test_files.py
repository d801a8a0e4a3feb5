"""Files are whole or absent, whatever happens while they are written."""
from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from core.common.errors import RunFailed
from core.common.files import atomic_path, read_bounded, remove_leftovers, sha256_of, write_json, write_text
from tests.running import environment, only_error

WRITE = """
import sys
from pathlib import Path
from core.common.errors import RunFailed
from core.common.files import write_text
try:
    write_text(Path(sys.argv[1]), "x" * 100_000)
except RunFailed as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from core.common.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "half" and names(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_exception_keeps_the_old_content(tmp_path: Path, kind: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(kind), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise kind
    assert path.read_text() == "old" and names(tmp_path) == ["file.txt"]


def test_the_disk_has_the_bytes_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr("os.fsync", lambda file: (calls.append("fsync"), sync(file))[1])
    monkeypatch.setattr("os.replace", lambda old, new: (calls.append("replace"), replace(old, new))[1])
    write_text(tmp_path / "file.txt", "text")
    assert calls == ["fsync", "replace"]


def test_nan_is_refused_in_json_before_anything_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"a": None})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"a": float("nan")})
    assert (tmp_path / "file.json").read_text() == '{\n  "a": null\n}\n' and names(tmp_path) == ["file.json"]


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    """A limit on the size of files fails the write as a full disk does; the old file stays."""
    path = tmp_path / "file.txt"
    write_text(path, "old")
    done = subprocess.run([sys.executable, "-c", WRITE, str(path)], cwd=tmp_path, env=environment(tmp_path, {}),
                          stderr=subprocess.PIPE, text=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)))
    assert done.returncode == 1
    only_error(done.stderr, str(path), "File too large", "free space or choose another folder")
    assert path.read_text() == "old" and names(tmp_path) == ["file.txt"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunFailed, match=r"taken/file\.txt: can't be written"):
        write_text(tmp_path / "taken" / "file.txt", "text")


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "file.txt").mkdir()
    with pytest.raises(RunFailed, match=r"file\.txt: can't be written"):
        write_text(tmp_path / "file.txt", "text")
    assert names(tmp_path) == ["file.txt"]


def test_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000  # more than one block of reading
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def killed_while_writing(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=path.parent,
                          env=environment(path.parent, {}), check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_killed_writers_left_goes_with_the_next_writing(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    for path in (one, one, other):
        killed_while_writing(path)
    assert len(list(tmp_path.glob(".*.tmp"))) == 2, "the second writer of a file removes what the first one left"
    write_text(one, "whole")
    assert [name.split(".")[1] for name in names(tmp_path) if name.endswith(".tmp")] == ["other"]
    remove_leftovers(tmp_path)
    assert names(tmp_path) == ["one.txt"]


def test_a_living_writer_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("first")
        write_text(path, "second")
        remove_leftovers(tmp_path)
        assert temporary.read_text() == "first"
    assert path.read_text() == "first" and names(tmp_path) == ["file.txt"]


def test_a_file_taken_away_before_it_was_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may look at a temporary file between its making and its locking."""
    made: list[str] = []
    original = tempfile.mkstemp

    def taken(**keys: str) -> tuple[int, str]:
        handle, name = original(**keys)
        made.append(name)
        if len(made) < 3:
            os.unlink(name)
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", taken)
    write_text(tmp_path / "file.txt", "text")
    assert len(made) == 3 and (tmp_path / "file.txt").read_text() == "text" and names(tmp_path) == ["file.txt"]


def test_only_names_of_temporary_files_are_leftovers(tmp_path: Path) -> None:
    mine = [".notes.tmp", "notes.tmp", ".a.txt..tmp", ".a.txt.12345678.TMP", ".a.txt.1234567.tmp",
            ".a.txt.ABCDEFGH.tmp", "a.12345678.tmp"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".folder.12345678.tmp").mkdir()
    (tmp_path / ".link.12345678.tmp").symlink_to(tmp_path / "notes.tmp")
    os.mkfifo(tmp_path / ".fifo.12345678.tmp")
    before = names(tmp_path)
    (tmp_path / ".a.txt.1234_678.tmp").write_text("left")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == before


def test_bounded_reading(tmp_path: Path) -> None:
    """What is no file of a bounded size is not waited for."""
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bounded(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_bounded(tmp_path / "file", 4)
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            read_bounded(path, 5)
