"""The device suite's check of half precision where blocks compute by PyTorch's half kernels for a CPU, in a worker."""
from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import torch

from backends.torch.session import TorchSession
from benchmarks import device_checks
from benchmarks.device_cells import LEVELS, QUICK, SCALES, in_half, networks
from core.config import Config, build_graph, make_config
from core.data.specs import InputSpec
from core.models.graph import Graph
from core.runtime.backend import open_session


class Here:
    """In the place of a worker: the CPU's own sessions are in this process too."""

    def open(self, key: str, values: Mapping[str, Any], inputs: Sequence[InputSpec]) -> Any:
        config = make_config(values)
        return open_session("torch", build_graph(config, inputs), config)


def shares(name: str) -> list[float]:
    """How much of what is allowed is used: levels and half types in order, each by graph and eagerly."""
    torch.backends.mkldnn.set_flags(False)  # its LSTM has no half on every CPU; PyTorch's own has

    def on_this_cpu(backend: str, graph: Graph, config: Config) -> TorchSession:
        """A session of `cuda`, where half isn't emulated, on tensors of the CPU."""
        return TorchSession(graph, config, torch.device("cpu"))

    values = networks(QUICK, "cuda", 1)[name]
    rows = device_checks.rows_of(values["dataset"], values.get("emotion"), values.get("model"), QUICK.rows)
    own, found = importlib.import_module("benchmarks.device_torch"), list[Any]()
    with patch.object(device_checks, "open_session", on_this_cpu):
        for level in LEVELS:
            for kind in SCALES:
                ground = device_checks.ground_of(in_half(values, level, kind), *rows)
                device_checks.check_half(name, ground, "torch", Here(), own, QUICK, found.append)
    return [one.share for one in found]
