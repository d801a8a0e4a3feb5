"""What a plan holds: cells, runs that cells share, names, and what is kept of it."""
from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from core.config import make_config
from core.data.published import POM_TRAITS
from core.errors import UserError
from core.reproduce import main
from core.tables.plan import distinct_runs, identity, load_plan, run_name, save_plan
from core.tables.pool import Event, Pool
from core.tables.request import read_seeds, read_sets
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
    config = make_config(vivid.values)
    assert (config.rank, config.weight_decay, config.epochs, config.seed) == (16, 0.01, 500, 1)


def test_iemocap_has_four_cells_and_its_variants() -> None:
    base = jobs_of("--table", "iemocap", "--backend", "torch", "--seeds", "1")
    assert [job.cell for job in base] == ["happy", "sad", "angry", "neutral"]
    assert [make_config(job.values).emotion for job in base] == ["happy", "sad", "angry", "neutral"]
    ascend = jobs_of("--table", "iemocap", "--backend", "mindspore", "--seeds", "1", "--variant", "ascend")
    assert {(job.cell, job.config, make_config(job.values).batch_size) for job in ascend} == {
        (name, f"configs/iemocap/ascend/{name}.yaml", 256) for name in ("happy", "sad", "neutral")}
    readme = jobs_of("--table", "iemocap", "--backend", "mindspore", "--seeds", "1", "--variant", "ascend_readme")
    assert [(job.cell, job.variant) for job in readme] == [("sad", "ascend_readme")]
    paddle = jobs_of("--table", "iemocap", "--backend", "paddle", "--seeds", "7-7", "--variant", "paddle")
    assert len(paddle) == 4 and {make_config(job.values).seed for job in paddle} == {7}, "the plan sets the seeds"


def test_mosi_takes_the_file_of_its_modalities(tmp_path: Path) -> None:
    configs = mosi_configs(tmp_path)
    jobs = jobs_of("--table", "mosi", "--backend", "torch", "--seeds", "1", "--configs", str(configs), "--model",
                   "lmf,tfn", "--modalities", "text,audio;video;text,video,audio")
    found = {(job.modalities, job.model): (Path(job.config).name, make_config(job.values).rank) for job in jobs}
    for model in ("lmf", "tfn"):
        assert found[("audio", "text"), model] == ("audio_text.yaml", 2)
        assert found[("video",), model] == ("audio_video_text.yaml", 3), "a set without a file of its own"
        assert found[("audio", "video", "text"), model] == ("audio_video_text.yaml", 3)
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
    assert "seed" not in identity(make_config(base)) and "learning_rate" not in identity(make_config(base)), \
        "keys at their defaults, which a later schema may gain, have no part in the name"


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

    monkeypatch.setattr("core.worker.Worker", Fake)
    monkeypatch.setattr("core.tables.pool.limit_threads", lambda threads: None)
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
