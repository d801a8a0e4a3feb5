"""The witness of a backend, LMF as its lmf.py has it: what it makes of rows, what it reads, and that it stands alone.

Both sides are off by roundings, so they may differ by twice what one of them may be off. Elements are measured by the
sizes that the oracle has for them (core.common.rounding).
"""
from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.common.arrays import Array
from core.common.errors import RunFailed
from core.config import Config, build_graph, make_config
from core.convert import convert
from core.data import load_dataset
from core.models.graph import Graph
from core.runtime.backend import BACKENDS, missing_reason
from core.runtime.worker import Worker
from core.training.checkpoint import load_checkpoint, save_checkpoint
from core.training.state import State, initial_state
from parity.bounds import FORWARD, GRADIENT, STATISTICS
from parity.compare import assert_same, gap
from parity.ground import Ground, Tensors
from parity.oracle import Layers
from parity.rules import running_statistics
from parity_tests.conftest import CASES, ROWS, Lab, inputs_of_case
from parity_tests.test_published_weights import CELLS, LOGITS, logits
from parity_tests.test_published_weights import rows as published_rows
from parity_tests.witnesses import Seen, sizes_of
from tests import published_files
from tests.data_samples import REAL
from tests.running import ROOT
from tests.test_convert import BOUND

FUSIONS = ("three", "three scores", "audio video", "text")
PAIRS = [(backend, precision) for backend in BACKENDS for precision in ("float64", "float32")
         if (backend, precision) != ("mindspore", "float64")]  # its own layers have no float64 on the CPU
PRECISE = {"torch": "float64", "paddle": "float64", "mindspore": "float32"}
OWN_FILES = {"torch": ("dict_zip.pt", "dict_legacy.pt", "dict_double.pt"), "paddle": ("single.pkl", "double.pkl"),
             "mindspore": ("plain.ckpt", "crc.ckpt")}
MOST_LINES = 90


@pytest.fixture
def worker(open_lab: Any, workers: dict[str, Worker], backend: str) -> Worker:
    """Where a session has been: it chooses the device, which MindSpore lets nobody do after its first operator."""
    open_lab(backend, "float32", "three", "before the witness")
    return workers[backend]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """files(framework): a folder with what users of that port have, and the outputs of the port's network."""
    made: dict[str, Path] = {}

    def folder(framework: str) -> Path:
        reason = missing_reason(framework)
        if reason:
            pytest.skip(reason)
        if framework not in made:
            made[framework] = published_files.write_with(framework, tmp_path_factory.mktemp("ports") / framework)
        return made[framework]

    return folder


def after_training(state: State) -> State:
    """Weights that tell norm weight from bias and mean from variance; variances down to 0, where eps shows."""
    draw, weights = np.random.default_rng(6), dict(state.weights)
    for name, value in state.weights.items():
        if name.endswith("running_var"):
            weights[name] = np.linspace(0, 0.08, value.size).astype(value.dtype)
        elif ".norm." in name or name == "fusion_bias":
            weights[name] = (value + draw.normal(0, 0.3, value.shape)).astype(value.dtype)
    return replace(state, weights=weights)


def typed(tensors: Tensors, backend: str) -> dict[str, Array]:
    """In the most precise dtype that the witness has."""
    return {name: value.astype(PRECISE[backend]) for name, value in tensors.items()}


def three(**values: Any) -> tuple[Graph, Config, dict[str, Array]]:
    """A small LMF for scores, without data: three modalities if no others are asked for, initial weights in float32."""
    config = make_config({**CASES["three scores"], **values})
    graph = build_graph(config, inputs_of_case(config))
    return graph, config, dict(initial_state(graph, 3, "float32").weights)


def hold(what: str, got: Tensors, want: Tensors, sizes: Layers, tolerance: float) -> None:
    """Fail with the first tensor that differs."""
    assert got.keys() == want.keys() == sizes.keys(), what
    for name, value in want.items():
        found = gap(got[name], value, sizes[name].size)
        assert not found.exceeds(2 * tolerance), f"{what} {name}: {found.sentence(2 * tolerance)}"


@pytest.mark.parametrize("rows", [1, 2, ROWS])
@pytest.mark.parametrize("case", FUSIONS)
@pytest.mark.parametrize(("backend", "precision"), PAIRS)
def test_the_session_computes_what_the_witness_computes(
        open_lab: Any, worker: Worker, backend: str, precision: str, case: str, rows: int) -> None:
    lab: Lab = open_lab(backend, precision, case, "held to the witness")
    state = after_training(lab.state)
    config = lab.config.model_copy(update={"batch_size": rows})
    ground = Ground(lab.graph, config, state, lab.arrays, lab.arrays)
    batch, graph = ground.batch, ground.graph
    assert set(batch.masks) == {f"{m}_subnet" for m in graph.input_names}
    witness: Seen = worker.run(f"parity_tests.witnesses.{backend}:seen", sizes_of(graph), state.weights, batch)
    lab.session.load_state(state)
    loss, gradients = lab.session.gradients(batch)
    for what, train, layers, want in (("evaluation", False, ground.evaluation, witness.evaluation),
                                      ("train mode", True, ground.training, witness.training)):
        got = lab.session.forward(batch, train)["output"]
        hold(what, {"output": got}, {"output": want}, {"output": layers["output"]}, FORWARD[precision])
    hold("", {"loss": np.asarray(loss)}, {"loss": np.asarray(witness.loss)}, {"loss": ground.loss}, FORWARD[precision])
    hold("gradient of", gradients, witness.gradients, ground.gradients, GRADIENT[precision])
    if rows == ROWS:
        assert all(np.abs(gradient).max() > 0 for gradient in witness.gradients.values())
    lab.session.train_epoch(ground.one_step)
    after = lab.session.state().weights
    statistics = running_statistics(graph, state.weights, lab.arrays, ground.one_step)
    hold("after a step", {name: after[name] for name in statistics}, witness.statistics, statistics,
         STATISTICS[precision])
    assert all((after[name] == state.weights[name]).all() for name in statistics) is (rows == 1 or not statistics)


@pytest.mark.parametrize(("backend", "precision"), PAIRS)
def test_a_checkpoint_of_a_run(worker: Worker, tmp_path: Path, backend: str, precision: str) -> None:
    """The witness predicts what the run did."""
    values = {**CASES["three"], "dataset": "mosi", "data": "synthetic", "epochs": 1, "precision": precision}
    worker.run("parity_tests.stopping:train", backend, values, tmp_path, False, 0)
    checkpoint = load_checkpoint(tmp_path)
    test = load_dataset(checkpoint.config).splits["test"].arrays
    ground = Ground(checkpoint.graph, checkpoint.config, checkpoint.state, test, test)
    inputs = {m: test[m].astype(precision) for m in checkpoint.graph.input_names}
    want = worker.run(f"parity_tests.witnesses.{backend}:outputs", sizes_of(checkpoint.graph),
                      checkpoint.state.weights, inputs)
    got = np.load(tmp_path / "predictions_test.npy")
    hold("test split", {"output": got}, {"output": want}, {"output": ground.predictions}, FORWARD[precision])


@pytest.mark.parametrize("port", BACKENDS)
def test_published_weights_of_every_port(worker: Worker, files: Callable[[str], Path], backend: str, port: str) -> None:
    """Converted, they give what the port's own network gave."""
    folder = files(port)
    for name in OWN_FILES[port]:
        checkpoint = convert(folder / name, {"max_len": published_files.STEPS})
        weights, inputs = typed(checkpoint.state.weights, backend), typed(published_files.rows(), backend)
        sizes = sizes_of(checkpoint.graph)
        got = worker.run(f"parity_tests.witnesses.{backend}:outputs", sizes, weights, inputs)
        assert_same({name: got}, {name: np.load(folder / f"{port}.npy")}, max(BOUND[backend], BOUND[port]))


def test_published_files_read_by_their_framework(worker: Worker, files: Callable[[str], Path], backend: str) -> None:
    """Without this project: a state dict of the port fits as it is."""
    folder = files(backend)
    for name in OWN_FILES[backend]:
        checkpoint = convert(folder / name, {"max_len": published_files.STEPS})
        got = worker.run(f"parity_tests.witnesses.{backend}:outputs_of_file",
                         sizes_of(checkpoint.graph), str(folder / name), published_files.rows())
        assert_same({name: got}, {name: np.load(folder / f"{backend}.npy")}, LOGITS[got.dtype.name])


@pytest.mark.parametrize("emotion", CELLS)
def test_the_published_paddle_checkpoints(workers: dict[str, Worker], worker: Worker, tmp_path: Path, backend: str,
                                          emotion: str) -> None:
    source, ours = REAL / "lmf_paddle_checkpoints" / f"{emotion}.pkl", tmp_path / f"{emotion}.safetensors"
    if not source.is_file():
        pytest.skip(f"{source}: no such file; set LMF_REAL_DATA to the folder that holds lmf_paddle_checkpoints")
    save_checkpoint(ours, convert(source, {"emotion": emotion}))
    checkpoint = load_checkpoint(ours)
    sizes, precision = sizes_of(checkpoint.graph), PRECISE[backend]
    weights, inputs = typed(checkpoint.state.weights, backend), typed(published_rows(checkpoint), backend)
    want = {"logits": worker.run(f"parity_tests.witnesses.{backend}:outputs", sizes, weights, inputs)}
    assert_same({"logits": logits(workers, backend, precision, ours)}, want, LOGITS[precision])
    if backend == "paddle":
        own = worker.run("parity_tests.witnesses.paddle:outputs_of_file", sizes, str(source), inputs)
        assert_same({"logits": own}, want, LOGITS[own.dtype.name])


def test_what_does_not_fit_is_refused(worker: Worker, backend: str) -> None:
    graph, _config, weights = three()
    sizes = sizes_of(graph)

    def refused(match: str, **changes: Array | None) -> None:
        given = {name: value for name, value in {**weights, **changes}.items() if value is not None}
        with pytest.raises(RunFailed, match=match):
            worker.run(f"parity_tests.witnesses.{backend}:outputs", sizes, given, {})

    refused("audio_factor", audio_factor=None)
    refused("text_subnet.rnn.bias_hh_l0", **{"text_subnet.rnn.bias_hh_l0": None})
    refused("haptic_factor", haptic_factor=weights["audio_factor"])
    refused("[Ss]hape|size mismatch", audio_factor=weights["audio_factor"][:, :-1])
    refused("KeyError: 'audio'")  # all fit, but there is no audio


def test_initial_values_are_drawn_as_ours(worker: Worker, backend: str) -> None:
    """By another generator, from the same distributions. A largest of n uniform draws is below 0.9 of their bound with
    a probability of 0.9^n; a standard deviation of n normal ones is off by 1 / sqrt(2 n) of itself.
    """
    graph, _config, _ = three(audio_hidden=40, video_hidden=40, text_hidden=40, rank=40)
    drawn = worker.run(f"parity_tests.witnesses.{backend}:initial", sizes_of(graph))
    assert drawn.keys() == {p.name for p in graph.parameters}
    for p in graph.parameters:
        value = drawn[p.name]
        assert value.shape == p.shape and value.dtype == np.float32, p.name
        if p.init in ("ones", "zeros"):
            assert (value == float(p.init == "ones")).all(), p.name
        elif p.init == "uniform":
            assert np.abs(value).max() <= p.scale * (1 + 2**-20), p.name  # the bound is rounded, too
            assert value.size < 150 or np.abs(value).max() > 0.9 * p.scale, p.name
        else:
            assert value.size < 10000 or abs(value.std() / p.scale - 1) < 0.05, p.name
    assert sum(value.size >= 150 for value in drawn.values()) > 10


@pytest.mark.parametrize("modality", ["audio", "video", "text"])
def test_dropout_is_the_frameworks_own(worker: Worker, backend: str, modality: str) -> None:
    """Where the tests above put masks: at its rate in training, within six standard deviations, nothing elsewhere."""
    graph, _config, _ = three(audio_dropout=0.3, video_dropout=0.3, text_dropout=0.3)
    name, count = f"parity_tests.witnesses.{backend}:dropped", 20000
    trained = worker.run(name, sizes_of(graph), modality, count, True)
    assert abs((trained == 0).mean() - 0.3) < 6 * np.sqrt(0.3 * 0.7 / count)
    np.testing.assert_allclose(trained[trained != 0], 1 / 0.7, rtol=1e-6)
    assert (worker.run(name, sizes_of(graph), modality, count, False) == 1).all()


def test_the_example_runs(worker: Worker, backend: str) -> None:
    failed, lines = worker.run(f"parity_tests.witnesses.{backend}:example")
    assert failed == 0 and lines >= 3  # at least a network, its loss, its gradients


def imports(path: Path) -> set[str]:
    """Full names of what a file imports, and of modules that it names in text."""
    found = set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = [*package[:len(package) - node.level + 1], node.module] if node.level else [node.module]
            origin = ".".join(part for part in start if part)
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".lmf"):
            found.add(node.value)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_file_stands_alone(backend: str) -> None:
    path = ROOT / "backends" / backend / "lmf.py"
    assert len(path.read_text().splitlines()) <= MOST_LINES
    roots = {name.split(".")[0] for name in imports(path)}
    assert backend in roots and roots <= {backend, *sys.stdlib_module_names, "numpy"}, roots


def test_nothing_depends_on_it() -> None:
    for folder in ("core", "backends", "parity", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not [name for name in imports(path) if ".lmf" in name and name.startswith(("backends", "."))], path
