"""Models as graphs: what a builder takes and refuses, and what LMF's and TFN's graphs say of them."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from core.config import build_graph, make_config
from core.data.specs import DataSpec, InputSpec, Task
from core.models import ALL_KINDS, MODELS
from core.models.graph import DROPOUT, OTHERS, Builder, DropoutSite, Graph, Group, Ref
from core.models.msa import FUSIONS
from core.models.walk import folds
from core.training.state import initial_state

INPUTS = (InputSpec("audio", (7,)), InputSpec("video", (5,)), InputSpec("text", (4, 6), "sequence"))
ALIGNED = tuple(InputSpec(one.name, (4, one.width), "sequence") for one in INPUTS)
DATA = DataSpec("small", INPUTS, Task("regression", ("one", "other")))
DENSE = ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", *(
    f"linear_{place}.{kind}" for place in (1, 2, 3) for kind in ("weight", "bias")))
SEQUENCE = ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "rnn.bias_ih_l0", "rnn.bias_hh_l0", "linear_1.weight",
            "linear_1.bias")
SUBNETS = [*(f"audio_subnet.{name}" for name in DENSE), *(f"video_subnet.{name}" for name in DENSE),
           *(f"text_subnet.{name}" for name in SEQUENCE)]
WATCHED = [f"{name}_subnet.{layer}" for name in ("audio", "video")
           for layer in ("norm", "linear_1", "linear_2", "linear_3")] + ["text_subnet.rnn", "text_subnet.linear_1"]


def builder() -> Builder:
    return Builder(ALL_KINDS, DATA, [Group(OTHERS, 0.1, 0.0)])


def graph_of(dataset: str = "pom", **values: object) -> Graph:
    return build_graph(make_config({"dataset": dataset, **values}), INPUTS)


def two_inputs(b: Builder) -> Ref:
    """A small model: rows through BatchNorm, a sequence through an LSTM, both in one linear layer."""
    rows = b.dropout(b.add("batch_norm", b.input("audio"), name="norm"), 0.25, "rows")
    steps = b.add("lstm", b.input("text"), name="rnn", hidden=3)
    return b.add("linear", b.add("concat", rows, steps, name="both"), name="out", out=2)


def test_a_small_graph() -> None:
    graph = (b := builder()).graph("small", two_inputs(b), ("rnn.bias_hh_l0",))
    assert [(node.kind, node.name, node.inputs, node.output.index, node.output.shape) for node in graph.nodes] == [
        ("batch_norm", "norm", (0,), 3, (7,)), (DROPOUT, "rows.drop", (3,), 4, (7,)), ("lstm", "rnn", (2,), 5, (3,)),
        ("concat", "both", (4, 5), 6, (10,)), ("linear", "out", (6,), 7, (2,))]
    assert [p.name for p in graph.parameters] == [
        "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "rnn.weight_ih_l0", "rnn.weight_hh_l0",
        "rnn.bias_ih_l0", "rnn.bias_hh_l0", "out.weight", "out.bias"]
    assert {p.name: p.shape for p in graph.parameters if "weight" in p.name} == {
        "norm.weight": (7,), "rnn.weight_ih_l0": (12, 6), "rnn.weight_hh_l0": (12, 3), "out.weight": (2, 10)}
    assert [p.name for p in graph.group("statistics")] == ["norm.running_mean", "norm.running_var"]
    assert [p.name for p in graph.group("frozen")] == ["rnn.bias_hh_l0"]
    assert graph.parameter_count == sum(math.prod(p.shape) for p in graph.trainable) == 14 + 72 + 36 + 12 + 22
    assert graph.dropout_sites == (DropoutSite("rows", (7,), 0.25),)
    assert [name for name, _ in graph.activations] == ["norm", "rnn", "both", "output"]
    assert graph.input_names == ("audio", "video", "text") and graph.inputs == INPUTS and graph.task == DATA.task


def test_a_gradient_is_needed_where_a_parameter_lies_before() -> None:
    """Not of data, nor of data that was only dropped from; frozen parameters and statistics have their own say."""
    b = builder()
    dropped = b.dropout(b.input("audio"), 0.5, "input")
    both = b.add("concat", dropped, b.add("linear", dropped, name="first", out=3), name="both")
    graph = b.graph("small", b.add("linear", both, name="out", out=2), ())
    needs = {node.name: node.needs for node in graph.nodes}
    assert needs == {"input.drop": (False,), "first": (False,), "both": (False, True), "out": (True,)}
    assert {node.name: node.needs for node in graph_of().nodes if node.kind == DROPOUT} == {
        "audio_subnet.drop": (True,), "video_subnet.drop": (True,), "text_subnet.drop": (True,)}, "BatchNorm's affine"


def twice(b: Builder) -> Ref:
    b.add("linear", b.input("audio"), name="out", out=3)
    return b.add("linear", b.input("video"), name="out", out=2)


def same_dropout(b: Builder) -> Ref:
    first = b.dropout(b.input("audio"), 0.5, "x")
    return b.dropout(first, 0.5, "x")


def not_the_last(b: Builder) -> Ref:
    first = b.add("linear", b.input("audio"), name="out", out=2)
    b.add("linear", b.input("video"), name="unused", out=2)
    return first


def no_group(b: Builder) -> Ref:
    return b.add("linear", b.input("audio"), name="out", out=2, group="factors")


def owned_twice(b: Builder) -> Ref:
    for name in ("first", "second"):
        b.add("low_rank_fusion", b.input("audio"), name=name, rank=2, out=2, group=OTHERS, factors=("audio_factor",))
    return b.input("audio")


ERRORS: list[tuple[Callable[[Builder], Ref], str]] = [
    (twice, "block 'out': there is another of that name"), (same_dropout, "block 'x.drop': there is another of that"),
    (not_the_last, "the last block has to give the output"),
    (lambda b: b.input("audio"), "the last block has to give the output"),
    (lambda b: b.add("linear", b.input("audio"), name="out", out=3), r"gives \(3,\) per row, expected \(2,\)"),
    (lambda b: b.add("lstm", b.input("text"), name="rnn", hidden=7), r"gives \(7,\) per row, expected \(2,\)"),
    (lambda b: b.input("smell"), "no input 'smell'; small has audio, video, text"),
    (no_group, "block 'out': no group 'factors' trains its out.weight; there are others"),
    (owned_twice, "block 'second': its audio_factor belongs to another block"),
]


@pytest.mark.parametrize(("wiring", "words"), ERRORS)
def test_mistakes_of_a_model_file(wiring: Callable[[Builder], Ref], words: str) -> None:
    b = builder()
    with pytest.raises(ValueError, match=words):
        b.graph("small", wiring(b), ())


def test_an_unknown_kind() -> None:
    with pytest.raises(KeyError, match="convolution"):
        builder().add("convolution", Ref(0, (7,)), name="x")


@pytest.mark.parametrize(("modalities", "parameters", "watched"), [
    ("audio,video,text", ["audio_factor", "video_factor", "text_factor", "fusion_weights", "fusion_bias", *SUBNETS],
     [*WATCHED, "fusion", "output"]),
    ("text", ["text_factor", "fusion_weights", "fusion_bias", *(f"text_subnet.{name}" for name in SEQUENCE)],
     ["text_subnet.rnn", "text_subnet.linear_1", "fusion", "output"]),
])
def test_lmf_is_named_as_the_original(modalities: str, parameters: list[str], watched: list[str]) -> None:
    """In the order of its state dict: parameters of the module itself, then those of its submodules."""
    graph = graph_of(modalities=modalities)
    assert [p.name for p in graph.parameters] == parameters
    assert [name for name, _ in graph.activations] == watched
    factors = [p.name for p in graph.parameters if p.name.endswith("_factor")]
    assert [p.name for p in graph.group("factors")] == factors and graph.group("frozen") == ()


def test_tfn_is_named_as_the_original() -> None:
    """What lies higher in the tree of names comes first, as in LMF."""
    layers = [f"post_fusion_layer_{place}.{kind}" for place in (1, 2, 3) for kind in ("weight", "bias")]
    graph = graph_of(model="tfn", post_fusion_dim=8)
    assert [p.name for p in graph.parameters] == [*layers, *SUBNETS]
    assert [name for name, _ in graph.activations] == [*WATCHED, "fusion", "post_fusion_layer_1", "post_fusion_layer_2",
                                                       "output"]
    assert [p.name for p in graph.group("factors")] == layers[:1], "the fusion tensor alone has the factors' rate"
    linear = graph_of(model="tfn", post_fusion_dim=0)
    assert [p.name for p in linear.parameters] == [*layers[:2], *SUBNETS]
    assert [p.name for p in linear.group("factors")] == layers[:1] and linear.activations[-1][0] == "output"


@pytest.mark.parametrize(("dataset", "values", "count"), [  # as earlier versions counted, which had no graphs
    ("pom", {"rank": 3}, 25083), ("mosi", {"rank": 5, "text_hidden": 9}, 2189),
    ("iemocap", {"model": "tfn", "audio_hidden": 2, "text_hidden": 7, "text_out": 4, "modalities": "audio,text"}, 2128),
])
def test_as_many_parameters_as_before(dataset: str, values: dict[str, object], count: int) -> None:
    assert graph_of(dataset, **values).parameter_count == count


def test_dropout_sites_follow_the_keys() -> None:
    sites = graph_of(audio_dropout=0.1, video_dropout=0, text_dropout=0.4, apply_post_fusion_dropout=True, rank=3,
                     text_hidden=9).dropout_sites
    assert sites == (DropoutSite("audio_subnet", (7,), 0.1), DropoutSite("text_subnet", (9,), 0.4),
                     DropoutSite("fusion", (3, 16), 0.5, "terms"))
    assert [site.width for site in sites] == [7, 9, 48]
    assert [site.name for site in graph_of(post_fusion_dropout=0.5).dropout_sites][-1] == "text_subnet", "idle"
    tfn = graph_of(model="tfn", apply_post_fusion_dropout=True, audio_hidden=2, video_hidden=3, text_out=4)
    assert tfn.dropout_sites[-1] == DropoutSite("fusion", (3 * 4 * 5,), 0.5)


def test_any_number_of_inputs_of_any_layout() -> None:
    """Names and layouts are the data's: two videos with one set of keys, and a sequence of audio."""
    inputs = (InputSpec("audio", (9, 4), "sequence"), InputSpec("video", (5,)), InputSpec("second", (3,), keys="video"))
    graph = build_graph(make_config({"dataset": "mosi", "modalities": "audio,video", "video_hidden": 6,
                                     "audio_hidden": 2}), inputs)
    assert [p.name for p in graph.parameters][:3] == ["audio_factor", "video_factor", "second_factor"]
    shapes = {p.name: p.shape for p in graph.parameters}
    assert shapes["second_subnet.linear_1.weight"] == (6, 3) and shapes["audio_subnet.rnn.weight_ih_l0"] == (8, 4)
    assert shapes["second_factor"] == (4, 7, 1)


FUSED = {"apply_post_fusion_dropout": True, "frozen": "text_subnet.linear_1.bias"}
WHOLE: dict[str, list[dict[str, object]]] = {"lmf": [FUSED], "tfn": [FUSED], "msa": [
    {"encoder": encoder, "fusion": fusion, "norm_order": order, "attention_dropout": 0.1, "apply_dropout": True,
     "frozen": "text_fc.bias"}
    for encoder in ("lstm", "transformer") for fusion in FUSIONS for order in ("post", "pre")]}


@pytest.mark.parametrize(("model", "values"), [(model, values) for model in MODELS for values in WHOLE[model]])
def test_nothing_of_a_graph_is_left_over(model: str, values: dict[str, object]) -> None:
    """Every value is used, in the order of computation; every parameter has a place, a group and first values."""
    graph = build_graph(make_config({"dataset": "iemocap", "model": model, **values}),
                        ALIGNED if MODELS[model].sequences else INPUTS)
    places = [node.output.index for node in graph.nodes]
    assert places == list(range(len(INPUTS), len(INPUTS) + len(graph.nodes)))
    assert all(place < node.output.index for node in graph.nodes for place in node.inputs)
    assert {place for node in graph.nodes for place in node.inputs} == set(range(places[-1]))
    owned = [p for node in graph.nodes for p in node.parameters]
    assert sorted(p.name for p in owned) == sorted(p.name for p in graph.parameters) and len(set(owned)) == len(owned)
    groups = [*(group.name for group in graph.groups), "frozen", "statistics"]
    assert sum(len(graph.group(name)) for name in groups) == len(graph.parameters)
    weights = initial_state(graph, 0, "float64").weights
    assert {name: value.shape for name, value in weights.items()} == {p.name: p.shape for p in graph.parameters}
    assert all(np.isfinite(value).all() for value in weights.values())
    for node in graph.nodes:
        assert len({node.local(p.name) for p in node.parameters}) == len(node.parameters), "last names tell them apart"


def test_a_model_s_data_decides_its_outputs() -> None:
    task = replace(DATA, task=Task("classification", ("a", "b", "c")))
    with pytest.raises(ValueError, match=r"gives \(2,\) per row, expected \(3,\)"):
        (b := Builder(ALL_KINDS, task, [Group(OTHERS, 0.1, 0.0)])).graph("small", two_inputs(b), ())


def normed(b: Builder) -> Ref:
    """Four LayerNorms in front of linear layers, of which only the first can be left out on the way back."""
    text, audio, video = b.input("text"), b.input("audio"), b.input("video")
    steps = b.add("linear", b.add("layer_norm", text, name="first"), name="after", out=3)
    inner = b.add("linear", b.add("layer_norm", steps, name="inner"), name="behind", out=2)  # a layer lies before it
    both = b.add("layer_norm", audio, name="both")  # read twice
    rows = b.add("concat", b.add("linear", both, name="one", out=2), both, name="joined")
    other = b.dropout(b.add("layer_norm", video, name="other"), 0.5, "other_drop")  # read by another kind
    last = b.add("lstm", inner, name="rnn", hidden=2)
    return b.add("linear", b.add("concat", rows, other, last, name="all"), name="out", out=2)


def test_a_norm_of_an_input_folds_into_the_linear_layer_behind_it() -> None:
    graph = (b := builder()).graph("small", normed(b), ())
    names = [node.name for node in graph.nodes]
    assert [(names[norm], names[linear]) for norm, linear in folds(graph)] == [("first", "after")]
