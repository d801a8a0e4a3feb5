"""Workers, cases and batches that all rungs share. One worker process per backend and test session."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from core.common.arrays import Array
from core.config import Config, build_graph, make_config
from core.data.published import feature_inputs
from core.data.specs import InputSpec
from core.models import MODELS
from core.models.graph import Graph
from core.runtime.backend import BACKENDS, missing_reason
from core.runtime.worker import RemoteSession, Worker
from core.training.plan import Batch, EpochPlan, make_plan
from core.training.state import State
from parity import ladder
from parity.ground import DECAY, Ground
from parity_tests.divergences import assert_written, installed
from parity_tests.states import SEED, STATES

SUBNETS = {"audio_hidden": 5, "video_hidden": 3, "text_hidden": 6, "weight_decay": DECAY, "learning_rate": 0.001,
           "factor_learning_rate": 0.003, "seed": SEED}
WIDTHS = {**SUBNETS, "rank": 3}
HEADS = {"attention_heads": 2, "feed_forward_dim": 5}
CASES: dict[str, dict[str, Any]] = {
    "three": {"dataset": "iemocap", **WIDTHS},
    "three scores": {"dataset": "pom", **WIDTHS},
    "audio video": {"dataset": "pom", "modalities": "audio,video", **WIDTHS},
    "text": {"dataset": "mosi", "modalities": "text", **WIDTHS, "rank": 1},
    "post fusion": {"dataset": "mosi", "apply_post_fusion_dropout": True, **WIDTHS},
    "frozen": {"dataset": "pom", "frozen": "audio_factor,video_factor,text_factor,fusion_weights,fusion_bias,"
               "audio_subnet.linear_2.bias,text_subnet.rnn.weight_hh_l0,text_subnet.linear_1.weight", **WIDTHS},
    "tfn": {"dataset": "iemocap", "model": "tfn", "post_fusion_dim": 6, **SUBNETS},
    "tfn linear": {"dataset": "pom", "model": "tfn", "post_fusion_dim": 0, **SUBNETS},
    "tfn audio": {"dataset": "iemocap", "model": "tfn", "post_fusion_dim": 4, "modalities": "audio", **SUBNETS},
    "tfn post fusion": {"dataset": "mosi", "model": "tfn", "post_fusion_dim": 4, "modalities": "audio,text",
                        "apply_post_fusion_dropout": True, **SUBNETS},
    **{name: {"dataset": "mosi_aligned", "model": "msa", "hidden_dim": 4, "learning_rate": 0.001, "seed": SEED,
              "weight_decay": DECAY, **values} for name, values in {
        "course": {},
        "transformer": {**HEADS, "encoder": "transformer", "norm_order": "pre", "encoder_layers": 2, "loss": "huber",
                        "attention_dropout": 0.2, "layer_norm": False, "fusion": "concat_lstm",
                        "modalities": "vision,text", "frozen": "text_fc.bias,mm_lstm.weight_hh_l0"},
        "self attention": {**HEADS, "fusion": "self_attention", "encoder": "transformer", "modalities": "text,audio"},
        "cross attention": {**HEADS, "fusion": "cross_attention", "apply_dropout": True},
    }.items()},
}
Values = tuple[tuple[str, Any], ...]
SIZES = {"audio": 7, "video": 4, "text": 6, "steps": 5}
ALIGNED = {"vision": 5, "text": 6, "audio": 4}
ROWS = 21  # batches of 8 leave a ragged last one of 5


def inputs_of_case(config: Config) -> tuple[InputSpec, ...]:
    """The inputs that are there."""
    if MODELS[config.model].sequences:
        return tuple(InputSpec(name, (SIZES["steps"], ALIGNED[name]), "sequence") for name in config.modalities)
    return feature_inputs(**{m: SIZES[m] for m in config.modalities}, steps=SIZES["steps"])


@cache
def ground(precision: str, case: str, rows: int = ROWS, state: str = "initial", values: Values = ()) -> Ground:
    """What every backend is held to, made once. `rows`: of a batch, and of the validation split; values: more keys."""
    config = make_config({**CASES[case], "precision": precision, "batch_size": rows, **dict(values)})
    graph = build_graph(config, inputs_of_case(config))
    train = make_arrays(graph, precision)
    valid = {name: np.concatenate([value] * (1 + rows // ROWS))[:rows] for name, value in train.items()}
    return Ground(graph, config, STATES[state](graph, precision), train, valid)


@dataclass
class Lab:
    """One session of a backend with everything that a rung compares it by."""

    backend: str
    case: str
    config: Config
    graph: Graph
    session: RemoteSession
    state: State
    arrays: dict[str, Array]
    values: Values = ()

    def subject(self, rows: int = ROWS, state: str = "initial") -> ladder.Subject:
        """On common ground, from the state of that name, with DECAY configured."""
        return ladder.subject(self.backend, self.session, self.session,
                              ground(self.config.precision, self.case, rows, state, self.values))

    def batch(self, rows: slice, epoch: int = 0) -> Batch:
        """Rows in row order, with the dropout masks of that epoch."""
        masks = self.plan(epoch, ROWS).masks(0, 1)
        inputs = {m: self.arrays[m][rows] for m in self.graph.input_names}
        return Batch(inputs, self.arrays["label"][rows], {name: mask[rows] for name, mask in masks.items()})

    def after_a_step(self) -> State:
        """One step on all rows, from the initial state."""
        self.session.load_state(self.state)
        self.session.train_epoch(self.subject().ground.one_step)
        after: State = self.session.state()
        return after

    def plan(self, epoch: int, batch_size: int, rows: int = ROWS) -> EpochPlan:
        return make_plan(self.graph, self.config.model_copy(update={"batch_size": batch_size}), epoch, rows)


def make_arrays(graph: Graph, dtype: str, rows: int = ROWS) -> dict[str, Array]:
    """Random features and labels; audio has a constant channel, as the published data has."""
    if MODELS[graph.model].sequences:
        padded = padded_rows({one.name: one.width for one in graph.inputs}, rows)
        return {name: value.astype(dtype) for name, value in padded.items()}
    draw = np.random.default_rng(5)
    arrays: dict[str, Array] = {}
    for one in feature_inputs(**SIZES):  # drawn for all, so that cases share their numbers
        modality = one.name
        values = draw.normal(0.2, 0.7, (rows, *one.shape))
        if modality == "audio":
            values[:, 2] = 0.25
        if modality in graph.input_names:
            arrays[modality] = values.astype(dtype)
    arrays["label"] = (draw.integers(0, 2, rows) if graph.task.kind == "classification"
                       else draw.uniform(-3, 3, (rows, graph.task.outputs)).astype(dtype))
    return arrays


def padded_rows(widths: Mapping[str, int], rows: int, steps: int = SIZES["steps"]) -> dict[str, Array]:
    """Sequences, and labels from -3 to 3: row 0 is padded in front, the next at the end, the next is nothing but zeros,
    then two are whole, and so on; a step more of one modality, a step less of the next.
    """
    draw, found = np.random.default_rng(4), {}
    for place, (name, width) in enumerate(widths.items()):
        x = found[name] = draw.normal(0.1, 0.8, (rows, steps, width))
        x[0::5, :1 + place % 2] = 0
        x[1::5, steps - 2 + place % 2:] = 0
        x[2::5] = 0
    return {**found, "label": draw.uniform(-3, 3, (rows, 1))}


@pytest.fixture(scope="session")
def workers() -> Iterator[dict[str, Worker]]:
    started: dict[str, Worker] = {}
    yield started
    for worker in started.values():
        worker.close()


@pytest.fixture(scope="session")
def open_lab(workers: dict[str, Worker]) -> Any:
    """open_lab(backend, precision, case) -> Lab with initial state and data; `role` keeps two of them apart, `values`
    are more keys.
    """

    def open_one(backend: str, precision: str, case: str, role: str = "subject",
                 values: Mapping[str, Any] | None = None) -> Lab:
        reason = missing_reason(backend)
        if reason:
            pytest.skip(reason)
        if backend not in workers:
            workers[backend] = Worker(backend)
        more = tuple((values or {}).items())
        common = ground(precision, case, values=more)
        session = workers[backend].open(f"{role} {precision} {case} {more}",
                                        {**CASES[case], "precision": precision, **dict(more)}, common.graph.inputs)
        session.load_state(common.state)
        for split in ("train", "valid"):
            session.load_data(split, common.train)
        return Lab(backend, case, common.config, common.graph, session, common.state, dict(common.train),
                   more)

    return open_one


@pytest.fixture(scope="session")
def uncorrected(open_lab: Any, workers: dict[str, Worker]) -> Callable[..., AbstractContextManager[Lab]]:
    """uncorrected(backend, default, precision, case): a Lab whose backend runs that default of its framework."""

    @contextmanager
    def one(backend: str, default: str, precision: str, case: str = "three") -> Iterator[Lab]:
        open_lab(backend, precision, case)  # starts the worker
        with installed(workers[backend], default):
            yield open_lab(backend, precision, case, "uncorrected")  # a network is made of the blocks that are there

    return one


@pytest.fixture
def written(request: pytest.FixtureRequest) -> Callable[[float], None]:
    """written(size) fails unless docs/divergences.md gives the size of this test's divergence alike."""
    name = f"{request.node.module.__name__.split('.')[-1]}::{request.node.originalname}"
    return lambda size: assert_written(name, size)


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=["float64", "float32"])
def precision(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def lab(open_lab: Any, backend: str, precision: str, case: str) -> Lab:
    return open_lab(backend, precision, case)
