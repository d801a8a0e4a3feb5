"""What is wrong with data that can still be trained on: its scale, far rows, missing classes, shared rows."""
from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.constants import BATCHNORM_EPS, LAYERNORM_EPS
from core.common.errors import UserError
from core.config import build_graph, make_config
from core.data.findings import HEADS, findings_among
from core.data.published import feature_inputs
from core.data.specs import InputSpec
from core.training.prepare import prepare
from core.training.scale import scale_notes
from tests.data_samples import config_for, one_line, real_folder
from tests.running import content_of, needs, only_error, run, run_folder, train_flags, write_pickle

__all__ = ["real_folder"]
Content = dict[bytes, Any]


def found(folder: Path, dataset: str = "mosi", change: Callable[[Content], Any] = lambda content: None,
          **keys: Any) -> list[str]:
    """The findings of a small data set after `change`."""
    content = content_of(dataset)
    change(content)
    write_pickle(folder, dataset, content)
    return findings_among(prepare(config_for(folder, dataset, **keys))[0].notes)


def times(key: bytes, factor: float, *splits: bytes) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for split in splits or (b"train", b"valid", b"test"):
            content[split][key] = content[split][key] * factor
    return change


@pytest.mark.parametrize("dataset", ["mosi", "pom", "iemocap"])
def test_good_data_gets_no_word(tmp_path: Path, dataset: str) -> None:
    assert found(tmp_path, dataset) == []


@pytest.mark.parametrize(("dataset", "emotion"), [("mosi", None), ("pom", None), ("iemocap", "angry")])
def test_synthetic_data_gets_no_word(dataset: str, emotion: str | None) -> None:
    data, _ = prepare(make_config({"dataset": dataset, "emotion": emotion, "data": "synthetic"}))
    assert findings_among(data.notes) == []


@pytest.mark.parametrize(("dataset", "modalities"), [
    ("mosi", "audio,video,text"), ("mosi", "audio"), ("mosi", "video"), ("mosi", "text"),  # text: equal sentences
    ("pom", "audio,video"), ("pom", "video")])  # video: half of its rows are zero
def test_real_data_gets_no_word(real_folder: Path, tmp_path: Path, dataset: str, modalities: str) -> None:
    """Dead channels, tiny variances and zero rows are in it, and are no finding."""
    data, _ = prepare(config_for(real_folder, dataset, modalities=modalities, store_dir=tmp_path))
    assert findings_among(data.notes) == []


# --- scale

def test_scales_that_overflow_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        found(tmp_path, change=times(b"covarep", 1e30), batch_size=10)
    one_line(error, str(tmp_path), "train audio column 0 is -8.72e+29 in row 13", "over a batch of 10 overflow float32",
             "in all 6 columns", "rescale audio", "--modalities video,text", "--precision float64")
    assert found(tmp_path, change=times(b"covarep", 1e30), precision="float64") == []
    assert found(tmp_path, change=times(b"covarep", 1e30), modalities="video,text") == []
    assert found(tmp_path, change=times(b"covarep", 1e17)) == []


def test_one_lost_channel_is_a_note(tmp_path: Path) -> None:
    def outlier(content: Content) -> None:
        content[b"train"][b"facet"][3, 2] = 1e25

    [note] = found(tmp_path, change=outlier)
    assert note.startswith("lost scale: video column 2 is 1e+25 in row 3") and "1 of 5 columns give nothing" in note


def lost(audio: Array, **keys: Any) -> tuple[str, ...]:
    config = make_config({"dataset": "mosi", "modalities": "audio", **keys})
    graph = build_graph(config, feature_inputs(audio=audio.shape[1]))
    return scale_notes({"audio": audio.astype(np.float32)}, graph, config, "here")


@pytest.mark.parametrize("exponent", [*range(14, 18), *range(20, 38)])
def test_refused_is_what_float32_can_not_add(exponent: int) -> None:
    """Batch by batch in NumPy's float32: where their sums of squares are infinite, and only there."""
    draw = np.random.default_rng(0).normal(size=(64, 3))
    audio = (draw * 10.0**exponent).astype(np.float32)
    with np.errstate(over="ignore"):
        sums = np.array([((part - part.mean(0))**2).sum(0, dtype=np.float32) for part in np.split(audio, 4)])
    assert np.isinf(sums).all() or np.isfinite(sums).all()
    try:
        assert lost(audio, batch_size=16) == () and np.isfinite(sums).all()
    except UserError:
        assert np.isinf(sums).all()


def lost_steps(vision: Array, **keys: Any) -> tuple[str, ...]:
    config = make_config({"dataset": "mosi_aligned", "model": "msa", "modalities": "vision", **keys})
    graph = build_graph(config, [InputSpec("vision", vision.shape[1:], "sequence", keys="video")])
    return scale_notes({"vision": vision.astype(np.float32)}, graph, config, "here")


def test_steps_that_layer_norm_loses() -> None:
    """Below its eps, beyond its squares, or all alike; padding counts for nothing."""
    draw = np.random.default_rng(0).normal(size=(300, 4, 5))
    draw[:, :2] = 0
    assert lost_steps(draw) == lost_steps(draw * 1e17) == lost_steps(draw * 1e-9, layer_norm=False) == ()
    assert lost_steps(draw * 1e20, precision="float64") == ()
    [note] = lost_steps(draw * 1e-4)
    kept = np.median(np.sqrt(1 / (1 + LAYERNORM_EPS / (1e-4 * draw[:, 2:]).var(-1))))
    assert "vision is too small for LayerNorm" in note and "in 600 of 600 steps" in note
    assert f"{kept:.2g} is left" in note
    with pytest.raises(UserError, match=r"overflow float32, as in all 600 steps that vary; rescale vision"):
        lost_steps(draw * 1e21)
    far = draw.copy()
    far[290, 3] *= 1e21
    [note] = lost_steps(far)
    assert "in row 290" in note and "1 of 600 steps give nothing" in note
    with pytest.raises(UserError, match=r"two different numbers among its 1, .* use --layer_norm false"):
        lost_steps(draw[..., :1])


@pytest.mark.parametrize(("batch_size", "refused"), [(16, False), (1024, True)])
def test_the_larger_the_batch_the_sooner_it_overflows(batch_size: int, refused: bool) -> None:
    """1e36 for each square: 16 of them are a float32, 1024 are none."""
    audio = np.tile([[1e18], [-1e18]], (1024, 2))
    with pytest.raises(UserError, match=f"over a batch of {batch_size} overflow") if refused else nullcontext():
        assert lost(audio, batch_size=batch_size) == ()


def test_one_square_alone_may_overflow() -> None:
    """Row 7 does, in whatever batch it is; the variance over all rows times the batch does not."""
    audio = np.random.default_rng(0).normal(size=(2000, 3))
    audio[7, 1] = 3e19
    [note] = lost(audio, batch_size=2)
    assert "audio column 1 is 3e+19 in row 7" in note and "1 of 3 columns give nothing" in note
    audio[7, 1] = 1e19
    assert lost(audio, batch_size=2) == ()


@pytest.mark.parametrize(("deviations", "said"), [
    ([1e-6] * 4, "in 4 of 4 columns"), ([1e-6, 1e-6, 1e-6, 1], "in 3 of 4"), ([1e-6, 1e-6, 1, 1], None),
    ([0, 0, 0, 1], None), ([0, 0, 0, 1e-4], "in 1 of 1"), ([0.0224] * 4, None)])
def test_scales_below_eps_are_a_note(deviations: list[float], said: str | None) -> None:
    """Constant channels don't count: the published data has some."""
    audio = np.resize([1.0, -1.0], (8, 1)) * np.array(deviations) + 0.25
    notes = lost(audio)
    assert (notes == ()) is (said is None)
    if said:
        kept = np.sqrt(1 / (1 + BATCHNORM_EPS / min(d for d in deviations if d)**2))
        assert said in notes[0] and f"of their scale {kept:.2g} is left" in notes[0]


def test_a_mean_that_float32_rounds_by_more_than_the_spread() -> None:
    audio = np.random.default_rng(0).normal(size=(16, 3))
    audio[:, 1] = 1e9  # constant, as a time stamp or a sample count: what BatchNorm gives is its rounding
    [note] = lost(audio)
    assert "audio column 1 has the mean 1e+09" in note and "1 of 3 columns become noise" in note
    audio[:, 1] = 1e4
    assert lost(audio) == ()


def test_a_batch_of_one_row_is_not_normalised() -> None:
    audio = np.arange(10).reshape(5, 2) * 1e-9
    assert lost(audio, batch_size=2) and lost(audio, batch_size=1) == () == lost(audio[:1], batch_size=2)


@pytest.mark.parametrize(("factor", "said"), [
    (1e3, "text saturates the LSTM"), (1e25, "text saturates the LSTM"), (10, ""), (1e-3, ""),
    (1e-8, "text is too small for the LSTM"), (1e-30, "text is too small for the LSTM")])
def test_the_scale_of_text(tmp_path: Path, factor: float, said: str) -> None:
    """Gates that are 0 or 1 learn nothing, nor do those that see their biases only."""
    notes = found(tmp_path, change=times(b"glove", factor))
    assert [note.startswith(f"lost scale: {said}") for note in notes] == ([True] if said else [])


def test_sums_over_a_word_that_overflow(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        found(tmp_path, change=times(b"glove", 1e38), text_hidden=1)
    one_line(error, "train text holds", "e+38 in row", "overflow float32 in the LSTM", "rescale text")
    assert found(tmp_path, change=times(b"glove", 1e38), text_hidden=1, modalities="audio,video") == []


# --- rows

def test_rows_far_beyond_the_training_range(tmp_path: Path) -> None:
    """Another unit in one split: MindSpore and Paddle would validate on it without a word."""
    [note] = found(tmp_path, change=times(b"facet", 1e4, b"valid"))
    assert note.startswith("distant rows: valid video row ") and "10 of 10 rows hold values beyond" in note
    [note] = found(tmp_path, change=lambda content: content[b"test"][b"covarep"].__setitem__((7, 2), -1e12))
    assert note.startswith("distant rows: test audio row 7, column 2 is -1e+12, trained on ")
    assert found(tmp_path, change=times(b"facet", 3, b"valid")) == []


@pytest.mark.parametrize(("split", "words"), [
    ("train", "none of the 24 rows of train is happy; nothing of it can be learned"),
    ("valid", "none of the 10 rows of valid is happy; its valid scores tell nothing of it"),
    ("test", "none of the 12 rows of test is happy; its test scores tell nothing of it")])
def test_a_class_that_is_missing(tmp_path: Path, split: str, words: str) -> None:
    def only_negative(content: Content) -> None:
        content[b"happy"][split.encode()][b"label"][:] = [1, 0]

    assert found(tmp_path, "iemocap", only_negative) == [f"missing class: {words}"]


def copy(target: bytes, row: int, source: bytes, there: int, *keys: bytes) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        for key in keys or (b"covarep", b"facet", b"glove", b"label"):
            content[target][key][row] = content[source][key][there]
    return change


def test_rows_that_two_splits_share(tmp_path: Path) -> None:
    def several(content: Content) -> None:
        copy(b"test", 3, b"train", 17)(content)
        copy(b"test", 11, b"train", 2)(content)
        copy(b"test", 5, b"valid", 0)(content)

    assert found(tmp_path, change=several) == [
        "shared rows: 2 of 12 rows of test are also in train, the first: row 3, there row 17 (same audio, video, text "
        "and label); their scores tell nothing of new rows",
        "shared rows: 1 of 12 rows of test are also in valid, the first: row 5, there row 0 (same audio, video, text "
        "and label); their scores tell nothing of new rows"]


@pytest.mark.parametrize(("keys", "modalities", "same"), [
    ((b"glove", b"label"), "audio,text", False), ((b"glove", b"label"), "text", True), ((b"glove",), "text", False),
    ((b"covarep", b"facet", b"glove"), "audio,video,text", False)])
def test_the_same_row_has_the_same_label_and_all_modalities(tmp_path: Path, keys: tuple[bytes, ...], modalities: str,
                                                            same: bool) -> None:
    """Two people may say the same words; a modality that isn't used can't tell rows apart."""
    assert bool(found(tmp_path, change=copy(b"test", 3, b"train", 17, *keys), modalities=modalities)) is same


def test_rows_of_zeros_are_not_the_same_row(tmp_path: Path) -> None:
    def empty(content: Content) -> None:
        for split in (b"train", b"test"):
            for key in (b"covarep", b"facet", b"glove", b"label"):
                content[split][key][4] = 0

    assert found(tmp_path, change=empty) == []


def test_equal_sums_are_no_equal_rows(tmp_path: Path) -> None:
    """Candidates are found by the sum of their bits; two numbers the other way round have the same."""
    def swapped(content: Content) -> None:
        copy(b"test", 3, b"train", 17)(content)
        content[b"test"][b"covarep"][3] = content[b"test"][b"covarep"][3][::-1]

    assert found(tmp_path, change=swapped) == []


# --- where they are said

def test_said_before_the_first_epoch_and_kept(tmp_path: Path) -> None:
    needs("torch")
    content = content_of("iemocap")
    content[b"happy"][b"valid"][b"label"][:] = [1, 0]
    data = write_pickle(tmp_path / "data", "iemocap", content).parent
    done = run(tmp_path, "torch", "train", *train_flags("iemocap", data, tmp_path, "--epochs", "1"))
    said = "missing class: none of the 10 rows of valid is happy"
    before, _, after = done.stdout.partition("epoch   1")
    assert f"warning: {said}" in before and f"note: {said}" in after
    for name in ("run.json", "metrics.json"):
        assert said in (run_folder(done.stdout) / name).read_text(), name


def test_refused_before_there_is_a_run_folder(tmp_path: Path) -> None:
    needs("torch")
    content = content_of("mosi")
    times(b"covarep", 1e30)(content)
    data = write_pickle(tmp_path / "data", "mosi", content).parent
    done = run(tmp_path, "torch", "train", *train_flags("mosi", data, tmp_path / "runs"), code=2)
    only_error(done.stderr, "train audio column", "overflow float32", "rescale audio")
    assert not (tmp_path / "runs").exists()


def test_every_kind_has_a_name_of_its_own() -> None:
    assert len(set(HEADS)) == 4 and not any(":" in head or " (" in head for head in HEADS)  # tables cut there
