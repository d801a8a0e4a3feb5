"""What a file calls things is shown escaped, on one line, and never taken as markup."""
from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
from rich.table import Table

from core.common.errors import UserError, one_line
from core.common.text import LONGEST, printable, say, shown
from core.console import PlainConsole
from core.convert.__main__ import main as convert
from core.studies.search import main as search
from tests.published_files import Global, pickled
from tests.running import only_error

HOSTILE = "os\x1b[31m\u202e\x9b\udc80\u2028[/red]"
ESCAPED = "os\\x1b[31m\\u202e\\x9b\\udc80\\u2028[/red]"


def test_what_cannot_be_seen_is_escaped() -> None:
    assert printable(HOSTILE) == ESCAPED
    assert printable("Größe ± 5 µm, 模型") == "Größe ± 5 µm, 模型"
    assert one_line(UserError(f"a\n b: {HOSTILE}")) == f"a b: {ESCAPED.replace(chr(92) + 'u2028', ' ')}"


def test_a_long_name_leaves_the_way_out() -> None:
    line = one_line(UserError(f"x.pkl: {'a' * 10**6}; give another file"))
    assert line.startswith("x.pkl: aaa") and line.endswith("; give another file") and len(line) < LONGEST


def test_values_are_cut_short() -> None:
    assert shown("a" * 1000) == "'" + "a" * 199 + "..."
    assert shown(16**5000) == "a number of too many digits"
    assert shown({"\x1b": 1}) == r"{'\x1b': 1}"


def test_markup_of_a_file_stays_text() -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, width=200, highlight=False)
    table = Table("[b]name", title=f"{HOSTILE} :smile:")
    table.add_row(f"[red]{HOSTILE}\nnext")
    console.print(f"note: {HOSTILE}")
    console.print(table)
    say(HOSTILE, file)
    text = file.getvalue()
    assert text.count(ESCAPED) == 4 and "[red]os" in text and "[b]name" in text and ":smile:" in text
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize("raw", [
    pickled(Global("os\x1b[31m", "system")), pickle.dumps({"\x1b[31m": 1}),
    pickled({"fusion_bias": Global("torch", "\u202eload\udc80".encode("utf-8", "surrogatepass").decode("latin-1"))})])
def test_a_pickle_cannot_steer_a_terminal(raw: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "\x1b[2J.pkl"
    path.write_bytes(raw)
    assert convert(["--input", str(path), "--output", str(tmp_path / "x.safetensors")]) == 2
    line = only_error(capsys.readouterr().err, "\\x1b[2J.pkl")
    assert line.rstrip("\n").isprintable()


def test_a_key_of_yaml_cannot_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text('"\\e[31m\\u202E": 4\n')
    assert search(["--config", str(path)]) == 2
    assert only_error(capsys.readouterr().err, r"unknown key '\x1b[31m\u202e'").rstrip("\n").isprintable()
