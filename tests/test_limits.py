"""Files built to be slow or large: what they announce is refused before any work is done for it."""
from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from core.common.errors import UserError, one_line
from core.convert import convert
from core.data.published import feature_inputs
from core.data.unlabelled import read_unlabelled
from core.data.unpickle import load_pickle
from tests.published_files import Global, Reference, emit, mindspore_ckpt, pickled, torch_zip

STORAGE = Global("torch", "FloatStorage")
TWICE = b"2\x86" * 60  # a pair of the pair before, 60 times: 2^60 values in 120 bytes
ENCODE = b"c_codecs\nencode\nq\x01X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"X\x06\x00\x00\x00latin1\x86q\x02R"
PAIRS = b"]q\x03(" + b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(50_000)) + b"e\x85q\x02"
ARRAY = emit(Global("numpy.core.multiarray", "_reconstruct")) + b")R(K\x01"
FLOATS = emit(Global("numpy", "dtype")) + b"U\x02f4\x85R"
PICKLES: list[tuple[str, bytes, str]] = [  # each would take minutes, hours or gigabytes
    ("a key of pairs", b"}N" + TWICE + b"Ns", "a name that is a tuple"),
    ("keys of pairs", b"}(N" + TWICE + b"Nu", "a name that is a tuple"),
    ("a dict of pairs", b"(N" + TWICE + b"Nd", "a name that is a tuple"),
    ("a dtype of pairs", emit(Global("numpy", "dtype")) + b"N" + TWICE + b"\x85R", "a name that is a tuple"),
    ("a codec of pairs", b"c_codecs\nencode\nU\x01aN" + TWICE + b"\x86R", "a name that is a tuple"),
    ("a million values", b"](" + b"N" * 10**6 + b"e", "more than 300000 steps"),
    ("one text, a thousand copies", b"](" + ENCODE + b"h\x01h\x02R" * 1000 + b"e", "more bytes than the file has"),
    ("a call with bytes", b"c_codecs\nencode\nU\x02abR", "a call with a bytes"),
    ("a shape of bytes", ARRAY + b"U\x02\xff\xff" + FLOATS + b"\x89U\x04abcdtb", "an array whose shape is bytes"),
    ("a shape of sizes beyond all", ARRAY + b"I%d\n\x85" % 2**80 + FLOATS + b"\x89U\x04abcdtb", "an array of shape"),
    ("a key of a megabyte", b"}\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b"Ns", "a name that is a int"),
    ("a set", b"\x8f", "KeyError"),
]
WEIGHTS: list[tuple[str, bytes, str]] = [
    ("pairs, a thousand times", pickled(None)[:2] + b"](ccollections\nOrderedDict\nq\x01" + PAIRS
     + b"R" + b"h\x01h\x02R" * 1000 + b"e.", "more than 300000 steps"),
    ("values without end", b"\x0a\x04\x0a\x00\x12\x00" * 10**6, "more than 50000 entries"),
    ("a tensor of axes", mindspore_ckpt({"a": np.zeros((1,) * 32)})
     .replace(b"\x08\x01" * 32, b"\x0a\x3e" + b"\x01" * 62),
     "more than 32 axes"),
]


def refused(read: Callable[[Path], object], path: Path, raw: bytes, words: str) -> None:
    path.write_bytes(raw)
    with pytest.raises(UserError) as error:
        read(path)
    assert words in one_line(error.value) and str(path) in one_line(error.value), one_line(error.value)


@pytest.mark.parametrize(("raw", "words"), [case[1:] for case in PICKLES], ids=[case[0] for case in PICKLES])
def test_pickles(raw: bytes, words: str, tmp_path: Path) -> None:
    refused(load_pickle, tmp_path / "x.pkl", b"\x80\x02" + raw + b".", words)
    if words != "an array of shape":  # of weights nothing but tensors is looked at
        refused(lambda path: convert(path, {}), tmp_path / "x.pkl", b"\x80\x02" + raw + b".", "x.pkl")


def test_a_size_that_is_only_mentioned(tmp_path: Path) -> None:
    """Python allots what is asked for before it reads: a terabyte for 13 bytes."""
    refused(load_pickle, tmp_path / "x.pkl", b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"N.", "cut short")


@pytest.mark.parametrize(("raw", "words"), [case[1:] for case in WEIGHTS], ids=[case[0] for case in WEIGHTS])
def test_weights(raw: bytes, words: str, tmp_path: Path) -> None:
    refused(lambda path: convert(path, {}), tmp_path / "x.bin", raw, words)


def zipped(**entries: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, raw in entries.items():
            archive.writestr(f"{name}.npy", raw)
    return file.getvalue()


def npy(shape: tuple[int, ...], raw: bytes = b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + raw


def unlabelled(path: Path) -> object:
    return read_unlabelled(path, feature_inputs(audio=4), 5)


def test_arrays(tmp_path: Path) -> None:
    many = zipped(**{str(i): b"" for i in range(20_000)})
    refused(unlabelled, tmp_path / "x.npz", many, "a zip directory of")
    refused(lambda path: convert(path, {}), tmp_path / "x.pt", many, "a zip directory of")
    refused(unlabelled, tmp_path / "x.npz", zipped(audio=npy((10**11, 4))), "cannot reshape")
    file = io.BytesIO()
    np.savez_compressed(file, audio=np.zeros((2**21 + 1, 4)))  # 64 MiB of zeros in 64 kB
    refused(unlabelled, tmp_path / "x.npz", file.getvalue(), "unpacks to 67109024 bytes")
    file = io.BytesIO()
    np.savez_compressed(file, audio=np.zeros((2**16, 4)))
    (tmp_path / "x.npz").write_bytes(file.getvalue())
    unlabelled(tmp_path / "x.npz")  # what is padded with zeros is read


def header(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


BRACKETS = header(b'{"a":' + b"[" * 100_000)
MANY = header(b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(10_001))
              + b"}")
LONG = header(b'{"__metadata__":{"a":"' + b"b" * 2**25 + b'"}}')


@pytest.mark.parametrize(("raw", "words"), [(BRACKETS, "recursion limit"), (MANY, "10001 tensors"),
                                            (LONG, "a header of 33554457 bytes")])
def test_safetensors(raw: bytes, words: str, tmp_path: Path) -> None:
    refused(unlabelled, tmp_path / "x.safetensors", raw, words)
    refused(lambda path: convert(path, {}), tmp_path / "x.pt", raw, "safetensors file of another program")


def test_storages_that_share_their_bytes(tmp_path: Path) -> None:
    """400 entries of a directory that all point to one: 40 MB out of 140 kB."""
    names = [str(i) for i in range(400)]
    raw = torch_zip({"a": [Reference(("storage", STORAGE, name, "cpu", 250)) for name in names]},
                    {name: bytes(1000) for name in names})
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        first = archive.getinfo("archive/data/0").header_offset
    path = tmp_path / "x.pt"
    file = io.BytesIO(raw[:first + 2000])
    with zipfile.ZipFile(io.BytesIO(raw)) as whole, zipfile.ZipFile(file, "a") as archive:
        archive.filelist = whole.filelist
        for entry in archive.filelist[1:]:
            entry.header_offset = first
        archive._didModify = True
    refused(lambda path: convert(path, {}), path, file.getvalue(), "of storages, more than the file has")


def test_pipes_and_folders_are_no_files(tmp_path: Path) -> None:
    """Opened, a pipe would wait for a writer that never comes."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(UserError, match="is no file"):
            convert(path, {})
