"""Checkpoints of the ports for the tests: written by the frameworks, or byte by byte where none is needed."""
from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.common.arrays import Array
from tests.running import HANG, ROOT, environment

SIZES = {"audio": 6, "video": 5, "text": 8, "audio_hidden": 4, "video_hidden": 3, "text_hidden": 6, "text_out": 6,
         "rank": 2, "output_dim": 2}  # a square text linear: a wrong transposition keeps its shape
STEPS, ROWS = 4, 7
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def rows() -> dict[str, Array]:
    """Inputs, float64; rounded to float32 so that every framework sees the same numbers."""
    draw = np.random.default_rng(0)
    shapes = {"audio": (ROWS, SIZES["audio"]), "video": (ROWS, SIZES["video"]), "text": (ROWS, STEPS, SIZES["text"])}
    return {name: draw.normal(size=shape).astype(np.float32).astype(np.float64) for name, shape in shapes.items()}


def write_with(framework: str, folder: Path) -> Path:
    """Let `framework`, in a process of its own, write its files and the logits of its own network."""
    folder.mkdir()
    np.savez(folder / "rows.npz", **rows())
    script = ROOT / "tests" / "published" / f"write_{framework}.py"
    done = subprocess.run([sys.executable, str(script), json.dumps(SIZES)], cwd=folder, capture_output=True, text=True,
                          timeout=HANG, env=environment(folder, {}))
    assert done.returncode == 0, done.stderr
    return folder


def paddle_tensors() -> dict[str, Array]:
    """A complete network under Paddle's names and layouts, float32."""
    draw, s = np.random.default_rng(1), SIZES
    shapes: dict[str, tuple[int, ...]] = {"fusion_weights": (1, s["rank"]), "fusion_bias": (1, s["output_dim"])}
    for m in ("audio", "video"):
        width, hidden = s[m], s[f"{m}_hidden"]
        shapes[f"{m}_factor"] = (s["rank"], hidden + 1, s["output_dim"])
        shapes |= {f"{m}_subnet.norm.{key}": (width,) for key in ("weight", "bias", "_mean", "_variance")}
        for layer, fan_in in (("linear_1", width), ("linear_2", hidden), ("linear_3", hidden)):
            shapes |= {f"{m}_subnet.{layer}.weight": (fan_in, hidden), f"{m}_subnet.{layer}.bias": (hidden,)}
    hidden, out = s["text_hidden"], s["text_out"]
    shapes |= {"text_factor": (s["rank"], out + 1, s["output_dim"]),
               "text_subnet.rnn.weight_ih_l0": (4 * hidden, s["text"]),
               "text_subnet.rnn.weight_hh_l0": (4 * hidden, hidden), "text_subnet.rnn.bias_ih_l0": (4 * hidden,),
               "text_subnet.rnn.bias_hh_l0": (4 * hidden,), "text_subnet.linear_1.weight": (hidden, out),
               "text_subnet.linear_1.bias": (out,)}
    return {name: draw.uniform(0.1, 1, shape).astype(np.float32) for name, shape in shapes.items()}


def saved(folder: Path, tensors: Any, name: str = "x.pkl") -> Path:
    """As paddle.save writes a state dict: a pickle of arrays."""
    path = folder / name
    path.write_bytes(pickle.dumps(tensors, 4))
    return path


@dataclass
class Global:
    """module.name, as a pickle names it."""

    module: str
    name: str


@dataclass
class Call:
    function: Any
    arguments: tuple[Any, ...]


@dataclass
class New:
    """An empty instance of `kind`, then its state."""

    kind: Any
    state: Any


@dataclass
class Reference:
    """A persistent id."""

    value: Any


def emit(value: Any, python2: bool = False) -> bytes:
    """Opcodes of pickle protocol 2 for `value`; with `python2`, text is bytes, as Python 2 wrote it."""

    def many(values: Any) -> bytes:
        return b"".join(emit(item, python2) for item in values)

    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value) if abs(value) < 2**31 else pickle.dumps(value, 2)[2:-1]
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        raw = value.encode()
        return b"T" + struct.pack("<i", len(raw)) + raw if python2 else b"X" + struct.pack("<I", len(raw)) + raw
    if isinstance(value, tuple):
        return b"(" + many(value) + b"t"
    if isinstance(value, list):
        return b"](" + many(value) + b"e"
    if isinstance(value, dict):
        return b"}(" + many(part for item in value.items() for part in item) + b"u"
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return many((value.function, value.arguments)) + b"R"
    if isinstance(value, New):
        return emit(value.kind, python2) + b")\x81" + emit(value.state, python2) + b"b"
    return emit(value.value, python2) + b"Q"


def pickled(value: Any, python2: bool = False) -> bytes:
    return b"\x80\x02" + emit(value, python2) + b"."


def torch_zip(value: Any, storages: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """As torch.save since 1.6."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled(value))
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)
    return file.getvalue()


def torch_legacy(value: Any, storages: dict[str, Array], python2: bool = False, system: Any = None) -> bytes:
    """As torch.save before 1.6: pickles, then each storage with its count."""
    head: list[Any] = [LEGACY_MAGIC, 1001, {"little_endian": True} if system is None else system, value, list(storages)]
    return b"".join(pickled(item, python2) for item in head) + b"".join(
        struct.pack("<q", array.size) + array.tobytes() for array in storages.values())


def old_module(tensors: dict[str, Array], **attributes: dict[str, Any]) -> tuple[Any, dict[str, Array]]:
    """A whole module as PyTorch 0.3 pickled it on a GPU, and its storages: the LSTM's weights share one.

    `attributes` of inner modules, by name, a module without tensors too; those of the network itself under `LMF`.
    """
    storages: dict[str, Array] = {}

    def tensor(name: str, data: Array) -> Call:
        strides = tuple(step // data.itemsize for step in data.strides)
        key, offset, count, view = str(len(storages)), 0, data.size, None
        if ".rnn." in name:
            flat = storages.setdefault("lstm", np.zeros(0, np.float32))
            key, offset = "lstm", flat.size
            storages[key] = np.concatenate([flat, np.ascontiguousarray(data).ravel()])
            count = sum(value.size for other, value in tensors.items() if ".rnn." in other)
        elif data.ndim == 2:  # stored the other way round, and seen through a view
            storages[key] = np.concatenate([np.zeros(3, np.float32), np.asfortranarray(data).ravel(order="K")])
            strides, count, view = (1, data.shape[0]), data.size + 3, (key + "v", 3, data.size)
        else:
            storages[key] = data
        storage = Reference(("storage", Global("torch.cuda", "FloatStorage"), key, "cuda:0", count, view))
        return Call(Global("torch._utils", "_rebuild_tensor"), (storage, offset, data.shape, strides))

    def ordered(items: dict[str, Any]) -> Call:
        return Call(Global("collections", "OrderedDict"), ([[key, value] for key, value in items.items()],))

    def module(kind: Any, prefix: str) -> New:
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        named = [*own, *(f"{name}.".removeprefix(prefix) for name in attributes if name.startswith(prefix))]
        inner = dict.fromkeys(name.split(".")[0] for name in named if "." in name and not name.startswith("LMF"))
        plain = {name: tensor(prefix + name, value) for name, value in own.items() if "." not in name}
        buffers = {name: value for name, value in plain.items() if name.startswith("running_")}
        parameters = {name: Call(Global("torch.nn.parameter", "Parameter"), (value,))
                      for name, value in plain.items() if name not in buffers}
        spare = New(Global("torch.backends.cudnn.rnn", "Unserializable"), "<unserializable>")
        backend = Call(Global("torch.nn.backends.thnn", "_get_thnn_function_backend"), ())
        return New(kind, {
            **attributes.get(prefix.removesuffix(".") or "LMF", {}),
            "_backend": backend, "training": False, "dropout_state": {"desc_0": spare}, "_parameters":
            ordered(parameters), "_buffers": ordered(buffers), "_modules": ordered({
                name: module(Global("torch.nn.modules.linear", "Linear"), f"{prefix}{name}.") for name in inner})})

    return module(Reference(("module", Global("model", "LMF"), "model.py", "class LMF: raise SystemExit")),
                  ""), storages


def mindspore_ckpt(tensors: dict[str, Array]) -> bytes:
    """As mindspore.save_checkpoint: protobuf, written by hand."""

    def field(number: int, raw: bytes) -> bytes:
        return bytes([number << 3 | 2]) + _varint(len(raw)) + raw

    kinds = {"f": "Float", "i": "Int"}
    values = []
    for name, array in tensors.items():
        dims = b"".join(b"\x08" + _varint(size) for size in array.shape)
        kind = f"{kinds[array.dtype.kind]}{array.itemsize * 8}".encode()
        values.append(field(1, field(1, name.encode()) + field(2, dims + field(2, kind) + field(3, array.tobytes()))))
    return b"".join(values)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])
