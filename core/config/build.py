"""From a configuration and the data's inputs to the graph of the model."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from core.config.keys import Config
from core.data.specs import InputSpec
from core.models import ALL_KINDS, MODELS
from core.models.graph import OTHERS, Builder, Graph, Group


def build_graph(config: Config, inputs: Sequence[InputSpec] = ()) -> Graph:
    """The graph of `config.model` on those of `inputs` that `config.modalities` names; without them, on those of the
    published data set.

    Raises UserError for a name in `frozen` that no parameter has.
    """
    data, model = config.described, MODELS[config.model]
    if inputs:
        data = replace(data, inputs=tuple(one for one in inputs if {one.name, one.settings} & {*config.modalities}))
    builder = Builder(ALL_KINDS, data, [Group(OTHERS, config.learning_rate, config.weight_decay)])
    output = model.wiring(builder, config, data)
    return builder.graph(config.model, output, config.frozen)
