"""Configuration files that are none: each gets one line, and none makes much work."""
from __future__ import annotations

from pathlib import Path

import pytest

from core.common.errors import UserError, one_line
from core.config import make_config
from core.config.flags import read_yaml
from core.config.yaml_files import MOST_BYTES

BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
NO_FILE: list[tuple[str, bytes, tuple[str, ...]]] = [
    ("deep lists", b"rank: " + b"[" * 50_000, ("6th level", "at most 5")),
    ("deep blocks", b"".join(b" " * i + b"a:\n" for i in range(400)), ("6th level",)),
    ("a bomb of aliases", b"a0: &a0 [x, x]\n" + BOMB.encode(), ("line 2", "alias *a0")),
    ("a list that holds itself", b"rank: &a [*a]", ("alias *a",)),
    ("an alias of nothing", b"rank: *a", ("alias *a",)),
    ("a date that is none", b"dataset: 2024-13-45", ("dataset = '2024-13-45'",)),
    ("a number of 5000 digits", b"rank: " + b"9" * 5000, ("a number of 5000 characters",)),
    ("of 5000 hexadecimal ones", b"seed: 0x" + b"f" * 5000, ("a number of 5002 characters",)),
    ("of many sixtieths", b"seed: " + b"1:" * 20000 + b"1", ("a number of 40001 characters",)),
    ("a number that is none", b"rank: !!int four", ("'four' is no number",)),
    ("a float that is none", b"rank: !!float four", ("'four' is no number",)),
    ("a truth that is none", b"rank: !!bool four", ("is not YAML", "four")),
    ("a date by its tag", b"rank: !!timestamp x", ("rank = 'x'",)),
    ("a key twice", b"dataset: mosi\nrank: 4\nseed: 1\nrank: 8\n", ("key 'rank' twice", "lines 2 and 4")),
    ("a key twice further down", b"dataset: own\ndescription:\n  inputs:\n  - name: a\n    name: b\n",
     ("key 'name' twice", "lines 4 and 5")),
    ("a key that is a list", b"? [a]\n: 1", ("is not YAML", "unhashable")),
    ("a key that is a number", b"4: 4", ("unknown key 4",)),
    ("a NUL", b"rank: 4\0", ("is not YAML", "special characters")),
    ("a NUL in a path", b'dataset: mosi\ndata_dir: "a\\0b"', ("data_dir = 'a\\x00b'", "NUL")),
    ("half a surrogate", b'dataset: mosi\noutput_path: "\\uD800"', ("output_path", "no path can have")),
    ("a name too long", b"dataset: mosi\nstore_dir: " + b"a" * 256, ("store_dir", "too long")),
    ("UTF-16", "rank: 4".encode("utf-16"), ("can't be read", "utf-8")),
    ("an object", b"!!python/object/apply:os.system [touch x]", ("is not YAML", "os.system")),
    ("two documents", b"rank: 4\n---\nrank: 5", ("is not YAML", "another document")),
    ("nothing", b"", ("holds a NoneType",)),
    ("a folder's worth", b"#" * (MOST_BYTES + 1), (f"more than {MOST_BYTES} bytes",)),
    ("many keys", b"".join(b"k%d: 1\n" % i for i in range(600)), ("more than 1000 keys and values",)),
    ("a huge loss scale", b"dataset: mosi\namp_level: O1\nloss_scale: 1e999", ("loss_scale = inf",)),
]


@pytest.mark.parametrize(("raw", "words"), [(raw, words) for _, raw, words in NO_FILE],
                         ids=[name for name, _, _ in NO_FILE])
def test_one_line_names_the_fault(raw: bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(raw)
    with pytest.raises(UserError) as error:
        make_config(read_yaml(path), {})
    line = one_line(error.value)
    for word in words:
        assert word in line, line
    assert len(line) < 600 and "\n" not in str(error.value)


def test_what_was_allowed_still_is(tmp_path: Path) -> None:
    """A byte order mark, an alias of a single value, a list of modalities in blocks, numbers as people write them."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbf# a comment\ndataset: mosi\naudio_dropout: &d 0.25\nvideo_dropout: *d\nmodalities:\n"
                     b"- audio\n- text\nlearning_rate: 1e-3\nseed: 1_000\nrank: 0x10\nsignature: 2024-01-02\n")
    config = make_config(read_yaml(path))
    assert config.video_dropout == 0.25 and config.modalities == ("audio", "text") and config.learning_rate == 0.001
    assert config.seed == 1000 and config.rank == 16 and config.signature == "2024-01-02"
