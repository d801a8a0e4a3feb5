"""The sequence model: its parameters, what it asks of data and keys, and the defaults that it decides."""
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.common.errors import UserError
from core.config import build_graph, make_config
from core.data.specs import InputSpec
from core.models.attention import sinusoids
from core.models.graph import Graph

WIDTHS = {"video": 35, "text": 300, "audio": 74}  # as published
PARTS = ("norm.weight", "norm.bias", "fc.weight", "fc.bias",
         *(f"lstm.{kind}_l0" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))


def made(steps: dict[str, int] | None = None, layout: Any = "sequence", **values: Any) -> Graph:
    """On inputs of the published widths."""
    steps = steps or dict.fromkeys(WIDTHS, 50)
    inputs = tuple(InputSpec(name, (steps[name], WIDTHS[name]) if layout == "sequence" else (WIDTHS[name],), layout)
                   for name in steps)
    return build_graph(make_config({"dataset": "mosi", "model": "msa", "modalities": list(steps), **values}), inputs)


def test_the_course_s_parameters() -> None:
    """Their number is that of the course's module at 35/300/74."""
    graph = made()
    names = [f"{name}_{part}" for name in WIDTHS for part in PARTS]
    names += [*(f"mm_{part}" for part in PARTS[4:]), "fc.weight", "fc.bias"]
    assert [p.name for p in graph.parameters] == names and graph.parameter_count == 582_067
    assert {name: p.shape for name, p in zip(names, graph.parameters, strict=True) if "text" in name} == {
        "text_norm.weight": (300,), "text_norm.bias": (300,), "text_fc.weight": (128, 300), "text_fc.bias": (128,),
        "text_lstm.weight_ih_l0": (512, 128), "text_lstm.weight_hh_l0": (512, 128), "text_lstm.bias_ih_l0": (512,),
        "text_lstm.bias_hh_l0": (512,)}
    assert graph.dropout_sites == (), "a dropout of one LSTM layer does nothing in any framework"
    assert [site.name for site in made(apply_dropout=True).dropout_sites] == [f"{name}_dropout" for name in WIDTHS]


def test_the_course_s_training_is_the_default() -> None:
    config = make_config({"dataset": "mosi", "model": "msa"})
    assert (config.loss, config.loss_reduction, config.schedule, config.epochs, config.selection, config.batch_size,
            config.learning_rate, config.weight_decay) == ("mse", "mean", "cosine", 20, "Corr", 16, 0.001, 0.0)
    assert make_config({"dataset": "mosi", "model": "msa", "loss": "mae"}).loss == "l1"
    classes = make_config({"dataset": "iemocap", "model": "msa"})
    assert (classes.loss, classes.loss_reduction, classes.selection) == ("cross_entropy", "mean", "loss")
    plain = make_config({"dataset": "mosi"})
    assert (plain.loss, plain.loss_reduction, plain.schedule, plain.epochs, plain.selection) == (
        "l1", "sum", "constant", 500, "loss")


def test_scores_lie_within_the_range_of_the_labels_and_logits_do_not() -> None:
    last = made().nodes[-1]
    assert (last.kind, last["low"], last["high"]) == ("scaled_sigmoid", -3, 3)
    assert made(dataset="iemocap").nodes[-1].kind == "linear"


@pytest.mark.parametrize(("values", "words"), [
    ({"layout": "rows"}, ("video: one vector of 35 numbers", "msa takes sequences", "use model lmf or tfn")),
    ({"steps": {"video": 50, "text": 40, "audio": 50}}, ("fusion = 'sum_lstm'", "50 steps of video, 40 steps of text",
                                                         "self_attention")),
    ({"steps": {"video": 50, "text": 40}, "fusion": "cross_attention"}, ("fusion = 'cross_attention'", "40 steps")),
    ({"steps": {"text": 9}, "fusion": "cross_attention"}, ("text has no other modality", "self_attention")),
    ({"fusion": "self_attention", "attention_heads": 3}, ("attention_heads = 3", "hidden_dim, 128")),
])
def test_what_does_not_go_together_gets_one_line(values: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        made(**values)
    assert all(word in str(caught.value) for word in words) and len(str(caught.value).splitlines()) == 1


def test_attention_over_all_steps_takes_sequences_of_any_length() -> None:
    graph = made({"video": 7, "text": 5, "audio": 3}, fusion="self_attention")
    assert next(node for node in graph.nodes if node.kind == "concat_steps").output.shape == (15, 128)


@pytest.mark.parametrize("width", [1, 5, 128])
def test_positions_are_sines_and_cosines(width: int) -> None:
    """Vaswani et al., section 3.5. The angle reaches 49: its rounding, and that of 2 pi, allow 49 * 2^-51."""
    column, steps = np.arange(width), np.arange(50)[:, None]
    angle = steps / 10000 ** (2 * (column // 2) / width)
    want = np.where(column % 2 == 0, np.sin(angle), np.cos(angle))
    np.testing.assert_allclose(sinusoids(50, width), want, rtol=0, atol=49 * 2.0**-51)
