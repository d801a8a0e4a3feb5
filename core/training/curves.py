"""Loss curves and the picture of the model for TensorBoard: one event file per run, written through tensorboardX."""
from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.common.files import naming_errors
from core.models.graph import DROPOUT, Graph, Node

PRODUCER = 22  # the version of GraphDef that this is written in


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Hide PyTorch from an import: tensorboardX loads it where it is installed, and needs it for nothing here."""
    modules: dict[str, Any] = sys.modules  # None under a name makes its import fail
    kept = modules.get("torch")
    modules["torch"] = None
    try:
        yield
    finally:
        if kept is None:
            del modules["torch"]
        else:
            modules["torch"] = kept


def picture(graph: Graph) -> bytes:
    """The graph as TensorBoard's GraphDef: a node per input and block, `/` for the dots of its name, which folds a
    subnet into one box; its kind, what it takes, the shape that it gives, its options and its parameters' shapes.
    """
    with without_torch():
        from tensorboardX.proto.attr_value_pb2 import AttrValue
        from tensorboardX.proto.graph_pb2 import GraphDef
        from tensorboardX.proto.node_def_pb2 import NodeDef
        from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto as Shape
        from tensorboardX.proto.versions_pb2 import VersionDef

    def shape(sizes: Sequence[int]) -> Any:
        return Shape(dim=[Shape.Dim(size=size) for size in sizes])

    def given(sizes: Sequence[int]) -> Any:  # under the name by which TensorBoard finds it; -1: any number of rows
        return AttrValue(list=AttrValue.ListValue(shape=[shape((-1, *sizes))]))

    called = [_folded(name) for name in (*graph.input_names, *(node.name for node in graph.nodes))]
    nodes = [NodeDef(name=_folded(one.name), op="input", attr={"_output_shapes": given(one.shape)})
             for one in graph.inputs]
    for node in graph.nodes:
        attributes = {name: AttrValue(s=str(value).encode()) for name, value in _options(node).items()}
        attributes |= {p.name: AttrValue(shape=shape(p.shape)) for p in node.parameters}
        nodes.append(NodeDef(name=_folded(node.name), op=node.kind, input=[called[place] for place in node.inputs],
                             attr={**attributes, "_output_shapes": given(node.output.shape)}))
    drawn: bytes = GraphDef(node=nodes, versions=VersionDef(producer=PRODUCER)).SerializeToString()
    return drawn


def _folded(name: str) -> str:
    return name.replace(".", "/")


def _options(node: Node) -> Mapping[str, Any]:
    return {"rate": node["site"].rate} if node.kind == DROPOUT else node.options


class Curves:
    """Writes the losses of every epoch to `folder`. Raises RunFailed naming it when the disk is full.

    tensorboardX's plain event writer: SummaryWriter's thread would lose the error of a full disk.
    """

    def __init__(self, folder: Path) -> None:
        with without_torch():
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.summary import scalar
        self._folder, self._event, self._scalar = folder, Event, scalar
        shutil.rmtree(folder, ignore_errors=True)
        with naming_errors(folder):
            folder.mkdir(parents=True)
            self._writer = EventsWriter(str(folder / "events"))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the losses of an epoch."""
        with naming_errors(self._folder):
            for key in ("train_loss", "valid_loss"):
                event = self._event(wall_time=time.time(), step=row["epoch"], summary=self._scalar(key, row[key]))
                self._writer.write_event(event)
            self._writer.flush()

    def draw(self, graph: Graph) -> None:
        """Append the picture of the model, which TensorBoard's tab Graphs shows."""
        with naming_errors(self._folder):
            self._writer.write_event(self._event(wall_time=time.time(), graph_def=picture(graph)))
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with naming_errors(self._folder):
            self._writer.close()
