"""Hyperparameters: the keys of a run and of its model, YAML and flags, and the graph that they describe."""
from core.config.build import build_graph
from core.config.keys import RUN_PLACES, Config
from core.config.schema import (
    DEFAULT_MODEL,
    all_keys,
    changed,
    changes,
    grouped_keys,
    identity,
    make_config,
    models_with,
    own_keys,
    run_keys,
    schema,
    to_values,
)

__all__ = [
    "DEFAULT_MODEL", "RUN_PLACES", "Config", "all_keys", "build_graph", "changed", "changes", "grouped_keys",
    "identity", "make_config", "models_with", "own_keys", "run_keys", "schema", "to_values",
]
