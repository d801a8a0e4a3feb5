"""The walk over a graph's blocks, forward and back. No framework inside: blocks and tensors are whoever's they are."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from core.models.graph import DROPOUT, Graph, Node, Ref

Watch = Callable[[str, Ref, Any], None]  # name, place and value of an activation


class Step:
    """A block with what the walk has to know of its node, looked up once: at batch 16 every look costs."""

    __slots__ = ("block", "inputs", "names", "needs", "node", "place", "site", "watched")

    def __init__(self, node: Node, block: Any, watched: str | None) -> None:
        self.node, self.block, self.watched = node, block, watched
        self.inputs, self.needs, self.place = node.inputs, node.needs, node.output.index
        self.site = node["site"].name if node.kind == DROPOUT else None
        self.names = {node.local(p.name): p.name for p in node.parameters}


def steps_of(graph: Graph, blocks: Sequence[Any]) -> tuple[Step, ...]:
    """The steps of the walk; `blocks` in the order of the nodes."""
    names = {ref.index: name for name, ref in graph.activations}
    return tuple(Step(node, block, names.get(node.output.index))
                 for node, block in zip(graph.nodes, blocks, strict=True))


def folds(graph: Graph) -> list[tuple[int, int]]:
    """Places of each LayerNorm whose input asks for no gradient, and of the linear block that alone takes its output.

    Training may fold the scale and shift of the one into the other: no gradient then has to reach the LayerNorm.
    """
    readers: dict[int, list[int]] = {}
    for place, node in enumerate(graph.nodes):
        for value in node.inputs:
            readers.setdefault(value, []).append(place)
    found = [(place, readers[node.output.index]) for place, node in enumerate(graph.nodes)
             if node.kind == "layer_norm" and not any(node.needs) and node is not graph.nodes[-1]]
    return [(norm, after[0]) for norm, after in found if len(after) == 1 and graph.nodes[after[0]].kind == "linear"]


def local_tensors(node: Node, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A node's own tensors under their last names: `weight`, not `audio_subnet.norm.weight`."""
    return {node.local(p.name): tensors[p.name] for p in node.parameters}


def execute(steps: Sequence[Step], feeds: Sequence[Any], masks: Mapping[str, Any], train: bool,
            watch: Watch | None = None) -> Any:
    """The output of the graph for the values `feeds` of its inputs. `block(xs, train)` gives a block's output.

    A dropout without a mask lets everything pass. `watch` hears of every activation.
    """
    values = list(feeds)
    for step in steps:
        xs = [values[place] for place in step.inputs]
        if step.site is not None:
            y = step.block([xs[0], masks[step.site]], train) if step.site in masks else xs[0]
        else:
            y = step.block(xs, train)
        values.append(y)
        if watch is not None and step.watched is not None:
            watch(step.watched, step.node.output, y)
    return values[-1]


def record(steps: Sequence[Step], feeds: Sequence[Any], masks: Mapping[str, Any],
           watch: Watch | None = None) -> tuple[Any, list[Any]]:
    """The output in train mode, and what each block saved for its way back: `block.forward(xs)` gives both."""
    values, tape = list(feeds), []
    for step in steps:
        xs = [values[place] for place in step.inputs]
        if step.site is None:
            y, saved = step.block.forward(xs)
        elif step.site in masks:
            y, saved = step.block.forward([xs[0], masks[step.site]])
        else:
            y, saved = xs[0], None
        values.append(y)
        tape.append(saved)
        if watch is not None and step.watched is not None:
            watch(step.watched, step.node.output, y)
    return values[-1], tape


def backpropagate(steps: Sequence[Step], tape: Sequence[Any], slope: Any,
                  add: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """The gradients of all parameters by name, from that of the output: the steps of `record`, last to first.

    `block.backward(slope, saved, needs)` gives the gradients of its inputs, None where none is needed, and of its
    parameters by last name. `add` joins those of a value that several blocks took.
    """
    slopes = {steps[-1].node.output.index: slope}
    gradients: dict[str, Any] = {}
    for step, saved in zip(reversed(steps), reversed(tape), strict=True):
        own = slopes.pop(step.place, None)
        if own is None:  # nothing that was used later was made of it
            continue
        if step.site is not None and saved is None:  # no mask: the gradient passes as the value did
            parts, found = [own], {}
        else:
            parts, found = step.block.backward(own, saved, step.needs)
        for place, part, needed in zip(step.inputs, parts, step.needs):  # noqa: B905  # equally many, by the graph
            if needed and part is not None:  # a block that gives none where one is wanted depends on it by jumps
                slopes[place] = add(slopes[place], part) if place in slopes else part
        for name, gradient in found.items():
            gradients[step.names[name]] = gradient
    return gradients
