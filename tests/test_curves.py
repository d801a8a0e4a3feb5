"""The TensorBoard file: read back with TensorFlow's own schema, record by record."""
from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.config import build_graph, make_config
from core.data.specs import InputSpec
from core.models.graph import DROPOUT, Graph
from core.training.curves import Curves, without_torch
from tests.test_trainer import Scripted, trainer_of

INPUTS = (InputSpec("audio", (7,)), InputSpec("video", (5,)), InputSpec("text", (4, 6), "sequence"))


def records(folder: Path) -> list[Any]:
    """The events after the first, which says the version: each has its length, a CRC, the data, a CRC."""
    with without_torch():
        from tensorboardX.crc32c import crc32c
        from tensorboardX.proto.event_pb2 import Event
    [path] = folder.iterdir()
    assert ".tfevents." in path.name
    content, events, place = path.read_bytes(), [], 0
    while place < len(content):
        size, = struct.unpack("<Q", content[place:place + 8])
        data = content[place + 12:place + 12 + size]
        checksum, = struct.unpack("<I", content[place + 12 + size:place + 16 + size])
        plain = crc32c(data)
        assert checksum == (((plain >> 15) | (plain << 17 & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF
        events.append(Event.FromString(data))
        place += 16 + size
    assert events[0].file_version == "brain.Event:2"
    return events[1:]


def losses(events: list[Any]) -> list[tuple[int, str, float]]:
    """(step, tag, value) of all that are curves."""
    return [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]


def drawn(events: list[Any]) -> Any:
    """The one GraphDef among the events, which has to come before the curves."""
    with without_torch():
        from tensorboardX.proto.graph_pb2 import GraphDef
    graphs = [event.graph_def for event in events if event.graph_def]
    assert len(graphs) == 1 and events[0].graph_def
    return GraphDef.FromString(graphs[0])


def sizes(shape: Any) -> tuple[int, ...]:
    return tuple(dim.size for dim in shape.dim)


def assert_drawn(found: Any, graph: Graph) -> None:
    """A node per input and block, and nothing else, in the order of computation."""
    names = [name.replace(".", "/") for name in (*graph.input_names, *(node.name for node in graph.nodes))]
    assert [node.name for node in found.node] == names and found.versions.producer > 0
    inputs, blocks = found.node[:len(graph.inputs)], found.node[len(graph.inputs):]
    for node, one in zip(inputs, graph.inputs, strict=True):
        assert (node.op, list(node.input), list(node.attr)) == ("input", [], ["_output_shapes"])
        assert [sizes(shape) for shape in node.attr["_output_shapes"].list.shape] == [(-1, *one.shape)]
    for node, block in zip(blocks, graph.nodes, strict=True):
        assert (node.op, list(node.input)) == (block.kind, [names[place] for place in block.inputs])
        assert [sizes(shape) for shape in node.attr["_output_shapes"].list.shape] == [(-1, *block.output.shape)]
        assert {key: sizes(value.shape) for key, value in node.attr.items() if value.HasField("shape")} == {
            p.name: p.shape for p in block.parameters}
        options = {"rate": block["site"].rate} if block.kind == DROPOUT else block.options
        assert {key: value.s.decode() for key, value in node.attr.items() if value.HasField("s")} == {
            key: str(value) for key, value in options.items()}


@pytest.mark.parametrize("values", [
    {}, {"model": "tfn"}, {"model": "tfn", "post_fusion_dim": 0}, {"modalities": "text", "rank": 2},
    {"apply_post_fusion_dropout": True, "audio_dropout": 0}], ids=str)
def test_the_picture_is_the_graph(tmp_path: Path, values: dict[str, object]) -> None:
    graph = build_graph(make_config({"dataset": "pom", **values}), INPUTS)
    curves = Curves(tmp_path / "curves")
    curves.draw(graph)  # to be seen at once
    assert_drawn(drawn(records(tmp_path / "curves")), graph)
    curves.close()


@pytest.mark.parametrize("values", [{}, {"encoder": "transformer", "fusion": "cross_attention"},
                                    {"fusion": "self_attention", "apply_dropout": True}], ids=str)
def test_a_model_of_sequences_is_drawn(tmp_path: Path, values: dict[str, object]) -> None:
    graph = build_graph(make_config({"dataset": "mosi_aligned", "model": "msa", **values}))
    curves = Curves(tmp_path / "curves")
    curves.draw(graph)
    assert_drawn(drawn(records(tmp_path / "curves")), graph)
    curves.close()


def test_a_subnet_is_a_box() -> None:
    """The names that TensorBoard folds: everything of a subnet stands below its own name."""
    graph = build_graph(make_config({"dataset": "pom"}), INPUTS)
    with without_torch():
        from tensorboardX.proto.graph_pb2 import GraphDef

        from core.training.curves import picture
    boxes = [node.name.rpartition("/")[0] for node in GraphDef.FromString(picture(graph)).node]
    assert list(dict.fromkeys(boxes)) == ["", "audio_subnet", "video_subnet", "text_subnet"]


def test_a_run_draws_its_model_once_and_then_its_losses(tmp_path: Path) -> None:
    """Resumed too: the file begins anew with the picture and the history."""
    whole = [(epoch, key, np.float32(value)) for epoch, valid in enumerate((3, 2, 1), 1)
             for key, value in (("train_loss", 1.0), ("valid_loss", valid))]
    first = trainer_of(Scripted([3, 2, 1]), tmp_path, epochs=3)
    first._epoch()
    for _ in range(2):  # the second has nothing left to train
        trainer = trainer_of(Scripted([3, 2, 1]), tmp_path, epochs=3)
        trainer.resume()
        trainer.run(lambda row: None)
        events = records(tmp_path / "tensorboard")
        assert losses(events) == whole
        assert_drawn(drawn(events), trainer.graph)
