"""The static step of backends.torch.captured without a CUDA device, in a worker process.

In the place of a CUDA graph stands a recording of its kernels: operators on tensors, and nothing of Python.
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from backends.torch.captured import WARM_UP, CapturedSteps, StaticStep, Step
from backends.torch.session import TorchSession, open_session
from core.common.arrays import Array
from core.config import build_graph, make_config
from core.training.plan import EpochPlan, make_plan
from core.training.scaler import initial_scale
from core.training.state import initial_state
from parity_tests.conftest import ROWS, inputs_of_case, make_arrays

FROM_HOST = ("aten.lift_fresh", "aten._local_scalar_dense", "aten.item", "aten.is_pinned")  # data, or waiting for it
EPOCHS, SIZE = 2, 4  # 21 rows: five full steps and a ragged one


class Recording(TorchDispatchMode):
    """The operators that run within, to be run again: as in a CUDA graph, numbers and shapes stay what they were.

    Refuses what a capture refuses: tensors of another device, numbers that go to the host or come from it.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.calls = device, list[tuple[Any, Any, Any, Any]]()

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(operator).startswith("aten._fused_adam_"):
            scalars = [*args[5], kwargs["lr"], *filter(None.__ne__, [kwargs.get("found_inf")])]
            wrong = {one.dtype for one in scalars} - {torch.float32}
            if wrong:  # CUDA's kernel takes the bytes for float32
                raise RuntimeError(f"{operator}: {wrong.pop()} of counts, rate or overflow, expected float32")
        has_kernel = self.device.type != "meta" or not str(operator).startswith("aten._fused_adam_")
        found = operator(*args, **kwargs) if has_kernel else None
        tensors = [one for one in tree_flatten((args, kwargs, found))[0] if isinstance(one, torch.Tensor)]
        places = {str(one.device) for one in tensors} - {str(self.device)}
        if places or str(operator).startswith(FROM_HOST):
            raise RuntimeError(f"{operator} within the step: {', '.join(places) or 'data of the host'}")
        self.calls.append((operator, args, kwargs, found))
        return found

    def replay(self) -> None:
        """Run them again. What they made the first time is made anew, what was there before is taken as it now is."""
        made: dict[int, torch.Tensor] = {}

        def now(tensor: torch.Tensor) -> torch.Tensor:
            return made.get(id(tensor), tensor)

        with torch.no_grad():
            for operator, args, kwargs, found in self.calls:
                args, kwargs = (tree_map_only(torch.Tensor, now, one) for one in (args, kwargs))
                for old, new in zip(tree_flatten(found)[0], tree_flatten(operator(*args, **kwargs))[0], strict=True):
                    if isinstance(old, torch.Tensor):
                        made[id(old)] = new


def record(step: Step) -> Step:
    """In the place of backends.torch.captured.capture_on_cuda. What is recorded runs too: the last of the warm-up."""
    for _ in range(WARM_UP - 1):
        step()
    with Recording(torch.device("cpu")) as recording:
        step()
    return recording.replay


torch.backends.mkldnn.set_flags(False)  # its LSTM passes on what no operator can be given again


def opened(values: Mapping[str, Any], seed: int = 0) -> TorchSession:
    """A session in its initial state, with rows."""
    config = make_config({**values, "batch_size": SIZE, "seed": seed})
    graph = build_graph(config, inputs_of_case(config))
    session = open_session(graph, config)
    session.load_data("train", make_arrays(graph, "float32"))
    session.load_state(initial_state(graph, seed, "float32", initial_scale(config)))
    return session


def plan_of(session: TorchSession, epoch: int) -> EpochPlan:
    """An epoch whose learning rates are float32, as the static step has them."""
    plan = make_plan(session.graph, session.config, epoch, ROWS)
    return replace(plan, rates=plan.rates.astype(np.float32).astype(np.float64))


def result(session: TorchSession, losses: Sequence[Array]) -> list[Array]:
    """All losses, all of the state."""
    state = session.state()
    counters = np.array([state.step, state.loss_scale, state.good_steps])
    return [*losses, *state.weights.values(), *state.exp_avg.values(), *state.exp_avg_sq.values(), counters]


def ordinary(session: TorchSession) -> list[Array]:
    """Epochs as a run has them."""
    plans = [plan_of(session, epoch) for epoch in range(EPOCHS)]
    return result(session, [np.append(found.losses, found.skipped) for found in map(session.train_epoch, plans)])


def static(sessions: Sequence[TorchSession]) -> list[list[Array]]:
    """The same with static steps of all full batches, those of all sessions in one."""
    full = ROWS // SIZE
    steps = CapturedSteps([StaticStep(session, SIZE, full) for session in sessions], record)
    losses: list[list[Array]] = [[] for _ in sessions]
    for epoch in range(EPOCHS):
        plans = [plan_of(session, epoch) for session in sessions]
        for session in sessions:
            if session.scaler:
                session.scaler.begin(full + 1)
        firsts = steps.run(plans, 0, full)
        for session, plan, first, own in zip(sessions, plans, firsts, losses, strict=True):
            last = list(session.train_steps(plan, full, full + 1))
            skipped = int(session.scaler.read(session.scaler.skipped)) if session.scaler else 0
            own.append(np.append(session.read_losses([*first.unbind(), *last]), skipped))
    return [result(session, own) for session, own in zip(sessions, losses, strict=True)]


def both_ways(values: Mapping[str, Any]) -> tuple[list[Array], list[Array]]:
    """Losses and states of the ordinary and of the static steps."""
    return ordinary(opened(values)), static([opened(values)])[0]


def seeds_together(values: Mapping[str, Any], seeds: Sequence[int]) -> tuple[list[Array], list[Array]]:
    """Losses of the last epoch and states of several seeds in one static step, and of each alone."""
    together = static([opened(values, seed) for seed in seeds])
    return [array for one in together for array in one], [array for seed in seeds
                                                          for array in ordinary(opened(values, seed))]


def few_steps(values: Mapping[str, Any]) -> tuple[list[Array], list[Array]]:
    """Epochs of one full batch and a ragged one, as a session with a capture of its own takes them, and the same
    without: there are fewer steps than the capture needs to warm up."""
    found = []
    for capture in (record, None):
        session = opened(values)
        session.capture = capture
        plans = [replace(plan, order=plan.order[:SIZE + 1]) for plan in (plan_of(session, epoch) for epoch in range(2))]
        found.append(result(session, [np.append(one.losses, one.skipped) for one in map(session.train_epoch, plans)]))
    return found[0], found[1]


def streams_of_seeds() -> list[str]:
    """What the steps of three seeds do with streams, in order."""
    heard: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            heard.append(f"{self.name} waits for {other.name}")

    class Seed:
        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(self) -> None:
            heard.append(f"seed {self.name}, {now[-1]}")

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        now.append(stream.name)
        yield
        now.pop()

    now = ["here"]
    steps = CapturedSteps.__new__(CapturedSteps)
    steps.steps, steps.streams = [Seed("0"), Seed("1"), Seed("2")], [Stream("one"), Stream("two")]  # type: ignore
    with patch.multiple("torch.cuda", current_stream=lambda: Stream("here"), stream=on):
        steps._all()
    return heard


def placed_step(values: Mapping[str, Any]) -> str | None:
    """What a step of a session on another device has on this one, where its tensors have shapes and no numbers."""
    config = make_config({**values, "batch_size": SIZE, "device": "cuda"})
    graph, device = build_graph(config, inputs_of_case(config)), torch.device("meta")
    session = TorchSession(graph, config, device)
    session.load_data("train", make_arrays(graph, "float32"))
    session.load_state(initial_state(graph, 0, "float32", initial_scale(config)))
    step = StaticStep(session, SIZE, ROWS // SIZE)
    step.fill(plan_of(session, 0), 0, ROWS // SIZE)
    try:
        with Recording(device):
            step()
    except RuntimeError as error:
        return str(error)
    return None
