"""The network in PyTorch: the blocks of a graph, and the parameters under their neutral names.

Read it with core/models/<model>.py, which has the wiring, and blocks.py, normalisation.py, attention.py and fusion.py,
which have the mathematics.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backends.torch import attention, blocks, fusion, kernels, normalisation
from backends.torch.precision import Half
from backends.torch.state import Flat
from core.models.graph import FROZEN, STATISTICS, Graph
from core.models.precision import borders
from core.models.walk import Watch, execute, folds, local_tensors, steps_of
from core.runtime import half as shared
from core.runtime.half import Bordered

BLOCKS = {**blocks.BLOCKS, **normalisation.BLOCKS, **attention.BLOCKS, **fusion.BLOCKS}


class Network(nn.Module):
    """A model of core/models. Called with its inputs, rows (B, A) and sequences (B, T, D), it gives (B, O)."""

    def __init__(self, graph: Graph, dtype: torch.dtype, device: torch.device, half: Half | None = None) -> None:
        super().__init__()
        names = [*(group.name for group in graph.groups), FROZEN, STATISTICS]
        self.flats = {name: [Flat(graph.group(name), dtype, device)] for name in names if graph.group(name)}
        views = {name: flat.view(name) for flats in self.flats.values() for flat in flats for name in flat.places}
        own = {p.name: views[p.name] if p.group == STATISTICS else nn.Parameter(views[p.name])
               for p in graph.parameters}
        self.copies = Copies(graph, own, half) if half else None
        working = {**own, **(self.copies.tensors if self.copies else {})}
        made = [BLOCKS[node.kind](node, local_tensors(node, working)).to(dtype).to(device)  # what it made itself
                for node in graph.nodes]
        for node, block in zip(graph.nodes, made, strict=True):
            folder, name = self._place(node.name)
            folder.add_module(name, block)
        for key, tensor in own.items():
            folder, name = self._place(key)
            if isinstance(tensor, nn.Parameter):
                folder.register_parameter(name, tensor)
            else:
                folder.register_buffer(name, tensor)
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
        self.sequences = [one.layout == "sequence" for one in graph.inputs]

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output (B, O) in evaluation mode."""
        feeds = [x.transpose(0, 1) if sequence else x  # (B, T, D) -> (T, B, D)
                 for x, sequence in zip(inputs, self.sequences, strict=True)]
        return self.run(feeds, {}, False)

    def run(self, inputs: Sequence[Tensor], masks: Mapping[str, Tensor], train: bool,
            watch: Watch | None = None) -> Tensor:
        """The output (B, O) of rows (B, A) and sequences (T, B, D), time first."""
        output: Tensor = execute(self.unwatched if train and watch is None else self.steps, inputs, masks, train, watch)
        return output

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and statistics by neutral name."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    def _place(self, path: str) -> tuple[nn.Module, str]:
        """The module that holds what is called `path`, made where there is none, and its name there."""
        *folders, name = path.split(".")
        module: nn.Module = self
        for folder in folders:
            if folder not in dict(module.named_children()):
                module.add_module(folder, nn.Module())
            module = module.get_submodule(folder)
        return module, name


class Copies(shared.Copies[Tensor]):
    """What blocks in half work on: their parameters rounded to half, by name."""

    def __init__(self, graph: Graph, own: Mapping[str, Tensor], half: Half) -> None:
        super().__init__(graph, half)
        device = next(iter(own.values())).device
        self.flat = Flat(self.parameters, half.working, device)
        self.tensors = {name: self.flat.view(name).requires_grad_() for name in self.flat.places}
        self.targets = [tensor.detach() for tensor in self.tensors.values()]
        self.sources = [own[name].detach() for name in self.tensors]

    def refresh(self) -> None:
        """Round the parameters anew."""
        kernels.copy_all(self.targets, self.sources)
        self.half.take(self.flat.value)
