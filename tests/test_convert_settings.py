"""What a whole module tells beside its weights, and what a hostile one may claim there."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.errors import UserError
from core.convert import convert
from core.convert.__main__ import main
from core.training.checkpoint import load_checkpoint
from tests.data_samples import one_line
from tests.published_files import Call, Global, old_module, paddle_tensors, saved, torch_legacy
from tests.running import only_error

Attributes = dict[str, dict[str, Any]]


def scalar(value: float) -> Call:
    """A NumPy float64, as pickled."""
    return Call(Global("numpy.core.multiarray", "scalar"),
                (Call(Global("numpy", "dtype"), ("f8", 0, 1)), Call(Global("_codecs", "encode"), (
                    np.float64(value).tobytes().decode("latin1"), "latin1"))))


def module(folder: Path, without: str = "none", outputs: int = 2, **attributes: dict[str, Any]) -> Path:
    """The file of a whole module with these attributes; modality `without` is left out."""
    tensors: dict[str, Array] = {
        name: np.ones((*value.shape[:-1], outputs), np.float32) if "factor" in name or name == "fusion_bias" else value
        for name, value in convert(saved(folder, paddle_tensors()), {}).state.weights.items()
        if not name.startswith(without)}
    value, storages = old_module(tensors, **attributes)
    path = folder / "module.pt"
    path.write_bytes(torch_legacy(value, storages))
    return path


def told(path: Path, **given: Any) -> dict[str, float]:
    config = convert(path, given).config
    return {key: getattr(config, f"{key}_dropout") for key in ("audio", "video", "text", "post_fusion")}


def test_what_drops_counts_more_than_what_it_was_made_from(tmp_path: Path) -> None:
    path = module(tmp_path, LMF={"audio_prob": 0.25, "text_prob": 0.75, "post_fusion_prob": 0},
                  **{"audio_subnet.drop": {"p": 0.125}})
    assert told(path) == {"audio": 0.125, "video": 0.5, "text": 0.75, "post_fusion": 0.0}  # of video nothing is told


def test_numbers_of_numpy(tmp_path: Path) -> None:
    assert told(module(tmp_path, LMF={"audio_prob": scalar(0.25)}))["audio"] == 0.25


CLAIMS: list[tuple[Any, str]] = [
    (float("nan"), "nan"), (float("inf"), "inf"), (1.0, "1.0"), (-0.5, "-0.5"), (7, "7"), (10**5000, "a int"),
    (-(2**70), "a int"), ("0.3", "a str"), ("\x1b[2J", "a str"), (True, "True"), (False, "False"), (None, "a NoneType"),
    ({"a": 1}, "a dict"), ([0.1], "a list"), (scalar(float("nan")), "nan"),
    (Global("torch.nn.modules", "X"), "a ClassName"),
]


@pytest.mark.parametrize("place", range(len(CLAIMS)))
def test_a_dropout_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], place: int) -> None:
    """One line, and nothing of the file's choosing in it; a flag is the way out."""
    value, shown = CLAIMS[place]
    path, target = module(tmp_path, **{"text_subnet.dropout": {"p": value}}), tmp_path / "out.safetensors"
    flags = ["--input", str(path), "--output", str(target)]
    assert main(flags) == 2
    line = only_error(capsys.readouterr().err, f"text_subnet.dropout.p is {shown}, expected a probability",
                      "--text_dropout")
    assert "\x1b" not in line and len(line) < 400 and not target.exists()
    assert main([*flags, "--text_dropout", "0.25"]) == 0
    assert load_checkpoint(target).config.text_dropout == 0.25


def test_a_dropout_of_what_is_not_there(tmp_path: Path) -> None:
    """LMF keeps three numbers whatever its modalities are: one that belongs to none may be anything."""
    path = module(tmp_path, "video", LMF={"audio_prob": 0.25, "video_prob": 3})
    assert convert(path, {}).progress["settings"] == {"audio_dropout": 0.25}


def test_the_command_says_what_it_took_and_what_a_flag_overrode(tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    path, target = module(tmp_path, LMF={"audio_prob": 0.25, "text_prob": 0.75}), tmp_path / "out.safetensors"
    assert main(["--input", str(path), "--output", str(target), "--text_dropout", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "from the module in the file: audio_dropout 0.25, text_dropout 0.75 (0.1 was given and wins)" in out
    assert "not in the file, so defaults: emotion happy, max_len 20, video_dropout 0.5;" in out
    assert load_checkpoint(target).config.text_dropout == 0.1
    assert load_checkpoint(target).progress["settings"] == {"audio_dropout": 0.25, "text_dropout": 0.75}


@pytest.mark.parametrize(("eps", "shown"), [(1e-3, "0.001"), (float("nan"), "nan"), ("x", "a str")])
def test_another_epsilon_is_another_network(tmp_path: Path, eps: Any, shown: str) -> None:
    convert(module(tmp_path, **{"video_subnet.norm": {"eps": 1e-5}}), {})
    with pytest.raises(UserError) as error:
        convert(module(tmp_path, **{"video_subnet.norm": {"eps": eps}}), {})
    one_line(error, f"video_subnet.norm.eps is {shown}, expected 1e-05", "other outputs")


@pytest.mark.parametrize(("outputs", "softmax", "good"), [(2, True, True), (1, False, True), (1, True, False),
                                                          (16, "yes", False)])
def test_scores_are_no_probabilities(tmp_path: Path, outputs: int, softmax: Any, good: bool) -> None:
    """Of logits `infer` writes the softmax, as such a network gives; scores have none."""
    path = module(tmp_path, outputs=outputs, LMF={"use_softmax": softmax})
    if good:
        convert(path, {})
        return
    with pytest.raises(UserError) as error:
        convert(path, {})
    one_line(error, "use_softmax is", "expected False", "scores, no probabilities")
