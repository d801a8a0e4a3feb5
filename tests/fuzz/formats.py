"""The formats: what a sound file of each looks like, and who reads it."""
from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from core.common.arrays import Array
from core.config import build_graph, changed, make_config, to_values
from core.config.flags import read_values
from core.convert import convert
from core.data import load_dataset
from core.data.published import DATASETS, feature_inputs
from core.data.readers import read_published
from core.data.unlabelled import read_unlabelled
from core.studies.tables.plan import run_name
from core.training.checkpoint import load_checkpoint, save_checkpoint
from core.training.trainer import full_state
from tests import published_files as foreign
from tests.data_samples import content_of, to_bytes_keys
from tests.fuzz.mutate import undigested, zipped
from tests.test_checkpoint import make as make_checkpoint

Files = dict[str, bytes]  # path below the case's folder -> content
INPUTS = feature_inputs(audio=4, video=3, text=6, steps=5)
SECONDS = 20
MINDSPORE = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


@dataclass(frozen=True)
class Format:
    """`seeds`: sound sets of files. `damaged`: which of them are to be damaged, and of what kind they are.

    `read` is called where the files lie, with the seed's number; it has so many `seconds` of processor time.
    """

    seeds: list[Files]
    damaged: Mapping[str, str]
    read: Callable[[int], Any]
    seconds: int = SECONDS


def written(write: Callable[[Path], Any], folder: Path) -> Files:
    """The files that `write` leaves in `folder`."""
    folder.mkdir(parents=True)
    write(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rezipped(raw: bytes) -> bytes:
    """Without the time of its making."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return zipped([(entry.filename, archive.read(entry)) for entry in archive.infolist()])


def configurations(_: Path) -> Format:
    texts = ["dataset: mosi\nrank: 4\nmodalities: [audio, text]\naudio_dropout: &d 0.25\nvideo_dropout: *d\n"
             "learning_rate: 0.001\n", "# a comment\n" + json.dumps(to_values(make_config(
                 {"dataset": "iemocap", "emotion": "sad", "model_path": "m"}))),
             "dataset: pom\namp_level: O1\nloss_scale: dynamic\nseed: 12\noutput_path: 'runs'\nepochs: null\n"]

    def read(_: int) -> None:
        config = make_config(*read_values({"config": "x.yaml"}))
        build_graph(config, INPUTS)
        run_name(config, "torch")

    return Format([{"x.yaml": text.encode()} for text in texts], {"x.yaml": "yaml"}, read)


def published(_: Path) -> Format:
    names = ("mosi", "pom", "iemocap", "mosi")
    seeds = [pickle.dumps(to_bytes_keys(content_of(name)), protocol) for name, protocol in
             zip(names, (2, 4, 2, 0), strict=True)]
    return Format([{"x.pkl": raw} for raw in seeds], {"x.pkl": "pickle"},
                  lambda seed: read_published(Path("x.pkl"), DATASETS[names[seed]]))


def unlabelled(_: Path) -> Format:
    draw = np.random.default_rng(0)
    arrays = {"audio": draw.normal(size=(2, 4)), "video": draw.normal(size=(2, 3)), "text": draw.normal(size=(2, 5, 6))}
    npz, packed = io.BytesIO(), io.BytesIO()
    np.savez(npz, **arrays)
    np.savez_compressed(packed, **arrays)
    seeds: list[Files] = [{"x.npz": rezipped(npz.getvalue())}, {"x.safetensors": save(arrays)},
                          {"x.pkl": pickle.dumps(arrays, 4)}, {"x.npz": rezipped(packed.getvalue())}]

    def read(seed: int) -> None:
        read_unlabelled(Path(next(iter(seeds[seed]))), INPUTS, 4)

    return Format(seeds, {"x.npz": "zip", "x.safetensors": "safetensors", "x.pkl": "pickle"}, read)


def store(folder: Path) -> Format:
    """A converted data set beside its pickle."""
    config = make_config({"dataset": "mosi", "data_dir": "data", "store_dir": "store"})

    def write(place: Path) -> None:
        (place / "data").mkdir()
        (place / "data/mosi.pkl").write_bytes(pickle.dumps(content_of("mosi"), 2))
        load_dataset(changed(config, {"data_dir": place / "data", "store_dir": place / "store"}))

    files = written(write, folder / "store")
    tensors = next(name for name in files if name.endswith(".safetensors"))
    manifest = json.loads(files["store/mosi.manifest.json"])
    manifest["source"]["stamp"] = [manifest["source"]["bytes"], 0, 0, 0]  # times and inodes are not the same twice
    files["store/mosi.manifest.json"] = json.dumps(manifest).encode()
    wanted = load_dataset(changed(config, {"data_dir": folder / "store/data", "store_dir": folder / "again"}))

    def read(_: int) -> None:
        """Whatever became of the store, the data is that of the pickle."""
        found = load_dataset(config)
        for name, split in wanted.splits.items():
            for key, array in split.arrays.items():
                if not np.array_equal(found.splits[name].arrays[key], array):
                    raise AssertionError(f"{name} {key} isn't what the pickle holds")

    return Format([files], {"store/mosi.manifest.json": "json", tensors: "safetensors"}, read)


def checkpoints(folder: Path) -> Format:
    def write(place: Path) -> None:
        save_checkpoint(place / "x.safetensors", make_checkpoint())

    def read(_: int) -> None:
        checkpoint = load_checkpoint(Path("x.safetensors"))
        full_state(checkpoint, checkpoint.graph, checkpoint.config)

    seed = written(write, folder / "checkpoint")
    older = {"x.safetensors": undigested(seed["x.safetensors"])}
    return Format([seed, older], {"x.safetensors": "safetensors"}, read)


def neutral(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Paddle's tensors under PyTorch's names, in its layouts."""
    return {name.replace("._mean", ".running_mean").replace("._variance", ".running_var"):
            np.ascontiguousarray(value.T) if ".linear_" in name and value.ndim == 2 else value
            for name, value in tensors.items()}


def foreign_checkpoints(_: Path) -> Format:
    paddle = foreign.paddle_tensors()
    tensors = neutral(paddle)
    mindspore = {re.sub(r"(?<=norm\.)\w+", lambda found: MINDSPORE[found[0]], name): value
                 for name, value in tensors.items()}
    storages = {str(place): array for place, array in enumerate(tensors.values())}
    floats = foreign.Global("torch", "FloatStorage")

    def tensor(key: str, array: Any) -> foreign.Call:
        stored = foreign.Reference(("storage", floats, key, "cpu", array.size, *((None,) if legacy else ())))
        strides = tuple(step // array.itemsize for step in array.strides)
        return foreign.Call(foreign.Global("torch._utils", "_rebuild_tensor_v2"), (
            stored, 0, array.shape, strides, False, foreign.Call(foreign.Global("collections", "OrderedDict"), ())))

    seeds: list[Files] = [{"x.pkl": pickle.dumps(paddle, 4)}, {"x.pkl": pickle.dumps(paddle, 2)},
                          {"x.ckpt": foreign.mindspore_ckpt(mindspore)}]
    for legacy in (False, True):
        named = {name: tensor(key, array) for (name, array), key in zip(tensors.items(), storages, strict=True)}
        if legacy:
            seeds.append({"x.bin": foreign.torch_legacy(named, storages)})
            continue
        drop = foreign.New(foreign.Global("torch.nn.modules.dropout", "Dropout"), {"p": 0.5})
        module = foreign.New(foreign.Global("model", "LMF"), {"_parameters": named, "_modules": {"drop": drop}})
        for value in (named, module):
            raw = foreign.torch_zip(value, {key: array.tobytes() for key, array in storages.items()})
            seeds.append({"x.pt": rezipped(raw)})

    def read(seed: int) -> None:
        convert(Path(next(iter(seeds[seed]))), {})

    return Format(seeds, {"x.pkl": "pickle", "x.ckpt": "bytes", "x.bin": "pickle", "x.pt": "zip"}, read)
