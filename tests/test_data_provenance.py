"""What a reader must be told about the data, wherever a number made from it stands."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.config import make_config
from core.data import load_dataset
from core.data.provenance import LEAKING, caveats, digest
from core.data.published import DATASETS, MODALITIES
from tests.data_samples import REAL
from tests.running import needs, run, run_folder, train_flags


@pytest.mark.parametrize(("modalities", "words"), [
    (("audio", "video"), ("pom without text",)), (("text",), ("pom without audio and video",)),
    (("audio", "video", "text"), ())])
def test_a_modality_left_out_is_named(modalities: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert caveats(DATASETS["pom"].chosen(modalities), {"video": np.ones((2, 3))}, MODALITIES) == words


def test_leaking_features_are_known_by_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    video = np.arange(6, dtype=np.float32).reshape(2, 3)
    monkeypatch.setitem(LEAKING, digest(video), "LEAKING: because")
    mosi = DATASETS["mosi"]
    assert caveats(mosi, {"video": video.astype(np.float64)}, MODALITIES) == ("LEAKING: because",)
    assert caveats(mosi, {"video": video + 1}, MODALITIES) == ()
    without = caveats(mosi.chosen(("audio", "text")), {}, MODALITIES)
    assert without == ("mosi without video",), "what isn't used can't leak"


def test_a_run_folder_repeats_them(data: Path, tmp_path: Path) -> None:
    needs("torch")
    flags = train_flags("pom", data, tmp_path, "--epochs", "1", "--modalities", "audio,video")
    done = run(tmp_path, "torch", "train", *flags)
    assert "note: pom without text" in done.stdout
    for name in ("run.json", "metrics.json"):
        assert "pom without text" in json.loads((run_folder(done.stdout) / name).read_text())["notes"]


@pytest.mark.parametrize(("split", "leaks"), [("official", True), ("clean", False)])
def test_the_real_files(split: str, leaks: bool, tmp_path: Path) -> None:
    """The official split's video features leak; text and audio of it, and the clean split, don't."""
    script = REAL / "build_reference_pickles.py"
    if not script.is_file():
        pytest.skip(f"{script} is missing; LMF_REAL_DATA names the folder of the real data")
    subprocess.run([sys.executable, str(script), str(tmp_path), "--mosi-split", split], check=True,
                   capture_output=True)
    values = {"dataset": "mosi", "data_dir": str(tmp_path)}
    assert any("LEAKING" in note for note in load_dataset(make_config(values)).notes) is leaks
    without = load_dataset(make_config({**values, "modalities": "audio,text"}))
    assert not any("LEAKING" in note for note in without.notes)
