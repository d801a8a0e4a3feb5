"""The efficiency command: what it counts, times and draws, and models of more than three modalities."""
from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from benchmarks import fusion_efficiency, fusion_results
from benchmarks.fusion_cells import BATCH, FULL, GROWING_INPUT, LINEAR, MODELS, copies, fusion_parameters, growth_rows
from benchmarks.fusion_cells import DATA as SHAPES
from benchmarks.fusion_figure import write_figure
from benchmarks.fusion_results import ROWS, Growth, measure_growth, measure_speeds
from benchmarks.fusion_tables import DATA, claimed_parameters, markdown, sheets
from benchmarks.measure import cells
from benchmarks.rounds import Spread, ratios
from core.common.arrays import Array
from core.common.guard import guarded
from core.config import build_graph, make_config
from core.data.specs import InputSpec
from core.models.graph import Graph
from core.runtime.backend import BACKENDS
from core.runtime.worker import Worker
from core.training.plan import Batch
from core.training.randomness import Masks
from core.training.state import State, initial_state
from parity import oracle
from tests.running import HANG, environment, needs, only_error

TINY: dict[str, Any] = {"dataset": "mosi", "audio_hidden": 3, "video_hidden": 2, "text_hidden": 5, "text_out": 4,
                        "batch_size": 4}
FUSIONS: dict[str, dict[str, Any]] = {
    "lmf": {"model": "lmf", "rank": 3}, "tfn": {"model": "tfn", "post_fusion_dim": 6},
    "tfn linear": {"model": "tfn", "post_fusion_dim": 0}}
HIDDEN = {"audio": 3, "video": 2, "text": 4, "video_2": 2}
FOUR = ("audio", "video", "text", "video_2")
INPUTS: dict[str, InputSpec] = {one.name: one for one in (*SHAPES.inputs, *copies(SHAPES.of("video"), 2))}


@pytest.fixture(scope="module", params=list(BACKENDS))
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    needs(request.param)
    one = Worker(request.param)
    yield one
    one.close()


def dense(inputs: int, hidden: int) -> int:
    """BatchNorm's two, then three linear layers with biases."""
    return 2 * inputs + (inputs + 1) * hidden + 2 * (hidden + 1) * hidden


SUBNETS = {"audio": dense(5, 3), "video": dense(20, 2), "video_2": dense(20, 2),
           "text": 4 * 5 * (300 + 5) + 2 * 4 * 5 + (5 + 1) * 4}


def by_hand(fusion: str, modalities: Sequence[str]) -> int:
    """Parameters of a fusion with one output, as the papers have it."""
    if fusion == "lmf":  # per modality a factor (R, d + 1, O); weights of the ranks; a bias
        return sum(3 * (HIDDEN[m] + 1) for m in modalities) + 3 + 1
    product = math.prod(HIDDEN[m] + 1 for m in modalities)
    return product + 1 if fusion == "tfn linear" else (product + 1) * 6 + (6 + 1) * 6 + (6 + 1)


@pytest.mark.parametrize("fusion", list(FUSIONS))
@pytest.mark.parametrize("modalities", [("video",), ("audio", "video"), ("audio", "video", "text"), FOUR], ids=len)
def test_sessions_hold_what_the_formulas_say(worker: Worker, fusion: str, modalities: tuple[str, ...]) -> None:
    values = {**TINY, **FUSIONS[fusion]}
    whole, fused = worker.run("benchmarks.fusion_cells:prepare", worker.backend, "counted", values,
                              tuple(INPUTS[name] for name in modalities), 4)
    assert fused == by_hand(fusion, modalities)
    assert fused == fusion_parameters(values, [HIDDEN[m] for m in modalities], 1)
    assert whole == fused + sum(SUBNETS[m] for m in modalities)


def look(backend: str, values: dict[str, Any], state: State, batch: Batch
         ) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """In a worker: activations in evaluation and in training, and gradients."""
    import benchmarks.fusion_cells as fusion_cells

    fusion_cells.prepare(backend, "looked at", values, tuple(INPUTS[name] for name in FOUR), 4)
    session = cells["looked at"].session
    session.load_state(state)
    return session.forward(batch, False), session.forward(batch, True), session.gradients(batch)[1]


Look = tuple[Graph, dict[str, Any], Batch, list[Any]]


def looked_at(worker: Worker, fusion: str) -> Look:
    """A session of four modalities in float64, with what it answers on random weights, rows and masks."""
    values = {**TINY, **FUSIONS[fusion], "precision": "float64"}
    graph = build_graph(make_config(values), [INPUTS[name] for name in FOUR])
    draw = np.random.default_rng(1)
    state = initial_state(graph, 4, "float64")  # raised, so that no subnet is dead behind its ReLUs
    weights: dict[str, Any] = {p.name: state.weights[p.name] + 0.5 * draw.random(p.shape) for p in graph.parameters}
    inputs: dict[str, Any] = {name: draw.normal(size=(9, *INPUTS[name].shape)) for name in FOUR}
    batch = Batch(inputs, draw.normal(size=(9, 1)), Masks(graph.dropout_sites, 4, 0, "float64").rows(0, 9))
    found = worker.run("tests.test_fusion_efficiency:look", worker.backend, values,
                       dataclasses.replace(state, weights=weights), batch)
    return graph, weights, batch, found


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_activations_of_four_modalities_are_the_oracles(worker: Worker, fusion: str) -> None:
    graph, weights, batch, found = looked_at(worker, fusion)
    assert {site.name for site in graph.dropout_sites} == set(batch.masks) == {f"{m}_subnet" for m in FOUR}
    for train, layers in zip((False, True), found, strict=False):
        want = oracle.forward(graph, weights, batch, train)
        assert not np.allclose(want["video_subnet.linear_3"], want["video_2_subnet.linear_3"])
        for name, value in want.items():
            np.testing.assert_allclose(np.reshape(layers[name], value.shape), value, rtol=1e-11, atol=1e-13,
                                       err_msg=name)


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_gradients_of_four_modalities_are_slopes_of_the_oracles_loss(worker: Worker, fusion: str) -> None:
    """Along a random direction in each subnet, and in the fusion: what is timed is the right backward pass."""
    graph, weights, batch, found = looked_at(worker, fusion)
    draw = np.random.default_rng(2)
    for target in (*FOUR, "fusion"):
        way: dict[str, Any] = {p.name: draw.normal(size=p.shape) for p in graph.trainable if (
            "_subnet." not in p.name if target == "fusion" else p.name.startswith(f"{target}_subnet."))}
        slope = sum(float((found[2][name] * value).sum()) for name, value in way.items())
        assert abs(slope) > 1e-3
        losses = [float(np.abs(oracle.forward(graph, {name: value + step * way.get(name, 0.0)
                                                     for name, value in weights.items()}, batch, True)["output"]
                               - batch.label).sum()) for step in (1e-6, -1e-6)]
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(slope, rel=1e-5), target


class Scripted:
    """A worker that takes `seconds` of its model, twice as many in odd rounds, and counts 7 of 9 parameters."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds = seconds

    def run(self, function: str, *args: Any) -> Any:
        if function.endswith("prepare"):
            return 9, 7
        cell, rows, epoch = args
        model = next(name for name in sorted(self.seconds, key=len, reverse=True) if cell.startswith(name))
        seconds = self.seconds[model] * (1 + epoch % 2)
        assert rows == (ROWS if function.endswith("measure") else growth_rows(model, int(cell.split()[-1])))
        return (seconds, seconds / 4) if function.endswith("measure") else seconds


def scripted(seconds: Mapping[str, float]) -> dict[str, Worker]:
    return {"torch": cast(Worker, Scripted(seconds))}


def test_speeds_are_per_second_and_ratios_say_how_much_faster() -> None:
    speeds = measure_speeds(scripted({**dict.fromkeys(MODELS, 0.5), FULL: 2.0, LINEAR: 1.0}), [(4, 4, 16)], 3, 1)
    found = {speed.model: speed for speed in speeds}
    assert list(found) == list(MODELS)
    lmf = found["LMF, rank 4"]
    assert lmf.train == Spread(ROWS / 0.5, ROWS / 1.0, ROWS / 0.5)
    assert lmf.predict == Spread(ROWS / 0.125, ROWS / 0.25, ROWS / 0.125)
    assert lmf.train_over == lmf.predict_over == {FULL: Spread(4, 4, 4), LINEAR: Spread(2, 2, 2)}
    assert found[FULL].train_over == {LINEAR: Spread(0.5, 0.5, 0.5)}
    assert (lmf.parameters, lmf.fusion_parameters) == (9, 7)


def test_ratios_are_taken_within_a_round() -> None:
    assert ratios([4, 1, 9], [2, 4, 3]) == Spread(2, 0.25, 3)


def grown(most: int = 2) -> tuple[list[Growth], list[str]]:
    return measure_growth(scripted({"LMF": 0.032, "TFN": 0.32}), most, 3, 1)


def test_growth_is_in_milliseconds_per_step() -> None:
    growth, left_out = grown()
    assert not left_out
    assert [(one.modalities, one.model) for one in growth] == [(1, "LMF"), (1, "TFN"), (2, "LMF"), (2, "TFN")]
    steps = growth_rows("TFN", 2) / BATCH
    assert steps == 32 > growth_rows("TFN", 5) / BATCH
    assert dataclasses.astuple(growth[3].step_ms) == pytest.approx((320 / steps, 320 / steps, 640 / steps))
    assert dataclasses.astuple(growth[3].over_lmf) == pytest.approx((10, 10, 10))
    assert [one.formula for one in growth] == [4 * 17 + 5, 32 * 17 + 1121, 2 * 4 * 17 + 5, 32 * 17**2 + 1121]


def test_what_memory_does_not_hold_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion_results, "free_bytes", lambda: 2e9)
    growth, left_out = grown(5)
    assert [one.modalities for one in growth if one.model == "TFN"] == [1, 2, 3, 4]
    assert [one.modalities for one in growth if one.model == "LMF"] == [1, 2, 3, 4, 5]
    assert len(left_out) == 1 and "TFN of 5 modalities" in left_out[0] and "2 GB are free" in left_out[0]


def test_tables_and_figure_say_what_was_measured(tmp_path: Path) -> None:
    growth, _ = grown()
    speeds = measure_speeds(scripted(dict.fromkeys(MODELS, 0.5)), [(32, 32, 64)], 3, 1)
    page = markdown(sheets(speeds, growth, ["so it is"], 3, 1))
    for said in (DATA, "Quadro K4200", "not to be compared with", "LMF 1,100,000, TFN 12,500,000", "so it is",
                 "median of 3 interleaved rounds", "1.00 (1.00 to 1.00)", "| 1134.82 "):
        assert said in page
    assert claimed_parameters() == {"lmf": 1.1e6, "tfn": 12.5e6}
    write_figure(tmp_path / "one.svg", growth, 3, 1)
    write_figure(tmp_path / "two.svg", growth, 3, 1)
    drawn = (tmp_path / "one.svg").read_text()
    assert drawn.startswith("<svg") and drawn == (tmp_path / "two.svg").read_text()
    text = " ".join(re.findall(r">([^<>]+)<", drawn))
    for said in ("Measured on random numbers", "16 values fused", "median of 3 interleaved rounds", "68 M + 5",
                 "modalities", "parameters of the fusion", "ms per training step", "torch"):
        assert said in text


def test_copies_of_an_input_take_its_keys() -> None:
    """Five videos are a data description like any other."""
    assert copies(GROWING_INPUT, 1) == (GROWING_INPUT,)
    found = copies(GROWING_INPUT, 5)
    assert [one.name for one in found] == ["video", "video_2", "video_3", "video_4", "video_5"]
    assert {(one.settings, one.shape, one.layout) for one in found} == {("video", (20,), "rows")}
    graph = build_graph(make_config({**TINY, **FUSIONS["lmf"], "video_dropout": 0.25}), found)
    assert [(site.name, site.rate) for site in graph.dropout_sites] == [(f"{one.name}_subnet", 0.25) for one in found]
    assert next(p.shape for p in graph.parameters if p.name == "video_5_factor") == (3, 2 + 1, 1)


def command(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks.fusion_efficiency", *flags], cwd=folder, text=True,
                          capture_output=True, timeout=HANG, env=environment(folder, {}))


def test_the_command_measures_prints_and_writes(tmp_path: Path) -> None:
    needs("torch")
    done = command(tmp_path, "--quick", "--backends", "torch", "--rounds", "1", "--most_modalities", "2",
                   "--output", "found.json", "found.md", "--figure", "growth.svg")
    assert done.returncode == 0, done.stderr
    assert DATA in done.stdout and "Quadro K4200" in done.stdout and "LMF, rank 16" in done.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["data"] == DATA and found["rounds"] == 1 and "torch" in found["versions"]["torch"]
    tfn = next(one for one in found["speeds"] if one["model"] == FULL)
    assert tfn["fusion_parameters"] == 32 * 5 * 5 * 17 + 32 + 32 * 33 + 33
    assert tfn["train"]["median"] > 0 and tfn["predict"]["median"] > 0
    assert all(one["fusion_parameters"] == one["formula"] for one in found["growth"]) and len(found["growth"]) == 4
    assert f"{tfn['fusion_parameters']:,}" in (tmp_path / "found.md").read_text()
    assert (tmp_path / "growth.svg").is_file()


@pytest.mark.parametrize(("flags", "words"), [
    (("--output", "found.md", "found.txt"), ("--output found.txt", ".json or .md")),
    (("--figure", "growth.png"), ("--figure growth.png", ".svg")),
    (("--backends", "torch,jax"), ("--backends", "'jax'", "torch, mindspore, paddle")),
    (("--rounds", "0"), ("--rounds", "'0'", "from 1 on")),
    (("--round", "2"), ("--round", "did you mean --rounds")),
])
def test_mistakes_are_one_line_before_anything_runs(
        flags: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fusion_efficiency", *flags])
    monkeypatch.setattr(fusion_efficiency, "open_workers", None)  # a call would fail with another line
    assert guarded(flags, fusion_efficiency.main) == 2
    only_error(capsys.readouterr().err, *words)
