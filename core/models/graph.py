"""A model as a graph of named blocks: what every backend builds, and what everyone else asks about a model.

A model file adds blocks to a `Builder`, in the order of computation. There is no control flow in a graph: what a
configuration or the data decides, it decides while the graph is built.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from core.common.errors import UserError
from core.common.rounding import Sized
from core.data.specs import DataSpec, InputSpec, Task

Initialiser = Literal["normal", "uniform", "ones", "zeros"]
HalfFrom = Literal["O1", "O2", "never"]
OTHERS, FROZEN, STATISTICS = "others", "frozen", "statistics"
DROPOUT = "dropout"
SEQUENCE = "sequence"  # the layout whose axes are (steps, width)
OUTPUT = "output"  # how a graph's last value is called


@dataclass(frozen=True)
class ParameterSpec:
    """One named tensor. `scale` is the standard deviation (normal) or the bound (uniform) of its first values.

    group: the optimizer group that trains it. No optimizer may touch `frozen`, which the configuration names and which
    stay as they were drawn, and `statistics`, BatchNorm's running mean and variance. layout: what the axes mean, for
    backends that keep such a tensor otherwise; `plain` are those that none does.
    """

    name: str
    shape: tuple[int, ...]
    init: Initialiser
    scale: float
    group: str = OTHERS
    layout: str = "plain"

    @property
    def trainable(self) -> bool:
        return self.group not in (FROZEN, STATISTICS)


@dataclass(frozen=True)
class Group:
    """An optimizer group: its learning rate before any schedule, and its weight decay (L2 in the loss)."""

    name: str
    rate: float
    decay: float


@dataclass(frozen=True)
class DropoutSite:
    """A place where a mask (rows, *shape) is multiplied in; kept units are scaled by 1 / (1 - rate)."""

    name: str
    shape: tuple[int, ...]
    rate: float
    layout: str = "plain"

    @property
    def width(self) -> int:
        """Units of a row."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Ref:
    """A value of the graph: inputs come first, then what the nodes give. `shape` is that of one row.

    layout: what the axes mean, as for a parameter; `sequence` is (steps, width).
    """

    index: int
    shape: tuple[int, ...]
    layout: str = "plain"


@dataclass(frozen=True)
class Node:
    """A block of the graph. inputs: which values it takes; options: what its kind leaves open.

    needs: for each input, whether a gradient is wanted of it: only where a parameter lies before it.
    half: its kind's, see BlockSpec.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    options: Mapping[str, Any]
    parameters: tuple[ParameterSpec, ...]
    output: Ref
    needs: tuple[bool, ...]
    half: HalfFrom = "O2"

    def __getitem__(self, option: str) -> Any:
        return self.options[option]

    def local(self, name: str) -> str:
        """The last name of one of its parameters: without the block's own in front."""
        return name.removeprefix(f"{self.name}.")


class Forward64(Protocol):
    """A block in float64 NumPy, each number with its size: (inputs, parameters by last name, train) -> output.

    doubt: the share of its size that rounding may take, for slopes that jump.
    """

    def __call__(self, node: Node, xs: Sequence[Sized], weights: Mapping[str, Sized], train: bool,
                 doubt: float) -> Sized: ...


@dataclass(frozen=True)
class BlockSpec:
    """A kind of block: what it owns, what it gives, and its mathematics.

    parameters: (name, inputs, options) -> its tensors; shape: (inputs, options) -> the shape of a row of its output;
    layout: that of its output; empty: a sequence stays one where the output has as many axes, all else is `plain`.
    half: the level of mixed precision from which it computes in half (core.models.precision).
    """

    parameters: Callable[[str, Sequence[Ref], Mapping[str, Any]], Sequence[ParameterSpec]]
    shape: Callable[[Sequence[Ref], Mapping[str, Any]], tuple[int, ...]]
    forward64: Forward64
    layout: str = ""
    half: HalfFrom = "O2"

    def output(self, index: int, refs: Sequence[Ref], options: Mapping[str, Any]) -> Ref:
        """What a block of this kind gives, as the value `index` of a graph."""
        shape = self.shape(refs, options)
        still = refs[0].layout == SEQUENCE and len(shape) == len(refs[0].shape)
        return Ref(index, shape, self.layout or (SEQUENCE if still else "plain"))


@dataclass(frozen=True)
class Graph:
    """A whole model on data of certain widths: everything that a backend needs to build the network."""

    model: str
    inputs: tuple[InputSpec, ...]
    task: Task
    nodes: tuple[Node, ...]
    parameters: tuple[ParameterSpec, ...]
    groups: tuple[Group, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.inputs)

    @property
    def dropout_sites(self) -> tuple[DropoutSite, ...]:
        """Where masks are multiplied in, in the order of computation."""
        return tuple(node["site"] for node in self.nodes if node.kind == DROPOUT)

    @property
    def activations(self) -> tuple[tuple[str, Ref], ...]:
        """What is watched: the name and place of every block's output, the last one as `output`; not what drops."""
        last = self.nodes[-1]
        return tuple((OUTPUT if node is last else node.name, node.output)
                     for node in self.nodes if node.kind != DROPOUT)

    def group(self, name: str) -> tuple[ParameterSpec, ...]:
        """The parameters of a group."""
        return tuple(p for p in self.parameters if p.group == name)

    @property
    def trainable(self) -> tuple[ParameterSpec, ...]:
        return tuple(p for p in self.parameters if p.trainable)

    @property
    def parameter_count(self) -> int:
        """Number of trained scalars."""
        return sum(math.prod(p.shape) for p in self.trainable)


class Builder:
    """Takes the blocks of a model, checks them as they come, and makes the graph."""

    def __init__(self, kinds: Mapping[str, BlockSpec], data: DataSpec, groups: Sequence[Group]) -> None:
        self._kinds, self._data = kinds, data
        self._groups = {group.name: group for group in groups}
        self._nodes: list[Node] = []
        self._values = [Ref(place, one.shape, one.layout) for place, one in enumerate(data.inputs)]
        self._trained = [False for _ in data.inputs]  # whether a parameter lies before a value

    def input(self, name: str) -> Ref:
        """The input of the data that is called `name`."""
        if name not in self._data.names:
            raise ValueError(f"no input {name!r}; {self._data.name} has {', '.join(self._data.names)}")
        return self._values[self._data.names.index(name)]

    def group(self, name: str, rate: float) -> str:
        """An optimizer group with a rate of its own; `group=` of a block's options takes its name."""
        self._groups = {name: Group(name, rate, self._groups[OTHERS].decay), **self._groups}
        return name

    def add(self, kind: str, *refs: Ref, name: str, **options: Any) -> Ref:
        """A block of `kind` on `refs`. Its parameters are called `name.`..., its output `name`."""
        spec = self._kinds[kind]
        parameters = tuple(spec.parameters(name, refs, options))
        needs = tuple(self._trained[ref.index] for ref in refs)
        output = spec.output(len(self._values), refs, options)
        self._put(Node(kind, name, tuple(ref.index for ref in refs), options, parameters, output, needs, spec.half))
        return output

    def dropout(self, ref: Ref, rate: float, name: str) -> Ref:
        """Multiply the mask `name` in; at rate 0 there is none, and `ref` itself is returned."""
        if rate == 0:
            return ref
        site = DropoutSite(name, ref.shape, rate, ref.layout)
        output = replace(ref, index=len(self._values))
        self._put(Node(DROPOUT, f"{name}.drop", (ref.index,), {"site": site}, (), output, (self._trained[ref.index],)))
        return output

    def _put(self, node: Node) -> None:
        if any(node.name == other.name for other in self._nodes):
            raise ValueError(f"block {node.name!r}: there is another of that name; give it its own")
        for parameter in node.parameters:
            if any(parameter.name == other.name for one in self._nodes for other in one.parameters):
                raise ValueError(f"block {node.name!r}: its {parameter.name} belongs to another block; give it its own")
            if parameter.group != STATISTICS and parameter.group not in self._groups:
                raise ValueError(f"block {node.name!r}: no group {parameter.group!r} trains its {parameter.name}; "
                                 f"there are {', '.join(self._groups)}")
        self._nodes.append(node)
        self._values.append(node.output)
        self._trained.append(any(node.needs) or any(p.group != STATISTICS for p in node.parameters))

    def graph(self, model: str, output: Ref, frozen: Sequence[str]) -> Graph:
        """The graph that gives `output`; the parameters called `frozen` are left as they were drawn.

        Raises UserError for a name in `frozen` that no trained parameter has.
        """
        if not self._nodes or self._nodes[-1].output.index != output.index:
            raise ValueError(f"{model}: the last block has to give the output")
        if output.shape != (self._data.task.outputs,):
            raise ValueError(f"{model}: gives {output.shape} per row, expected ({self._data.task.outputs},)")
        nodes = tuple(replace(node, parameters=tuple(replace(p, group=FROZEN) if p.name in frozen and p.trainable else p
                                                     for p in node.parameters)) for node in self._nodes)
        # what lies higher in the tree of names comes first, as in the original's state dict: factors before subnets
        parameters = sorted((p for node in nodes for p in node.parameters), key=lambda p: p.name.count("."))
        _check_frozen([p.name for p in parameters if p.group != STATISTICS], frozen)
        return Graph(model, self._data.inputs, self._data.task, nodes, tuple(parameters), tuple(self._groups.values()))


def _check_frozen(trained: Sequence[str], names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in trained]
    if unknown:
        raise UserError(f"frozen: no trained parameter {', '.join(map(repr, unknown))} in this model; it has "
                        f"{', '.join(trained)}")
    if len(names) == len(trained):
        raise UserError("frozen: names every parameter, which leaves nothing to train; leave some out")
