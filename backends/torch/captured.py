"""An epoch on CUDA: the step is one CUDA graph, and everything that it needs lies on the device before the first.

A training step of LMF is some 150 kernels that take microseconds each: launched one by one, the launching takes longer
than the computing. A graph is launched once for all of them; so what changes from step to step may only be what lies in
tensors, and the next step finds it by a counter of its own.
"""
from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from core.runtime.session import DeviceBatch, GraphSession
from core.training.plan import EpochPlan

Step = Callable[[], None]
Capture = Callable[[Step], Step]  # what a call of the result does is what a call of the step did when it was captured
WARM_UP = 3  # steps before the capture, in which cuBLAS and cuDNN choose kernels and take memory


class OnDevice(GraphSession[Tensor]):
    """A session of which a step can be captured."""

    device: torch.device
    dtype: torch.dtype

    @abstractmethod
    def inputs_of(self, data: Mapping[str, Tensor], rows: Tensor) -> list[Tensor]:
        """The inputs of `rows` (B,) of a split: (B, A), or (T, B, D) of a sequence."""


class StaticStep:
    """A training step of `session` on `rows` rows, the next one at each call: nothing of it comes from the host.

    capacity: steps of which order, masks and learning rates can be put in at a time.
    """

    def __init__(self, session: OnDevice, rows: int, capacity: int) -> None:
        self.session, self.rows = session, rows
        self.capacity = capacity = max(capacity, WARM_UP)  # before anything is put in, the warm-up takes so many
        device, precision = session.device, session.config.precision
        self.order = torch.zeros(rows * capacity, dtype=torch.int64, device=device)
        self.rates = torch.zeros(capacity, len(session.graph.groups), device=device)  # float32, as the kernel takes it
        self.losses = torch.zeros(capacity, dtype=session.dtype, device=device)
        zeros = {site.name: np.zeros((rows * capacity, *site.shape), precision) for site in session.graph.dropout_sites}
        # All masks are there before the capture, which takes what it finds.
        self.masks = {name: session.place(session.own(name, array)) for name, array in zeros.items()}
        self.next = torch.zeros(1, dtype=torch.int64, device=device)
        self.taken = torch.zeros((), device=device)  # since training began, as Adam's kernel counts
        self.places = torch.arange(rows, device=device)

    def fill(self, plan: EpochPlan, first: int, last: int) -> None:
        """Put in what the steps `first` to `last`, exclusive, of an epoch need."""
        session, rows = self.session, plan.order[plan.bounds[first][0]:plan.bounds[last - 1][1]]
        self.order[:len(rows)] = torch.from_numpy(rows)
        self.rates[:last - first] = torch.from_numpy(plan.rates[first:last])
        masks = plan.masks(first, last)
        for name, kept in self.masks.items():
            own = torch.from_numpy(session.own(name, masks[name]))
            kept.narrow(session.row_axis(name), 0, len(rows)).copy_(own)
        self.next.zero_()
        self.taken.fill_(session.optimizer.steps)

    def __call__(self) -> None:
        session, data = self.session, self.session.splits["train"]
        places = self.next * self.rows + self.places  # (B,)
        rows = self.order.index_select(0, places)
        masks = {name: mask.index_select(session.row_axis(name), places) for name, mask in self.masks.items()}
        loss, gradients = session.differentiate(DeviceBatch(session.inputs_of(data, rows),
                                                            data["label"].index_select(0, rows), masks))
        self.losses.index_copy_(0, self.next, loss.view(1))
        self.step(gradients)
        self.next.add_(1)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """The optimizer's."""
        session, rates = self.session, self.rates.index_select(0, self.next).view(-1).unbind()  # () for each group
        self.taken.add_(1)
        if session.scaler:
            session.step(gradients, rates)
        else:
            session.optimizer.step_number(self.taken, gradients, rates)


class CapturedSteps:
    """The steps of sessions on one CUDA device as one graph: those of several run beside each other in it."""

    def __init__(self, steps: Sequence[StaticStep], capture: Capture) -> None:
        self.steps = steps
        device = steps[0].session.device
        self.streams = [torch.cuda.Stream(device) for _ in steps[1:]] if device.type == "cuda" else []
        kept = [(one.session.state(), one.session.skipped()) for one in steps]
        self.replay = capture(self._all)
        for one, (state, skipped) in zip(steps, kept, strict=True):  # the warm-up trained
            one.session.load_state(state)
            if one.session.scaler:
                one.session.scaler.skipped.fill_(skipped)

    def _all(self) -> None:
        first, *others = self.steps
        if not self.streams:
            for step in self.steps:
                step()
            return
        here = torch.cuda.current_stream()
        for stream, step in zip(self.streams, others, strict=True):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                step()
        first()
        for stream in self.streams:
            here.wait_stream(stream)

    def run(self, plans: Sequence[EpochPlan], first: int, last: int) -> list[Tensor]:
        """The losses (S,) of each session over the steps `first` to `last`, exclusive, of its plan."""
        for step, plan in zip(self.steps, plans, strict=True):
            step.fill(plan, first, last)
        for _ in range(last - first):
            self.replay()
        for step in self.steps:
            step.session.optimizer.steps += last - first
        return [step.losses[:last - first].clone() for step in self.steps]


def capture_on_cuda(device: torch.device, step: Step) -> Step:
    """A call of the result is a call of `step`, which works on `device`, as one CUDA graph."""
    with torch.cuda.device(device):  # streams are those of the current device, which need not be this one
        side, here = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(here)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                step()
        here.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
    replay: Step = graph.replay
    return replay
