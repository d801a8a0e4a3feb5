"""The network in MindSpore: the blocks of a graph, and the parameters under their neutral names.

Read it with core/models/<model>.py, which has the wiring, and blocks.py, normalisation.py, attention.py and fusion.py,
which have the mathematics.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mindspore
from mindspore import Tensor, nn

from backends.mindspore import attention, blocks, fusion, normalisation
from backends.mindspore.kernels import add, assign, concat
from backends.mindspore.precision import Bordered, Half
from backends.mindspore.state import Flat
from core.models.graph import FROZEN, STATISTICS, Graph
from core.models.precision import borders
from core.models.walk import Watch, backpropagate, execute, folds, local_tensors, record, steps_of
from core.runtime import half as shared

BLOCKS = {**blocks.BLOCKS, **normalisation.BLOCKS, **attention.BLOCKS, **fusion.BLOCKS}
BLOCKS64 = {**blocks.BLOCKS64, **normalisation.BLOCKS64, **attention.BLOCKS, **fusion.BLOCKS}


class Network(nn.Cell):
    """A model of core/models. Called with its inputs, rows (B, A) and sequences (B, T, D), it gives (B, O)."""

    def __init__(self, graph: Graph, dtype: mindspore.dtype, half: Half | None = None,
                 kinds: Mapping[str, Any] | None = None) -> None:
        """kinds: blocks in the place of those of that kind."""
        super().__init__(auto_prefix=False)
        names = [*(group.name for group in graph.groups), FROZEN]
        self.flats = {name: [Flat(graph.group(name), dtype)] for name in names if graph.group(name)}
        self.flats[STATISTICS] = [Flat([p], dtype) for p in graph.group(STATISTICS)]
        self.own = {p.name: flat.parameter(p.name)
                    for flats in self.flats.values() for flat in flats for p in flat.parameters}
        self.copies = Copies(graph, self.own, half) if half else None
        working = {**self.own, **(self.copies.tensors if self.copies else {})}
        table = {**(BLOCKS64 if dtype == mindspore.float64 else BLOCKS), **(kinds or {})}
        stands = borders(graph, half.level if half else "O0")
        made = [table[node.kind](node, local_tensors(node, working), half.working if half and border.half else dtype)
                for node, border in zip(graph.nodes, stands, strict=True)]
        for node, block in zip(graph.nodes, made, strict=True):
            folder, name = self._place(node.name)
            folder.insert_child_to_cell(name, block)
        for name, parameter in self.own.items():
            folder, last = self._place(name)
            if last not in folder._params:  # a block has its own already
                folder.insert_param_to_cell(last, parameter, check_name_contain_dot=False)
        walked: list[Any] = list(made)
        if half:
            walked = [Bordered(block, border, half) for block, border in zip(made, stands, strict=True)]
        trained = list(walked)
        for norm, linear in folds(graph) if half is None else []:  # folding would move a border
            trained[norm] = normalisation.Unscaled(made[norm])
            trained[linear] = normalisation.Rescaled(made[linear], made[norm])
        self.steps = steps_of(graph, walked)
        self.unwatched = steps_of(graph, trained)  # what training takes: saves LayerNorm's way back over the inputs
        self.evaluation = steps_of(graph, [block.evaluate for block in walked])
        self.trained = [p.name for p in graph.trainable]
        self.leaves = [working[name] for name in self.trained]  # what a step differentiates by
        self.sequences = tuple(one.layout == "sequence" for one in graph.inputs)
        self.cells_in_order = nn.CellList(made, auto_prefix=False)
        self.wiring = tuple(node.inputs for node in graph.nodes)

    def construct(self, *inputs: Tensor) -> Tensor:
        """The output (B, O) in evaluation mode. The graph compiler takes tuples that grow, no dictionaries."""
        values = ()
        for place, sequence in enumerate(self.sequences):
            x = inputs[place]
            if sequence:
                x = x.transpose(1, 0, 2)  # (B, T, D) -> (T, B, D)
            values = (*values, x)
        for place, block in enumerate(self.cells_in_order):
            xs = ()
            for index in self.wiring[place]:
                xs = (*xs, values[index])
            values = (*values, block(*xs))
        return values[-1]

    def run(self, inputs: Sequence[Tensor], masks: Mapping[str, Tensor], train: bool,
            watch: Watch | None = None) -> Tensor:
        """The output (B, O) of rows (B, A) and sequences (T, B, D), time first."""
        if train:
            return record(self.steps, inputs, masks, watch)[0]
        output: Tensor = execute(self.evaluation, inputs, masks, train, watch)
        return output

    def forward(self, inputs: Sequence[Tensor], masks: Mapping[str, Tensor]) -> tuple[Tensor, list[Any]]:
        """The output (B, O) in train mode, and what `backward` needs."""
        return record(self.unwatched, inputs, masks)

    def backward(self, dy: Tensor, tape: Sequence[Any]) -> list[Tensor]:
        """Gradients of the trained parameters, flat, from that of the output (B, O)."""
        gradients = backpropagate(self.unwatched, tape, dy, add)
        return [gradients[name] for name in self.trained]

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and statistics by neutral name."""
        return dict(self.own)

    def _place(self, path: str) -> tuple[nn.Cell, str]:
        """The cell that holds what is called `path`, made where there is none, and its name there."""
        *folders, name = path.split(".")
        cell: nn.Cell = self
        for folder in folders:
            inner = dict(cell.name_cells())
            if folder not in inner:
                cell.insert_child_to_cell(folder, nn.Cell(auto_prefix=False))
            cell = dict(cell.name_cells())[folder]
        return cell, name


class Copies(shared.Copies[Tensor]):
    """What blocks in half work on: their parameters rounded to half, by name."""

    def __init__(self, graph: Graph, own: Mapping[str, Tensor], half: Half) -> None:
        super().__init__(graph, half)
        self.flat = Flat(self.parameters, half.working)
        self.tensors = {name: self.flat.parameter(name) for name in self.flat.places}
        self.sources = [own[name].view(-1) for name in self.tensors]

    def refresh(self) -> None:
        """Round the parameters anew."""
        assign(self.flat.value, self.half.leave(concat(tuple(self.sources))))
