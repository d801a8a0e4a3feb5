"""The network in Paddle: the blocks of a graph, and the parameters under their neutral names.

Read it with core/models/<model>.py, which has the wiring, and blocks.py, normalisation.py, attention.py and fusion.py,
which have the mathematics.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import paddle
from paddle import Tensor, nn

from backends.paddle import attention, blocks, fusion, normalisation
from backends.paddle.kernels import Place, ops
from backends.paddle.precision import Half
from backends.paddle.state import Flat
from core.models.graph import FROZEN, STATISTICS, Graph
from core.models.precision import borders
from core.models.walk import Watch, execute, folds, local_tensors, steps_of
from core.runtime import half as shared
from core.runtime.half import Bordered

BLOCKS = {**blocks.BLOCKS, **normalisation.BLOCKS, **attention.BLOCKS, **fusion.BLOCKS}


class Network(nn.Layer):
    """A model of core/models. Called with its inputs, rows (B, A) and sequences (B, T, D), it gives (B, O).

    Parameters take Paddle's default dtype.
    """

    def __init__(self, graph: Graph, place: Place, half: Half | None = None) -> None:
        dtype = paddle.get_default_dtype()
        super().__init__(dtype=dtype)
        names = [*(group.name for group in graph.groups), FROZEN, STATISTICS]
        self.flats = {name: [Flat(graph.group(name), dtype)] for name in names if graph.group(name)}
        own = {}
        for flat in (flat for flats in self.flats.values() for flat in flats):
            for p in flat.parameters:
                own[p.name] = flat.view(p.name) if p.group == STATISTICS else self._parameter(flat.view(p.name))
        self.copies = Copies(graph, own, half) if half else None
        working = {**own, **(self.copies.tensors if self.copies else {})}
        made = [BLOCKS[node.kind](node, local_tensors(node, working), place) for node in graph.nodes]
        for node, block in zip(graph.nodes, made, strict=True):
            folder, name = self._place(node.name)
            folder.add_sublayer(name, block)
        for p in graph.parameters:
            folder, name = self._place(p.name)
            (folder.register_buffer if p.group == STATISTICS else folder.add_parameter)(name, own[p.name])
        trained: list[Any] = list(made)
        if half:
            trained = made = [Bordered(block, border, half)
                              for block, border in zip(made, borders(graph, half.level), strict=True)]
        else:
            for norm, linear in folds(graph):
                trained[norm], trained[linear] = made[norm].plain, partial(made[linear].folded, made[norm].pair)
        self.steps = steps_of(graph, made)
        self.unwatched = steps_of(graph, trained)  # what training takes: saves LayerNorm's way back over the inputs
        self.leaves = [working[p.name] for p in graph.trainable]  # what a step differentiates by
        # frozen ones too: the backward passes of rnn and addmm fail unless all their parameters ask for gradients
        self.asked = self.leaves + [working[p.name] for p in graph.group(FROZEN)]
        self.sequences = [one.layout == "sequence" for one in graph.inputs]
        self.own = own

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """The output (B, O) in evaluation mode. Saving flattens the list."""
        feeds = []
        for place, sequence in enumerate(self.sequences):
            x = inputs[place]
            feeds.append(x.transpose([1, 0, 2]) if sequence else x)  # (B, T, D) -> (T, B, D)
        return self.run(feeds, {}, False)

    def run(self, inputs: Sequence[Tensor], masks: Mapping[str, Tensor], train: bool,
            watch: Watch | None = None) -> Tensor:
        """The output (B, O) of rows (B, A) and sequences (T, B, D), time first."""
        output: Tensor = execute(self.unwatched if train and watch is None else self.steps, inputs, masks, train, watch)
        return output

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and statistics by neutral name."""
        return dict(self.own)

    def _parameter(self, view: Tensor) -> Tensor:
        """A parameter whose memory is `view`."""
        parameter: Tensor = self.create_parameter(view.shape)
        parameter.data = view
        return parameter

    def _place(self, path: str) -> tuple[nn.Layer, str]:
        """The layer that holds what is called `path`, made where there is none, and its name there."""
        *folders, name = path.split(".")
        layer: nn.Layer = self
        for folder in folders:
            inner = dict(layer.named_children())
            layer = inner[folder] if folder in inner else layer.add_sublayer(folder, nn.Layer())
        return layer, name


class Copies(shared.Copies[Tensor]):
    """What blocks in half work on: their parameters rounded to half, by name."""

    def __init__(self, graph: Graph, own: Mapping[str, Tensor], half: Half) -> None:
        super().__init__(graph, half)
        self.flat = Flat(self.parameters, half.working)
        self.tensors = {name: self.flat.view(name) for name in self.flat.places}
        for tensor in self.tensors.values():
            tensor.stop_gradient = False
        self.sources = [own[name].detach().reshape([-1]) for name in self.tensors]  # views

    def refresh(self) -> None:
        """Round the parameters anew."""
        self.half.take(self.flat.value, ops.concat(self.sources, 0))
