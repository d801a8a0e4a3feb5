"""From a configuration to what a run begins with: the data, and the graph of the model on it."""
from __future__ import annotations

from dataclasses import replace

from core.config import Config, build_graph
from core.data import Dataset, load_dataset
from core.models.graph import Graph
from core.training.scale import scale_notes


def prepare(config: Config) -> tuple[Dataset, Graph]:
    """The data set of `config`, with notes about what its network loses of it, and the graph of the network.

    Raises UserError, one line, for data that is missing, damaged or of another schema, or that the network can't bear.
    """
    dataset = load_dataset(config)
    graph = build_graph(config, dataset.inputs)
    lost = scale_notes(dataset.splits["train"].arrays, graph, config, dataset.source or dataset.title)
    return replace(dataset, notes=dataset.notes + lost), graph
