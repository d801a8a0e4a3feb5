"""Small data sets in the published schemas, for the tests of core/data."""
from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.errors import UserError
from core.config import Config, make_config

REAL = Path(os.environ.get("LMF_REAL_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))
WIDTH = {"covarep": 4, "facet": 3}
ROWS = {"train": 7, "valid": 3, "test": 4}


def split_of(dataset: str, rows: int, seed: int) -> dict[str, Any]:
    """One split with `str` keys; text (rows, 5, 6)."""
    draw = np.random.default_rng(seed)
    label = {"mosi": draw.uniform(-3, 3, (rows, 1)), "pom": draw.uniform(1, 7, (rows, 16)),
             "iemocap": np.eye(2)[draw.integers(0, 2, rows)]}[dataset]
    return {**{key: draw.normal(size=(rows, width)) for key, width in WIDTH.items()},
            "glove": draw.normal(size=(rows, 5, 6)), "label": label}


def content_of(dataset: str) -> dict[str, Any]:
    """A whole pickle's content; IEMOCAP with two of its four emotions."""
    def splits(seed: int) -> dict[str, Any]:
        return {name: split_of(dataset, rows, seed + rows) for name, rows in ROWS.items()}
    return {"happy": splits(10), "sad": splits(20)} if dataset == "iemocap" else splits(0)


def to_bytes_keys(value: Any) -> Any:
    return {k.encode(): to_bytes_keys(v) for k, v in value.items()} if isinstance(value, dict) else value


def write(folder: Path, dataset: str, content: Any, protocol: int = 2) -> Path:
    path = folder / f"{dataset}.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def config_for(folder: Path, dataset: str, **keys: Any) -> Config:
    return make_config({"dataset": dataset, "data_dir": folder, **keys})


def one_line(error: pytest.ExceptionInfo[UserError], *words: str) -> str:
    """The message: a single line that holds all `words`."""
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, f"{word!r} not in {text!r}"
    return text


@pytest.fixture(scope="session")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mosi.pkl and pom.pkl made of real data; skips where that data is not."""
    script = REAL / "build_reference_pickles.py"
    if not script.is_file():
        pytest.skip(f"real data: {script} is missing; set LMF_REAL_DATA")
    folder = tmp_path_factory.mktemp("real")
    subprocess.run([sys.executable, str(script), str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder
