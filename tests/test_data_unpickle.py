"""Pickles from strangers: arrays come out, nothing runs, garbage is one line."""
from __future__ import annotations

import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.common.errors import UserError
from core.data.unpickle import load_pickle
from tests.data_samples import one_line

ARRAYS = {
    "f8": np.arange(6.0).reshape(2, 3), "f4": np.ones((2, 1, 2), np.float32), "i8": np.array([[1, -2]]),
    "big": np.array([1.5, 2.5], ">f8"), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "names": np.array([b"ab", b"c"]), "words": np.array(["ab", "c"]), "empty": np.zeros((0, 3)),
    "scalar": np.float64(2.5), "flag": np.array([True, False]),
}


class Attack:
    """Creates a file when unpickled by pickle.load."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (open, (str(self.target), "w"))


def saved(folder: Path, raw: bytes) -> Path:
    path = folder / "x.pkl"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_survive_every_protocol(tmp_path: Path, protocol: int) -> None:
    back = load_pickle(saved(tmp_path, pickle.dumps({"a": [ARRAYS, (1, "x", b"y", None)]}, protocol)))
    assert back["a"][1] == (1, "x", b"y", None)
    for name, value in ARRAYS.items():
        assert back["a"][0][name].dtype.newbyteorder("=") == value.dtype.newbyteorder("="), name
        np.testing.assert_array_equal(back["a"][0][name], value)


def test_numpy_2_names(tmp_path: Path) -> None:
    raw = pickle.dumps(ARRAYS["f8"], 0).replace(b"numpy.core.", b"numpy._core.")
    np.testing.assert_array_equal(load_pickle(saved(tmp_path, raw)), ARRAYS["f8"])


def test_python_2_file(tmp_path: Path) -> None:
    """As Python 2 writes it: byte strings everywhere, also in the dtype."""
    raw = (b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
           b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
           b"K\x00tb\x89U\x08" + struct.pack("<2f", 1.5, -2) + b"tbs.")
    pickletools.dis(raw, open("/dev/null", "w"))  # noqa: SIM115
    back = load_pickle(saved(tmp_path, raw))
    np.testing.assert_array_equal(back[b"a"], np.array([1.5, -2], np.float32))


@pytest.mark.parametrize("protocol", range(6))
def test_attack_is_refused_and_does_nothing(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "pwned"
    path = saved(tmp_path, pickle.dumps({"train": Attack(target)}, protocol))
    with pytest.raises(UserError) as error:
        load_pickle(path)
    one_line(error, str(path), "refused", "open", "nothing of it was run")
    assert not target.exists()


@pytest.mark.parametrize("raw", [
    b"cnumpy\nload\n.", b"cnumpy.core.multiarray\n_reconstruct.__globals__\n.", b"cos\nsystem\n(S'x'\ntR.",
    b"\x80\x02cnumpy\ndtype\n}U\x01aK\x01sb.", b"\x80\x02cnumpy\nndarray\nK\x01\x85R.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
])
def test_other_doors_are_shut(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(UserError) as error:
        load_pickle(saved(tmp_path, raw))
    one_line(error, "x.pkl")


@pytest.mark.parametrize("raw", [
    b"(ios\nsystem\n.", b"(cnumpy\ndtype\no.", b"cnumpy\ndtype\n)\x81.", b"cnumpy\ndtype\n)}\x92.",
    b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00.", b"Pid\n.", b"NQ.", b"\x97.", b"N\x98.",
])
def test_opcodes_that_arrays_do_not_need(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(UserError) as error:
        load_pickle(saved(tmp_path, raw))
    one_line(error, "x.pkl", "KeyError")  # no such step


def test_build_changes_no_class_of_ours(tmp_path: Path) -> None:
    raw = b"\x80\x02cnumpy\ndtype\nN}X\x05\x00\x00\x00plainK\x00s\x86b."
    with pytest.raises(UserError) as error:
        load_pickle(saved(tmp_path, raw))
    one_line(error, "refused", "a change of a type")


@pytest.mark.parametrize(("raw", "words"), [
    (b"", ["empty", "0 bytes"]),
    (b"PK\x03\x04 not a pickle", ["not a readable pickle"]),
    (b"version https://git-lfs.github.com/graph/v1\n", ["not a readable pickle"]),
    (pickle.dumps(ARRAYS["f8"])[:-20], ["cut short"]),
    (b"\x80\x05\x96" + struct.pack("<Q", 2**46) + b".", ["cut short"]),
    (b"\x80\x02" + b"]" * 10 + b"a" * 9 + b".", ["more than 8 containers"]),
    (b"\x80\x02]q\x00h\x00a.", ["more than 8 containers"]),
])
def test_unusable_files(tmp_path: Path, raw: bytes, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        load_pickle(saved(tmp_path, raw), "the way out")
    one_line(error, "x.pkl", "the way out", *words)


def test_mentioned_sizes_cost_no_memory(tmp_path: Path) -> None:
    """A memo index of 4 billion: the C unpickler would allot 64 GiB for it."""
    assert load_pickle(saved(tmp_path, b"\x80\x02K\x01r\xff\xff\xff\xff.")) == 1


def test_array_whose_shape_lies(tmp_path: Path) -> None:
    raw = pickle.dumps(np.zeros(3), 2).replace(b"K\x03\x85", b"K\x04\x85")
    with pytest.raises(UserError) as error:
        load_pickle(saved(tmp_path, raw))
    one_line(error, "shape (4,)", "24 bytes")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_pickle(tmp_path / "none.pkl")
    one_line(error, "none.pkl", "No such file")


SEED = {protocol: pickle.dumps({b"train": {b"a": np.arange(3.0), b"o": np.array([{}], object)}}, protocol)
        for protocol in (0, 2, 5)}


@settings(max_examples=400, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # it may be busy here
@given(protocol=st.sampled_from(sorted(SEED)),
       edits=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=4))
def test_garbage_is_a_user_error(tmp_path: Path, protocol: int, edits: list[tuple[float, bytes]]) -> None:
    raw = bytearray(SEED[protocol])
    for place, piece in edits:
        at = int(place * len(raw))
        raw[at:at + len(piece) or at + 1] = piece
    try:
        load_pickle(saved(tmp_path, bytes(raw)))
    except UserError as error:
        assert "\n" not in str(error)
