"""From run folders to rows: which runs, which numbers, beside which published ones."""
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core.common.errors import UserError
from core.data.published import DATASETS, POM_TRAITS
from core.data.tables import TABLES
from core.studies.tables.arms import LOSS
from core.studies.tables.assemble import Row, Table, build_tables, short
from core.studies.tables.equivalence import Pair, compare_backends
from core.studies.tables.frames import table_sheet
from core.studies.tables.plan import Job, run_path
from core.studies.tables.results import load_entries
from core.studies.tables.statistics import summarise
from tests.planned import jobs_of
from tests.table_folders import LEAK, NO_TEXT, NOT_PUBLISHED, finish, job, plan

MEAN = TABLES["pom"].mean
AV = ("audio", "video")
SEEDS = (1, 2, 3, 4, 5)


def tables_of(output: Path) -> dict[str, Table]:
    return {table.key: table for table in build_tables(load_entries(output))}


def pick(rows: tuple[Row, ...], metric: str, cell: str = "mosi", system: str = "LMF audio+video+text") -> Row:
    return next(row for row in rows if (row.metric, row.cell, row.system) == (metric, cell, system))


def pom_jobs(*seeds: int, backend: str = "torch") -> list[Job]:
    """All traits; those named alike share a run, as equal configurations do."""
    return [job("pom", trait, backend, seed, modalities=AV) for seed in seeds for trait in POM_TRAITS]


def test_statistics_are_over_all_seeds(tmp_path: Path) -> None:
    jobs = [job("mosi", seed=seed) for seed in SEEDS]
    for one in jobs:
        finish(tmp_path, one)
    plan(tmp_path, *jobs)
    for row in tables_of(tmp_path)["mosi"].rows:
        if row.setup:
            stored = [json.loads((run_path(tmp_path, one.run) / "metrics.json").read_text())["test"][row.metric]
                      for one in jobs]
            assert row.arms["torch"].values == dict(zip(SEEDS, stored, strict=True))
            assert row.arms["torch"].summary == summarise(stored)


def test_missing_seeds_are_named_with_their_reason(tmp_path: Path) -> None:
    jobs = [job("mosi", seed=seed) for seed in SEEDS]
    for one in jobs[:2]:
        finish(tmp_path, one)
    finish(tmp_path, jobs[3])
    (run_path(tmp_path, jobs[3].run) / "metrics.json").unlink()
    plan(tmp_path, *jobs, failures={jobs[2].run: "epoch 2: loss is nan", jobs[0].run: "of an earlier time"})
    table = tables_of(tmp_path)["mosi"]
    arm = pick(table.rows, "MAE").arms["torch"]
    assert sorted(arm.values) == [1, 2]
    assert arm.missing == {3: "failed: epoch 2: loss is nan", 4: "not finished after 5 epochs", 5: "not started"}
    assert table.missing[0] == "LMF audio+video+text, mosi, torch, seed 3: failed: epoch 2: loss is nan"


@pytest.mark.parametrize("numbers", [[0.9, 0.0, 0.9, 0.9], [0.0, 0.0, 0.0, 1.0], [0.5] * 4, [1e9, -1e9, 0.0, 0.1]])
def test_no_test_number_decides_what_is_in_a_row(tmp_path: Path, numbers: list[float]) -> None:
    """Whatever the scores, finished and missing seeds together are the planned ones, and the mean is over all."""
    jobs = [job("iemocap", "sad", seed=seed) for seed in SEEDS]
    for one, value in zip(jobs[:4], numbers, strict=False):
        finish(tmp_path, one, test={"F1": value})
    plan(tmp_path, *jobs)
    arm = pick(tables_of(tmp_path)["iemocap"].rows, "F1", "sad").arms["torch"]
    assert list(arm.values.values()) == numbers and list(arm.missing) == [5]
    assert arm.summary.mean == pytest.approx(np.mean(numbers), abs=1e-12)


def test_pom_averages_each_cell_s_own_trait(tmp_path: Path) -> None:
    jobs = pom_jobs(1, 2)
    values = {one.run: {f"MAE {trait}": float(i + 100 * (trait == one.cell) + one.seed)
                        for i, trait in enumerate(POM_TRAITS)} for one in jobs}
    for one in jobs:
        finish(tmp_path, one, test=values[one.run])
    plan(tmp_path, *jobs)
    tables = tables_of(tmp_path)
    row = pick(tables["pom"].rows, "MAE", MEAN, "LMF audio+video")
    assert row.arms["torch"].values == {1: 108.5, 2: 109.5}  # 100 + mean of 0..15 + seed
    vivid = pick(tables["pom_traits"].rows, "MAE", "vivid", "LMF audio+video")
    assert vivid.arms["torch"].values == {1: 106.0, 2: 107.0}


def test_pom_cells_may_share_a_run(tmp_path: Path) -> None:
    """One training, read at 16 traits."""
    jobs = [replace(one, run="shared") for one in pom_jobs(1)]
    finish(tmp_path, jobs[0])
    plan(tmp_path, *jobs)
    stored = json.loads((run_path(tmp_path, "shared") / "metrics.json").read_text())["test"]
    row = pick(tables_of(tmp_path)["pom"].rows, "Acc", MEAN, "LMF audio+video")
    assert row.arms["torch"].values[1] == pytest.approx(stored["Acc"])


def test_a_mean_of_fewer_than_16_traits_is_partial_and_has_no_number(tmp_path: Path) -> None:
    jobs = pom_jobs(1)
    for one in jobs[:12]:
        finish(tmp_path, one)
    plan(tmp_path, *jobs)
    rows = [row for row in tables_of(tmp_path)["pom"].rows if row.setup]
    assert {row.cell for row in rows} == {"partial: 12 of 16 traits"}
    for row in rows:
        assert row.arms["torch"].values == {} and row.arms["torch"].missing == {1: "with 12 of 16 traits finished"}


def test_a_seed_with_fewer_than_16_traits_is_missing_beside_whole_ones(tmp_path: Path) -> None:
    jobs = pom_jobs(1, 2)
    for one in jobs[:-1]:
        finish(tmp_path, one)
    plan(tmp_path, *jobs)
    arm = pick(tables_of(tmp_path)["pom"].rows, "MAE", MEAN, "LMF audio+video").arms["torch"]
    assert list(arm.values) == [1] and arm.missing == {2: "with 15 of 16 traits finished"}


def test_undefined_correlation_stays_undefined(tmp_path: Path) -> None:
    jobs = pom_jobs(1, 2)
    for one in jobs:
        gone = one.seed == 2 and one.cell in ("vivid", "relaxed")
        finish(tmp_path, one, test={f"Corr {one.cell}": None} if gone else {})
    plan(tmp_path, *jobs)
    tables = tables_of(tmp_path)
    mean = pick(tables["pom"].rows, "Corr", MEAN, "LMF audio+video").arms["torch"]
    assert mean.values[1] is not None and mean.values[2] is None
    assert mean.undefined == {2: "undefined in 2 of 16 traits"}
    assert mean.summary.mean is None and mean.summary.undefined == 1
    assert pick(tables["pom_traits"].rows, "Corr", "vivid", "LMF audio+video").arms["torch"].summary.undefined == 1
    assert pick(tables["pom"].rows, "MAE", MEAN, "LMF audio+video").arms["torch"].summary.undefined == 0


def test_published_numbers_stand_in_their_columns(tmp_path: Path) -> None:
    jobs = [job("mosi"), job("mosi", model="tfn"), job("iemocap", "sad"), *pom_jobs(1)]
    plan(tmp_path, *jobs)
    tables = tables_of(tmp_path)
    mosi, pom, iemocap = tables["mosi"].rows, tables["pom"].rows, tables["iemocap"].rows
    assert pick(mosi, "MAE").published == {"paper": 0.912, "PyTorch rerun": 1.069, "MindSpore port": 1.08}
    assert pick(mosi, "Has0_acc_2").published["paper"] == 0.764
    assert pick(mosi, "Has0_F1_score").published["paper"] == 0.757
    assert pick(mosi, "Non0_acc_2").published == {}
    assert pick(mosi, "Acc-7", system="TFN audio+video+text").published == {"paper": 0.321}
    assert pick(mosi, "Corr", system="MFN, published only").published == {"paper": 0.632}
    assert pick(iemocap, "F1", "sad").published == {
        "paper": 0.859, "PyTorch rerun": 0.784, "MindSpore port": 0.845, "Paddle port": 0.863,
        "Ascend port, GPU": 0.8437, "Ascend port, NPU": 0.8406}
    assert pick(iemocap, "F1", "neutral", "LMF, published only").published["paper"] == 0.717
    assert not [row for row in iemocap if (row.model, row.cell, row.setup) == ("lmf", "sad", None)]
    assert pick(pom, "Corr", MEAN, "LMF, published only").published["MindSpore port"] == 0.32
    assert list(tables["pom"].columns) == ["paper", "PyTorch rerun", "MindSpore port"]


def test_published_numbers_are_not_those_of_fewer_modalities(tmp_path: Path) -> None:
    """Audio and video alone aren't the system that the paper measured: its numbers get rows of their own."""
    plan(tmp_path, *pom_jobs(1))
    rows = tables_of(tmp_path)["pom"].rows
    assert all(not row.published for row in rows if row.setup)
    assert len([row for row in rows if row.setup is None]) == 9


def test_claimed_parameters_stand_beside_measured_ones(tmp_path: Path) -> None:
    jobs = [job("mosi"), job("mosi", model="tfn"), job("mosi", modalities=AV)]
    for one in jobs:
        finish(tmp_path, one, parameters=97855)
    plan(tmp_path, *jobs)
    rows = tables_of(tmp_path)["mosi"].rows
    assert [(pick(rows, "MAE", system=name).parameters, pick(rows, "MAE", system=name).claimed) for name in (
        "LMF audio+video+text", "TFN audio+video+text", "LMF audio+video", "MFN, published only")] == [
        ((97855,), 1.1e6), ((97855,), 12.5e6), ((97855,), None), ((), None)]


def test_systems_keep_apart(tmp_path: Path) -> None:
    jobs = [job("iemocap", "sad"), job("iemocap", "sad", data="synthetic"), job("iemocap", "sad", variant="ascend"),
            job("iemocap", "sad", model="tfn"), job("iemocap", "sad", modalities=("text",))]
    for index, one in enumerate(jobs):
        finish(tmp_path, one, test={"F1": index / 10}, fingerprint=one.data)
    plan(tmp_path, *jobs)
    rows = [row for row in tables_of(tmp_path)["iemocap"].rows if row.setup and row.metric == "F1"]
    assert {row.system: row.arms["torch"].values[1] for row in rows} == {
        "LMF audio+video+text": 0.0, "LMF audio+video+text, synthetic data": 0.1,
        "LMF audio+video+text, ascend settings": 0.2, "LMF text": 0.4, "TFN audio+video+text": 0.3}


def test_a_port_s_row_with_the_original_s_settings_says_so(tmp_path: Path) -> None:
    flags = ("--table", "iemocap", "--backend", "torch", "--seeds", "1", "--variant", "ascend", "--cells", "angry,sad")
    plan(tmp_path, *jobs_of(*flags))
    shown = table_sheet(tables_of(tmp_path)["iemocap"]).shown
    ours = shown[shown["system"] == "LMF audio+video+text, ascend settings"]
    said = "settings of configs/iemocap/angry.yaml, but for the precision"
    assert {(cell, said in remarks) for cell, remarks in zip(ours["cell"], ours["remarks"], strict=True)} == {
        ("angry", True), ("sad", False)}
    assert all("O2 float16" in remarks for remarks in ours["remarks"])


def test_a_row_knows_what_made_it(tmp_path: Path) -> None:
    jobs = [job("mosi"), job("iemocap", "sad", data="synthetic"), job("pom", "vivid", modalities=AV),
            job("mosi", seed=2)]
    for one, notes in zip(jobs, ([LEAK, NOT_PUBLISHED], [], [NO_TEXT], [LEAK]), strict=True):
        finish(tmp_path, one, notes=["train audio: 3 NaN, 0 +inf, 0 -inf set to 0", *notes])
    plan(tmp_path, *jobs)
    tables = tables_of(tmp_path)
    mosi = pick(tables["mosi"].rows, "MAE")
    assert mosi.data == "mosi ffffffffffff" and not mosi.comparable
    assert mosi.caveats == ("NaN or infinite features set to 0", "LEAKING", "mosi.pkl is not the published file")
    assert mosi.notes.count(LEAK) == 1
    sad = pick(tables["iemocap"].rows, "F1", "sad", "LMF audio+video+text, synthetic data")
    assert sad.data == "iemocap sad (synthetic) ffffffffffff" and "synthetic data" in sad.caveats and not sad.comparable
    assert "pom without text" in pick(tables["pom_traits"].rows, "MAE", "vivid", "LMF audio+video").caveats


def test_what_selects_the_epoch_is_told(tmp_path: Path) -> None:
    jobs = [job("mosi"), job("mosi", model="tfn", selection="Corr"), job("iemocap", "sad")]
    plan(tmp_path, *jobs)
    tables = tables_of(tmp_path)
    assert pick(tables["mosi"].rows, "MAE").selections == ("lowest validation loss",)
    sheet = table_sheet(tables["mosi"])
    assert sheet.legend[1].startswith("Selection of ours: the epoch with the lowest validation loss or the highest "
                                      "validation Corr; this one checkpoint")
    assert set(sheet.tidy["selection"]) == {"validation loss", "highest validation Corr", ""}
    assert "the lowest validation loss; this" in table_sheet(tables["iemocap"]).legend[1]


def test_cleaned_published_data_is_comparable(tmp_path: Path) -> None:
    """With what is found in it, too: the published numbers were made from the same."""
    finish(tmp_path, job("mosi"), notes=["train audio: 3 NaN, 0 +inf, 0 -inf set to 0", "shared rows: 2 of 9 rows of"])
    plan(tmp_path, job("mosi"))
    row = pick(tables_of(tmp_path)["mosi"].rows, "MAE")
    assert row.comparable and "shared rows" in row.caveats


@pytest.mark.parametrize(("note", "few_words"), [
    (LEAK, "LEAKING"), (NOT_PUBLISHED, "mosi.pkl is not the published file"), (NO_TEXT, NO_TEXT),
    ("test audio: 0 NaN, 1 +inf, 0 -inf set to 0", "NaN or infinite features set to 0")])
def test_notes_in_few_words(note: str, few_words: str) -> None:
    assert short(note) == few_words


def test_one_row_of_two_data_sets_is_refused(tmp_path: Path) -> None:
    for seed, mark in ((1, "a"), (2, "b")):
        finish(tmp_path, job("mosi", seed=seed), fingerprint=mark * 64)
    plan(tmp_path, job("mosi", seed=1), job("mosi", seed=2))
    with pytest.raises(UserError, match=r"seed2: was made from other data than .*seed1 \(fingerprint bbbbbbbbbbbb, "):
        load_entries(tmp_path)


def test_emotions_are_data_sets_of_their_own(tmp_path: Path) -> None:
    jobs = [job("iemocap", emotion) for emotion in DATASETS["iemocap"].parts]
    for one in jobs:
        finish(tmp_path, one, fingerprint=one.cell)
    plan(tmp_path, *jobs)
    assert len(load_entries(tmp_path)) == 4


def test_no_plan_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan\.json: no such file"):
        load_entries(tmp_path)


@pytest.mark.parametrize(("file", "text", "message"), [
    ("metrics.json", "{", "metrics.json: can't be read"),
    ("metrics.json", "{}", "metrics.json: isn't what was written there"),
    ("run.json", None, "run.json: can't be read"),
])
def test_a_damaged_run_is_named(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    finish(tmp_path, job("mosi"))
    plan(tmp_path, job("mosi"))
    path = run_path(tmp_path, job("mosi").run) / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_entries(tmp_path)


def test_a_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    finish(tmp_path, job("mosi"))
    path = run_path(tmp_path, job("mosi").run) / "metrics.json"
    path.write_text(path.read_text().replace('"Acc-7"', '"Acc-8"'))
    plan(tmp_path, job("mosi"))
    with pytest.raises(UserError, match=r"has no 'Acc-7' among the test metrics"):
        tables_of(tmp_path)


def test_hardware_that_differs_is_told(tmp_path: Path) -> None:
    jobs = [job("mosi"), job("mosi", backend="paddle", precision="float64", device="cuda")]
    plan(tmp_path, *jobs)
    arms = pick(tables_of(tmp_path)["mosi"].rows, "MAE").arms
    assert (arms["torch"].hardware, arms["paddle"].hardware) == ("", "cuda, float64")


def pairs_of(tmp_path: Path, shift: float, metric: str, *, lost: tuple[int, ...] = ()) -> Pair:
    """Paddle is torch plus noise and `shift`, in `metric`."""
    jobs = [job("iemocap", "angry", backend, seed) for backend in ("torch", "paddle") for seed in SEEDS]
    noise = np.random.default_rng(0).normal(0, 0.004, 5)
    for one in jobs:
        moved = shift + noise[one.seed - 1] if one.backend == "paddle" else 0.0
        if one.seed not in lost or one.backend == "torch":
            finish(tmp_path, one, test={"F1": 0.8 + 0.01 * one.seed + (moved if metric == "F1" else 0)},
                   valid_loss=10 + one.seed + (10 * moved if metric == LOSS else 0))
    plan(tmp_path, *jobs)
    found = [pair for pair in compare_backends(load_entries(tmp_path)) if pair.row.metric == metric]
    assert len(found) == 1 and (found[0].backend, found[0].reference) == ("paddle", "torch")
    return found[0]


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "equivalent"), (0.03, "not shown"), (-0.06, "different")])
def test_equivalence_finds_a_shift_of_the_margin(tmp_path: Path, shift: float, verdict: str) -> None:
    pair = pairs_of(tmp_path, shift, "F1")
    assert (pair.found.verdict, pair.found.margin, pair.seeds) == (verdict, 0.03, SEEDS)
    assert pair.found.difference == pytest.approx(shift, abs=0.005)


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "equivalent"), (0.065, "not shown"), (0.2, "different")])
def test_equivalence_of_validation_loss_is_relative(tmp_path: Path, shift: float, verdict: str) -> None:
    pair = pairs_of(tmp_path, shift, LOSS)  # the reference's mean is 13: 5 % of it are 0.65
    assert (pair.found.verdict, pair.found.margin) == (verdict, 0.05)


def test_equivalence_is_over_common_seeds(tmp_path: Path) -> None:
    pair = pairs_of(tmp_path, 0.0, "F1", lost=(2,))
    assert pair.seeds == (1, 3, 4, 5) and pair.found.pairs == 4


def test_equivalence_of_pom_s_mean_is_over_whole_seeds(tmp_path: Path) -> None:
    jobs = [*pom_jobs(1, 2, 3), *pom_jobs(1, 2, 3, backend="mindspore")]
    for one in jobs[:-1]:
        finish(tmp_path, one)
    plan(tmp_path, *jobs)
    pair = next(pair for pair in compare_backends(load_entries(tmp_path)) if pair.row.cell == MEAN)
    assert pair.seeds == (1, 2) and pair.found.verdict == "not shown (common seeds: 2 of 3 needed)"
    assert pair.reference == "torch"
