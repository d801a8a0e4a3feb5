"""Files are whole or absent, whatever happens while they are written."""
from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import RunFailed
from core.files import atomic_path, sha256_of, write_json, write_text
from tests.running import environment, only_error

WRITE = """
import sys
from pathlib import Path
from core.errors import RunFailed
from core.files import write_text
try:
    write_text(Path(sys.argv[1]), "x" * 100_000)
except RunFailed as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
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
