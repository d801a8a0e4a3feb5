"""A model's table: settings side by side, each a row, compared seed by seed with the base."""
from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from scipy import stats

from core.config import build_graph, make_config
from core.data.published import DATASETS
from core.data.tables import TABLES
from core.studies.reproduce import write_all
from core.studies.tables.assemble import build_tables
from core.studies.tables.differences import UNSETTLED, Gap, compare_settings
from core.studies.tables.plan import Job, load_plan
from core.studies.tables.request import CONFIGS, parser, read_request
from core.studies.tables.results import load_entries
from core.studies.tables.statistics import difference, holm
from tests.planned import every_framework, jobs_of
from tests.table_folders import finish, job, plan

__all__ = ["every_framework"]
SEEDS = range(1, 9)
NOISE = np.random.default_rng(3).normal(0, 0.01, (2, len(SEEDS)))
TORCH = ("--backend", "torch", "--seeds", "1")
planned = pytest.mark.usefixtures("every_framework")


def settle(output: Path, table: str, maes: dict[str, list[float]], backend: str = "torch") -> list[Job]:
    """Finished runs of settings of msa, with these MAEs for seeds 1, 2, ..."""
    jobs = []
    for variant, values in maes.items():
        for seed, value in enumerate(values, 1):
            jobs.append(job(table, backend=backend, seed=seed, model="msa", variant=variant))
            finish(output, jobs[-1], test={"MAE": value}, predictions=True)
    return jobs


def of_metric(gaps: list[Gap], metric: str = "MAE") -> dict[str, Gap]:
    return {gap.row.setup.variant: gap for gap in gaps if gap.row.setup and gap.row.metric == metric}


@planned
def test_a_model_s_table_plans_its_base_alone_and_the_settings_asked_for() -> None:
    one, = jobs_of("--table", "msa", *TORCH)
    assert (one.table, one.cell, one.variant, one.model, one.config) == (
        "msa", "mosi_aligned", "course", "msa", "configs/msa/course.yaml")
    assert one.modalities == ("vision", "text", "audio") and one.made.selection == "Corr"
    text, = jobs_of("--table", "msa", *TORCH, "--modalities", "text")
    assert text.modalities == ("text",)
    files = f"course,{CONFIGS / 'msa/ablations/loss_mae.yaml'}"
    assert [(job.variant, job.made.loss) for job in jobs_of("--table", "msa", *TORCH, "--variant", files)] == [
        ("course", "mse"), ("loss_mae", "l1")]
    assert {job.table for job in jobs_of("--table", "all", *TORCH)} == {"mosi", "pom", "iemocap"}, "the papers' tables"


@planned
def test_any_two_files_are_settings_of_a_papers_table(tmp_path: Path) -> None:
    for name, rank in (("one", 2), ("two", 3)):
        (tmp_path / f"{name}.yaml").write_text(f"dataset: mosi\nrank: {rank}\n")
    jobs = jobs_of("--table", "mosi", *TORCH, "--variant", f"{tmp_path}/one.yaml,{tmp_path}/two.yaml")
    assert [(job.variant, job.values["rank"]) for job in jobs] == [("one", 2), ("two", 3)]


@planned
def test_the_ablations_are_the_course_s() -> None:
    jobs = jobs_of("--table", "msa_ablations", *TORCH)
    assert jobs[0].variant == "base" and len({job.variant for job in jobs}) == len(jobs) == 16
    made = [job.made.model_dump() for job in jobs]
    for key, values in {
            "encoder": {"lstm", "transformer"}, "layer_norm": {True, False}, "apply_dropout": {True, False},
            "loss": {"mse", "l1", "huber"}, "norm_order": {"post", "pre"},
            "fusion": {"sum_lstm", "concat_lstm", "self_attention", "cross_attention"}}.items():
        assert {config[key] for config in made} == values, key
    assert len({config["modalities"] for config in made}) == 7
    assert len({job.run for job in jobs}) == 16, "each changes something"
    base = made[0]
    for config in made[1:]:
        changed = {key for key in base if config[key] != base[key]}
        assert len(changed) == 1 or changed == {"encoder", "norm_order"}


def test_course_and_base_are_the_defaults_of_the_model() -> None:
    default = make_config({"dataset": "mosi_aligned", "model": "msa"})
    for name in ("course", "ablations/base"):
        made = read_request({"table": "msa", "backend": "torch", "seeds": "0-0",
                             "variant": str(CONFIGS / f"msa/{name}.yaml")}).jobs[0].made
        assert replaced(made) == replaced(default), name
    assert build_graph(default).parameter_count == 582_067


def replaced(config: object) -> dict[str, object]:
    """Values without the places, which a plan makes absolute."""
    return {key: value for key, value in vars(config).items() if key != "data_dir"}


@planned
def test_rows_that_have_no_place_are_left_out_and_said() -> None:
    request = read_request(parser().parse(["--table", "msa_ablations", *TORCH, "--modalities", "text"]))
    assert {job.modalities for job in request.jobs} == {("text",)} and len(request.jobs) == 9
    assert len(request.notes) == 7
    assert any("fusion_cross_attention is left out: fusion = 'cross_attention': text has no other" in note
               for note in request.notes)
    named = jobs_of("--table", "msa_ablations", *TORCH, "--modalities", "text", "--variant", "base,modalities_audio")
    assert [job.modalities for job in named] == [("text",), ("text",)], "what is asked for by name is not left out"


def test_other_data_has_its_own_table(tmp_path: Path) -> None:
    """Its metrics, its file names, no published numbers beside it."""
    spec = TABLES["msa"].on(DATASETS["mosei_aligned"])
    assert (spec.key_of_files, spec.heading, spec.cells) == ("msa_mosei_aligned", "MSA on mosei_aligned",
                                                             ("mosei_aligned",))
    several = replace(DATASETS["pom"], name="mine")
    spec = TABLES["msa"].on(several)
    assert spec.metrics == ("MAE", "Corr", "Acc") and spec.mean == "mean of 16 outputs" and not spec.classes
    assert TABLES["msa"].on(DATASETS["mosi_aligned"]) is TABLES["msa"]
    jobs = settle(tmp_path, "msa", {"course": [1.0]})
    plan(tmp_path, *jobs, *[replace(one, cell="mosei_aligned", values={**one.values, "dataset": "mosei_aligned"})
                            for one in jobs])
    tables = {table.key: table for table in build_tables(load_entries(tmp_path))}
    assert set(tables) == {"msa", "msa_mosei_aligned"}
    assert tables["msa"].columns and not tables["msa_mosei_aligned"].columns
    assert [one.table for one in load_plan(tmp_path)] == ["msa", "msa"], "and one doesn't replace the other"
    assert jobs[0].row != replace(jobs[0], values={**jobs[0].values, "dataset": "mosei_aligned"}).row


def test_the_course_s_numbers_stand_beside_its_own_settings_alone(tmp_path: Path) -> None:
    plan(tmp_path, *settle(tmp_path, "msa", {"course": [1.0], "better": [0.9]}))
    table, = build_tables(load_entries(tmp_path))
    beside = {(row.setup.variant, row.metric): row.published for row in table.rows if row.setup}
    assert beside["course", "MAE"] == {"Course": 1.0878} and beside["course", "Mult_acc_5"] == {}
    assert beside["better", "MAE"] == {}
    assert list(dict.fromkeys(row.metric for row in table.rows)) == [
        "Non0_acc_2", "Non0_F1_score", "Non0_F1_score_swapped", "Mult_acc_5", "Mult_acc_7", "MAE", "Corr"]


def test_differences_are_paired_and_tested(tmp_path: Path) -> None:
    """Against scipy's own tests; the sign of MAE is turned for the verdict."""
    base = [1.0 + noise for noise in NOISE[0]]
    lower = [value - 0.05 + noise for value, noise in zip(base, NOISE[1], strict=True)]
    same = [value + noise for value, noise in zip(base, NOISE[1], strict=True)]
    plan(tmp_path, *settle(tmp_path, "msa", {"course": base, "lower": lower, "same": same, "higher": [2.0] * 8}))
    gaps = of_metric(compare_settings(load_entries(tmp_path)))
    assert set(gaps) == {"lower", "same", "higher"}, "the base isn't compared with itself"
    found, test = gaps["lower"].found, stats.ttest_rel(lower, base)
    assert found.paired_t == test.pvalue and found.wilcoxon == stats.wilcoxon(np.subtract(lower, base)).pvalue
    low, high = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)  # the same sums in another order
    assert found.mean == pytest.approx(np.mean(lower) - np.mean(base), rel=1e-9)
    assert (gaps["lower"].verdict, gaps["higher"].verdict, gaps["same"].verdict) == ("better", "worse", UNSETTLED)
    ps = [gaps[name].found.paired_t for name in ("higher", "lower", "same")]
    assert [gaps[name].corrected for name in ("higher", "lower", "same")] == holm([p or 0 for p in ps])


def test_pairs_are_made_by_seed_of_what_both_have(tmp_path: Path) -> None:
    jobs = settle(tmp_path, "msa", {"course": [1, 2, 3, 4], "better": [5, 2, 1]})
    plan(tmp_path, *[one for one in jobs if (one.variant, one.seed) != ("course", 1)])
    gap = of_metric(compare_settings(load_entries(tmp_path)))["better"]
    assert gap.seeds == (2, 3) and gap.found.mean is None
    assert gap.verdict == "common seeds: 2 of 3 needed"


def test_what_can_t_be_tested_says_so() -> None:
    assert difference([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).why == "the same in every seed"
    assert difference([1.0, None, 3.0], [1.0, 2.0, 3.0]).why == "undefined for 1 of 3 seeds"
    steady = difference([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert steady.paired_t == 0.0 and steady.wilcoxon == 0.25, "no spread at all"


def test_holm_s_correction() -> None:
    """The example of Holm's procedure: p times how many are left, never falling."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


def test_subsets_are_compared_with_the_base_of_all_inputs(tmp_path: Path) -> None:
    """And a setting on the same inputs with the base on these, where there is one."""
    jobs = []
    for variant, inputs, value in (("base", ("vision", "text", "audio"), 1.0), ("base", ("text",), 2.0),
                                   ("modalities_audio", ("audio",), 5.0), ("loss_mae", ("text",), 7.0)):
        for seed in (1, 2, 3):
            jobs.append(job("msa_ablations", seed=seed, model="msa", variant=variant, modalities=inputs))
            finish(tmp_path, jobs[-1], test={"MAE": value + seed})
    plan(tmp_path, *jobs)
    gaps = of_metric(compare_settings(load_entries(tmp_path)))
    assert (gaps["modalities_audio"].found.mean, gaps["loss_mae"].found.mean) == (4.0, 5.0)


def test_the_ablation_table_and_its_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line per setting and backend, the base first; one figure with the curves of every backend side by side."""
    jobs = [one for backend in ("torch", "paddle") for one in settle(
        tmp_path, "msa_ablations", {"base": [1.0, 1.1, 1.2], "loss_mae": [1.0, 1.2, 1.4]}, backend)]
    plan(tmp_path, *jobs)
    write_all(tmp_path)
    out = capsys.readouterr().out
    assert "14 differences: 0 better, 0 worse" in out and "differences.md" in out
    lines = [line for line in (tmp_path / "msa_ablations.md").read_text().splitlines() if line.startswith("| MSA")]
    assert [re.findall(r", (.*) settings .*? \| (torch|paddle) ", line)[0] for line in lines] == [
        ("base", "torch"), ("base", "paddle"), ("loss_mae", "torch"), ("loss_mae", "paddle")]
    assert all("1,234" in line for line in lines), "its parameters"
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure>") == 2 and "validation solid" in page
    for title in ("base, torch", "base, paddle", "loss_mae, torch", "loss_mae, paddle"):
        assert title in page, title
    frame = pandas.read_csv(tmp_path / "differences.csv")
    assert set(frame["backend"]) == {"torch", "paddle"} and json.loads(frame["seeds"][0]) == [1, 2, 3]
    assert "Differences of settings" in page
    assert len((tmp_path / "equivalence.csv").read_text().splitlines()) == 1 + 2 * 8, "settings x metrics and loss"


def test_a_comparison_of_two_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(tmp_path, *settle(tmp_path, "msa", {"course": list(1 + NOISE[0]), "better": list(0.9 + NOISE[1])}))
    write_all(tmp_path)
    out = capsys.readouterr().out
    line, = re.findall(r"^.*better settings against MSA .*, course settings, torch, mosi_aligned MAE.*$", out, re.M)
    assert re.search(r": -0\.\d{4} \[-0\.\d{4}, [+-]0\.\d{4}\], n = 8, p = 0\.0000: better$", line), line
    assert UNSETTLED in out or "the same in every seed" in out
