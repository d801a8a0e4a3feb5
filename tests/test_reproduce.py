"""What a plan holds: cells, runs that cells share, names, and what is kept of it."""
from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.common.errors import UserError
from core.config import make_config, to_values
from core.data.published import POM_TRAITS
from core.studies.reproduce import main
from core.studies.tables.plan import distinct_runs, identity, load_plan, refuse_mixture, run_name, save_plan
from core.studies.tables.pool import Event, Pool
from core.studies.tables.request import read_seeds, read_sets
from tests.planned import every_framework, jobs_of, mosi_configs, plan_flags, write_configs

__all__ = ["every_framework"]
pytestmark = pytest.mark.usefixtures("every_framework")


def test_pom_has_sixteen_cells_and_twelve_runs() -> None:
    jobs = jobs_of("--table", "pom", "--backend", "torch,paddle", "--seeds", "2")
    assert [job.cell for job in jobs if job.backend == "torch" and job.seed == 1] == list(POM_TRAITS)
    runs = distinct_runs(jobs)
    assert Counter((run.backend, run.seed) for run in runs) == {(b, s): 12 for b in ("torch", "paddle") for s in (1, 2)}
    shared = [run.cells for run in runs if "," in run.cells]
    assert set(shared) == {"confident,passionate,credible,thorough,persuasive"}
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs), "whole seeds first"
    vivid = next(job for job in jobs if job.cell == "vivid")
    assert (vivid.config, vivid.model, vivid.data, vivid.variant) == ("configs/pom/vivid.yaml", "lmf", "published", "")
    config = vivid.made
    assert (to_values(config)["rank"], config.weight_decay, config.epochs, config.seed) == (16, 0.01, 500, 1)


def test_iemocap_has_four_cells_and_its_variants() -> None:
    base = jobs_of("--table", "iemocap", "--backend", "torch", "--seeds", "1")
    assert [job.cell for job in base] == ["happy", "sad", "angry", "neutral"]
    assert [make_config(job.values).emotion for job in base] == ["happy", "sad", "angry", "neutral"]
    ascend = jobs_of("--table", "iemocap", "--backend", "mindspore", "--seeds", "1", "--variant", "ascend")
    assert {(job.cell, job.config, job.made.batch_size, job.made.amp_level, job.made.loss_scale) for job in ascend} == {
        (name, f"configs/iemocap/ascend/{name}.yaml", 64 if name == "angry" else 256, "O2", 128.0)
        for name in ("happy", "sad", "angry", "neutral")}
    readme = jobs_of("--table", "iemocap", "--backend", "mindspore", "--seeds", "1", "--variant", "ascend_readme")
    assert [(job.cell, job.variant) for job in readme] == [("sad", "ascend_readme")]
    paddle = jobs_of("--table", "iemocap", "--backend", "paddle", "--seeds", "7-7", "--variant", "paddle")
    assert {job.cell: job.same for job in [*ascend, *paddle, *base] if job.same} == {
        "angry": "configs/iemocap/angry.yaml", "neutral": "configs/iemocap/neutral.yaml"}
    assert {job.cell for job in ascend if job.same} == {"angry"}
    assert len(paddle) == 4 and {make_config(job.values).seed for job in paddle} == {7}, "the plan sets the seeds"


def test_mosi_takes_the_file_of_its_modalities(tmp_path: Path) -> None:
    configs = mosi_configs(tmp_path)
    jobs = jobs_of("--table", "mosi", "--backend", "torch", "--seeds", "1", "--configs", str(configs), "--model",
                   "lmf,tfn", "--modalities", "text,audio;video;text,video,audio")
    found = {(job.modalities, job.model): (Path(job.config).name, to_values(job.made).get("rank")) for job in jobs}
    for model, ranks in (("lmf", (2, 3)), ("tfn", (None, None))):
        assert found[("audio", "text"), model] == ("audio_text.yaml", ranks[0])
        assert found[("video",), model] == ("audio_video_text.yaml", ranks[1]), "a set without a file of its own"
        assert found[("audio", "video", "text"), model] == ("audio_video_text.yaml", ranks[1])
    assert len(jobs) == 6
    plain = jobs_of("--table", "mosi", "--backend", "torch", "--seeds", "1", "--configs", str(configs))
    assert [(job.modalities, job.model) for job in plain] == [(("audio", "video", "text"), "lmf")]


def test_flags_win_over_files(tmp_path: Path) -> None:
    configs = mosi_configs(tmp_path)
    flags = ("--table", "mosi", "--backend", "torch", "--seeds", "1", "--configs", str(configs))
    epochs = [make_config(jobs_of(*flags, *more)[0].values).epochs for more in ((), ("--epochs", "4"),
                                                                              ("--epochs", "none"))]
    assert epochs == [9, 4, 500]


def test_run_names_tell_configurations_apart() -> None:
    base = {"dataset": "pom", "modalities": "audio,video", "data_dir": "here", "seed": 3}
    name = run_name(make_config(base), "torch")
    assert name.startswith("pom-audio+video-lmf-") and name.endswith("-torch-seed3")
    same: list[dict[str, Any]] = [{"data_dir": "there"}, {"modalities": "video,audio"}, {"epochs": 500}, {"rank": 4},
                                  {"output_path": "x"}]
    assert {run_name(make_config({**base, **more}), "torch") for more in same} == {name}
    other: list[dict[str, Any]] = [{"rank": 5}, {"epochs": 499}, {"model": "tfn"}, {"modalities": "audio"},
                                   {"precision": "float64"}, {"threads": 2}, {"data": "synthetic"}, {"max_len": 19},
                                   {"synthetic_seed": 1}, {"seed": 4}]
    names = [run_name(make_config({**base, **more}), "torch") for more in other]
    assert len({name, run_name(make_config(base), "paddle"), *names}) == len(other) + 2
    assert "-synthetic-" in run_name(make_config({**base, "data": "synthetic"}), "torch")
    assert "seed" not in identity(make_config(base), {}) and "learning_rate" not in identity(make_config(base), {}), \
        "keys at their defaults, which a later schema may gain, have no part in the name"


NAMES = {  # as the version before models had keys of their own made them; finished runs are found by them
    ("pom", "vivid", "lmf"): "pom-audio+video+text-lmf-447c4b47-torch-seed1",
    ("pom", "vivid", "tfn"): "pom-audio+video+text-tfn-e3ca7df8-torch-seed1",  # its file has a rank
    ("pom", "vivid", "lmf", "--rank", "8"): "pom-audio+video+text-lmf-fbee07ce-torch-seed1",
    ("pom", "vivid", "tfn", "--rank", "8"): "pom-audio+video+text-tfn-7a63c4fe-torch-seed1",
    ("pom", "vivid", "lmf", "--post_fusion_dim", "0"): "pom-audio+video+text-lmf-43603c34-torch-seed1",
    ("pom", "vivid", "tfn", "--post_fusion_dim", "0"): "pom-audio+video+text-tfn-d8b2e586-torch-seed1",
    ("iemocap", "sad", "lmf", "--modalities", "audio,video"): "iemocap-sad-audio+video-lmf-7a228a9b-torch-seed1",
    ("iemocap", "sad", "tfn", "--modalities", "audio,video"): "iemocap-sad-audio+video-tfn-52293b3d-torch-seed1",
}


@pytest.mark.parametrize("case", NAMES, ids=" ".join)
def test_runs_of_earlier_versions_are_found(case: tuple[str, ...]) -> None:
    """A key that the other model has counts in the name, and is no part of the configuration."""
    table, cell, model, *flags = case
    jobs = jobs_of("--table", table, "--cells", cell, "--model", "lmf,tfn", "--backend", "torch", "--seeds", "1",
                   *flags)
    job = next(job for job in jobs if job.model == model)
    assert job.run == NAMES[case]
    assert ("rank" in to_values(job.made)) == (model == "lmf")
    assert ("post_fusion_dim" in to_values(job.made)) == (model == "tfn")


def test_a_plan_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It holds the keys of all models."""
    job = jobs_of("--table", "pom", "--cells", "vivid", "--model", "tfn", "--backend", "torch", "--seeds", "1")[0]
    old = replace(job, values={**job.values, "rank": 16, "text_out": 32})
    save_plan(tmp_path, [old])
    assert load_plan(tmp_path) == [old] and load_plan(tmp_path)[0].made == job.made
    refuse_mixture(tmp_path, [replace(job, seed=2)])
    with pytest.raises(UserError, match=r"planned there with batch_size = 32 in torch, now 8 in torch"):
        refuse_mixture(tmp_path, [replace(job, values={**job.values, "batch_size": 8})])


def test_a_plan_is_kept_and_grows(tmp_path: Path) -> None:
    configs = write_configs(tmp_path / "configs")
    flags = ("--table", "pom", "--cells", "confident,vivid", "--configs", str(configs))
    first = jobs_of(*flags, "--backend", "torch", "--seeds", "2", "--data_dir", "here")
    save_plan(tmp_path, first)
    assert load_plan(tmp_path) == first
    second = jobs_of(*flags, "--backend", "torch,paddle", "--seeds", "2-3", "--data_dir", "there")
    save_plan(tmp_path, second)
    plan = load_plan(tmp_path)
    assert len(plan) == len({job.key for job in plan}) == 4 + 8 - 2
    assert {job.values["data_dir"] for job in plan if job.seed == 2} == {str(Path("there").absolute())}
    written = json.loads((tmp_path / "plan.json").read_text())
    assert written["backends"] == ["torch", "paddle"] and written["seeds"] == [1, 2, 3]
    assert written["cells"][0]["modalities"] == ["audio", "video", "text"]


@pytest.mark.parametrize("text", ["", "{}", '{"cells": [{"table": "pom"}]}', "[]"])
def test_what_is_no_plan(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"plan\.json: no such file; make it with"):
        load_plan(tmp_path)
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan\.json: .*remove it"):
        load_plan(tmp_path)


def test_seeds_and_sets() -> None:
    assert read_seeds("3") == [1, 2, 3] and read_seeds("7-7") == [7] and read_seeds("9, 2,4-6") == [9, 2, 4, 5, 6]
    assert read_seeds(f"{2**63 - 1}-{2**63 - 1}") == [2**63 - 1]
    assert read_sets("video,audio;text") == [("audio", "video"), ("text",)]


def test_a_dry_run_prints_the_plan_and_begins_nothing(data: Path, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    configs = write_configs(tmp_path / "configs")
    assert main(plan_flags(configs, data, tmp_path / "out", "--backend", "torch,paddle", "--dry_run")) == 0
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if "pom " in line and ".yaml" in line]
    assert [row.split()[2] for row in rows] == ["confident", "passionate", "vivid"]
    assert rows[0].count(" 0/2 ") == 2 and rows[1].count("0/2 (with confident)") == 2 and " 1,2 " in rows[2]
    assert str(configs / "pom" / "vivid.yaml") in rows[2] and "published" in rows[2] and "audio,video,text" in rows[2]
    assert "3 cells x 2 backends x 2 seeds = 12, 4 share a run with another cell: 8 runs, 0 finished, 8 to do" in out
    assert not (tmp_path / "out").exists()


def test_no_framework_is_loaded(data: Path, tmp_path: Path) -> None:
    configs = write_configs(tmp_path / "configs")
    before = {name for name in ("torch", "mindspore", "paddle") if name in sys.modules}
    assert main(plan_flags(configs, data, tmp_path / "out", "--dry_run")) == 0
    assert {name for name in ("torch", "mindspore", "paddle") if name in sys.modules} == before


def test_a_worker_keeps_its_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs alternate between backends in the plan; starting a framework for each would cost seconds."""
    begun: list[str] = []
    workers: list[str] = []

    class Fake:
        def __init__(self, backend: str) -> None:
            self.backend = backend
            workers.append(backend)

        def run(self, function: str, backend: str, *rest: object, **more: object) -> tuple[int, float]:
            assert backend == self.backend
            begun.append(backend)
            return 1, 0.5

        def close(self) -> None:
            pass

        terminate = close

    monkeypatch.setattr("core.runtime.worker.Worker", Fake)
    monkeypatch.setattr("core.studies.tables.pool.limit_threads", lambda threads: None)
    runs = distinct_runs(jobs_of("--table", "pom", "--cells", "vivid,reserved", "--backend", "torch,paddle", "--seeds",
                                 "2"))
    assert [run.backend for run in runs] == ["torch", "paddle"] * 4
    events: list[Event] = []
    Pool(tmp_path, runs, 1, 1, []).run(events.append)
    assert begun == ["torch"] * 4 + ["paddle"] * 4 and workers == ["torch", "paddle"]
    assert [event.kind for event in events] == ["begun", "finished"] * 8
    begun.clear()
    Pool(tmp_path, runs, 3, 1, []).run(events.append)
    assert Counter(begun) == {"torch": 4, "paddle": 4}
