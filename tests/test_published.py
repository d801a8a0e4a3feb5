"""Published numbers: every digit against a copy typed apart from the file, and the line that a mistake in it gets."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.common.errors import UserError
from core.data.tables import TABLES
from core.studies.tables.published import FILE, load_efficiency, load_published

# As printed: percentages, and MAE and Corr. A dot stands for what a system does not report.
RESULTS = """
                 MAE   Corr Acc-2 F1   Acc-7  MAE  Corr Acc   happy sad   angry neutral
paper_lmf        .912  .668 76.4  75.7 32.8   .796 .396 42.8  85.8  85.9  89.0  71.7
paper_tfn        .970  .633 73.9  73.4 32.1   .886 .093 31.6  83.6  82.8  84.2  65.4
paper_mfn        .965  .632 77.4  77.3 34.1   .805 .349 41.7  84.0  82.1  83.7  69.2
rerun_torch      1.069 .560 72.1  72.1 31.6   .863 .248 34.5  84.6  78.4  85.2  65.7
port_mindspore   1.080 .565 72.1  72.1 31.2   .822 .320 39.2  83.9  84.5  87.2  68.8
port_paddle      .     .    .     .    .      .    .    .     85.9  86.3  89.0  71.8
port_ascend_gpu  .     .    .     .    .      .    .    .     84.06 84.37 87.86 69.33
port_ascend_npu  .     .    .     .    .      .    .    .     83.74 84.06 89.38 71.34
"""
COLUMNS = [("mosi", "mosi", "MAE"), ("mosi", "mosi", "Corr"), ("mosi", "mosi", "Has0_acc_2"),
           ("mosi", "mosi", "Has0_F1_score"), ("mosi", "mosi", "Acc-7"),
           ("pom", "mean", "MAE"), ("pom", "mean", "Corr"), ("pom", "mean", "Acc"),
           ("iemocap", "happy", "F1"), ("iemocap", "sad", "F1"), ("iemocap", "angry", "F1"),
           ("iemocap", "neutral", "F1")]
PADDLE_ACCURACIES = {"happy": 0.8710021321961621, "sad": 0.8667377398720683, "angry": 0.8891257995735607,
                     "neutral": 0.7217484008528785}
# System, cell, batch size, training and test samples per second, step seconds.
SPEEDS = """
paper_tfn       .       .     340.74 1177.17 .
paper_lmf       .       .    1134.82 2249.90 .
port_ascend_gpu angry    64   171    .  .374
port_ascend_gpu sad     256   672    .  .381
port_ascend_gpu happy   256   684    .  .374
port_ascend_gpu neutral 256   679    .  .377
port_ascend_npu angry    64  2224    .  .028
port_ascend_npu sad     256  6873    .  .037
port_ascend_npu happy   256  6960    .  .037
port_ascend_npu neutral 256 10276    .  .025
"""
Content = dict[str, Any]


def test_results_are_the_printed_ones() -> None:
    rows = [line.split() for line in RESULTS.strip().splitlines()[1:]]
    systems = load_published()
    assert [system.key for system in systems] == [*(row[0] for row in rows), "course_msa"]
    assert systems[-1].values == {"msa": {"mosi_aligned": {
        "MAE": 1.0878, "Corr": 0.547, "Non0_acc_2": 0.7241, "Mult_acc_7": 0.3047}}}
    for system, row in zip(systems[:-1], rows, strict=True):
        printed = {place: float(number) / (1 if place[2] in ("MAE", "Corr") else 100)
                   for place, number in zip(COLUMNS, row[1:], strict=True) if number != "."}
        if system.key == "port_paddle":
            printed.update({("iemocap", emotion, "Acc-2"): float(f"{number:.4f}")
                            for emotion, number in PADDLE_ACCURACIES.items()})
        found = {(table, cell, metric): value for table, cells in system.values.items()
                 for cell, metrics in cells.items() for metric, value in metrics.items()}
        assert found == pytest.approx(printed, abs=1e-12), system.key


def test_shares_are_fractions() -> None:
    for system in load_published():
        for cells in system.values.values():
            for metrics in cells.values():
                assert all(0 <= value <= 1 for metric, value in metrics.items() if metric != "MAE")


def test_metrics_are_named_as_we_name_them() -> None:
    """A published number stands beside one of ours only under the same definition."""
    for table, spec in TABLES.items():
        for names in spec.reported.values():
            assert names and set(names) <= set(spec.data.task.metrics), table


def test_every_system_says_how_it_was_selected() -> None:
    systems = {system.key: system for system in load_published()}
    assert all(systems[key].selection == "not stated" for key in ("paper_tfn", "paper_mfn", "rerun_torch"))
    for key in ("paper_lmf", "port_mindspore", "port_paddle"):
        assert "epoch: lowest validation loss" in systems[key].selection
        assert "not stated" in systems[key].selection
    for key in ("port_ascend_gpu", "port_ascend_npu"):
        assert "best test F1 of up to 100 restarts" in systems[key].selection


def test_models_and_claimed_parameters() -> None:
    systems = load_published()
    assert {system.key: system.model for system in systems if system.model != "lmf"} == {
        "paper_tfn": "tfn", "paper_mfn": "mfn", "course_msa": "msa"}
    assert {system.key: system.parameters for system in systems if system.parameters is not None} == {
        "paper_lmf": 1.1e6, "paper_tfn": 12.5e6}


def test_speeds_are_the_printed_ones() -> None:
    rows = [[None if word == "." else word for word in line.split()] for line in SPEEDS.strip().splitlines()]
    found = [(e.system, e.cell, e.batch_size, e.train_samples_per_second, e.test_samples_per_second, e.step_seconds)
             for e in load_efficiency()]
    assert found == [(system, cell, *(None if number is None else float(number) for number in numbers))
                     for system, cell, *numbers in rows]
    for speed in load_efficiency():
        if speed.system.startswith("paper"):
            assert (speed.device, speed.remark) == ("Quadro K4200", "rank 4" if speed.system == "paper_lmf" else "")
        else:
            assert speed.device == speed.system[-3:].upper()
            assert speed.remark == "without the optimizer step and data loading"


def at(*keys: str | int, value: Any = None) -> Callable[[Content], None]:
    """Set (or, with None, delete) what lies at `keys`."""
    def change(content: Content) -> None:
        place: Any = content
        for key in keys[:-1]:
            place = place[key]
        if value is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value

    return change


MOSI = ("systems", 0, "values", "mosi", "mosi")
MISTAKES: list[tuple[Callable[[Content], None], tuple[str, ...]]] = [
    (at(*MOSI, "Acc-7", value=32.8), ("systems.paper_lmf.values.mosi.mosi.Acc-7", "32.8", "0 to 1", "fractions")),
    (at(*MOSI, "Corr", value=-1.2), ("mosi.mosi.Corr", "-1.2", "-1 to 1")),
    (at(*MOSI, "MAE", value=76.4), ("mosi.mosi.MAE", "76.4", "0 to 7")),
    (at(*MOSI, "MAE", value="0.912"), ("systems.0.values.mosi.mosi.MAE = '0.912'", "number")),
    (at(*MOSI, "MAE", value=True), ("systems.0.values.mosi.mosi.MAE = True", "number")),
    (at(*MOSI, "MAE", value=float("nan")), ("systems.0.values.mosi.mosi.MAE = nan", "finite")),
    (at(*MOSI, "Acc2", value=0.5), ("mosi.mosi.Acc2", "Has0_acc_2")),
    (at("systems", 0, "values", "mosi", "test", value={}), ("mosi.test", "a cell 'test'", "one of mosi")),
    (at("systems", 0, "values", "mosei", value={}), ("values.mosei", "one of mosi, pom, iemocap")),
    (at("systems", 1, "key", value="paper_lmf"), ("systems.1.key = 'paper_lmf'", "twice")),
    (at("systems", 2, "model", value="mult"), ("systems.2.model = 'mult'", "'lmf', 'tfn', 'mfn' or 'msa'")),
    (at("systems", 2, "selection", value=""), ("systems.2.selection = ''", "at least 1")),
    (at("systems", 2, "selection"), ("systems.2.selection", "required")),
    (at("systems", 2, "seed", value=1), ("systems.2.seed = 1", "nexpected")),
    (at("systems", 0, "parameters", value=-1.0), ("systems.0.parameters = -1.0", "greater than 0")),
    (at("efficiency", 0, "system", value="tfn"), ("efficiency.0.system = 'tfn'", "port_paddle")),
    (at("efficiency", 0, "step_seconds", value=0.0), ("efficiency.0.step_seconds = 0.0", "greater than 0")),
    (at("efficiency", 2, "cell", value="bored"), ("efficiency.2.cell = 'bored'", "happy")),
    (at("efficiency"), ("mapping of systems and efficiency",)),
]


@pytest.mark.parametrize(("change", "words"), MISTAKES, ids=lambda value: value[0] if type(value) is tuple else "")
def test_a_mistake_is_one_line_with_file_and_key(
        tmp_path: Path, change: Callable[[Content], None], words: tuple[str, ...]) -> None:
    content = yaml.safe_load(FILE.read_text())
    change(content)
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as caught:
        load_efficiency(path)
    assert len(str(caught.value).splitlines()) == 1
    for word in (str(path), *words):
        assert word in str(caught.value), f"{word!r} not in {str(caught.value)!r}"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"systems: [", b"- 1", b""])
def test_a_file_that_holds_no_tables(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "published.yaml"
    path.write_bytes(content)
    for load in (load_published, load_efficiency):
        with pytest.raises(UserError, match=r"published\.yaml"):
            load(path)
    with pytest.raises(UserError, match=r"none\.yaml: published numbers can't be read"):
        load_published(tmp_path / "none.yaml")
