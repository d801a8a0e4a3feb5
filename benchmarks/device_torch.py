"""What the device suite asks of PyTorch alone: waiting for the device, its name, the step as a CUDA graph."""
from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from backends.torch.captured import Capture, CapturedSteps, StaticStep, Step, capture_on_cuda
from backends.torch.session import TorchSession
from core.training.plan import EpochPlan

WAYS = ("graph", "eager")


def uncaptured(step: Step) -> Step:
    """Where there is no CUDA: the step that would be captured, kernel by kernel."""
    return step


def capture_of(session: TorchSession) -> Capture:
    """How steps of this session are captured."""
    return partial(capture_on_cuda, session.device) if session.device.type == "cuda" else uncaptured


def graph_words(session: TorchSession) -> str:
    """What `graph` is here."""
    kind = session.device.type
    return "the step as one CUDA graph" if kind == "cuda" else f"the step of the graph, not captured: {kind}"


def take(session: TorchSession, way: str) -> None:
    """From here on `session.train_epoch` goes this way."""
    session.capture = capture_of(session) if way == "graph" else None


def wait(session: TorchSession) -> None:
    """Until the device has done all that it was given."""
    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)


def facts(session: TorchSession) -> dict[str, str]:
    """Name, libraries and driver of the device."""
    if session.device.type != "cuda":
        return {}
    major, minor = torch.cuda.get_device_capability(session.device)
    return {"name": torch.cuda.get_device_name(session.device), "compute capability": f"{major}.{minor}",
            "CUDA of torch": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version()),
            "driver": driver()}


def driver() -> str:
    """Of NVIDIA, as its own tool says."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: nvidia-smi gives {type(error).__name__}"


class WithoutOptimizer(StaticStep):
    """The step up to its gradients."""

    def step(self, gradients: Sequence[Tensor]) -> None:
        """What the Ascend port leaves out of its time."""


def port_way(session: TorchSession, plan: EpochPlan) -> Callable[[], float]:
    """A timer of steps by graph as the port times them: without the optimizer, the loss read at each."""
    return partial(_timed, [session], [plan], _captured([session], [plan], WithoutOptimizer), True)


def full_step(sessions: Sequence[TorchSession], plans: Sequence[EpochPlan]) -> Callable[[], float]:
    """A timer of full steps by graph, of several sessions beside each other in it."""
    return partial(_timed, sessions, plans, _captured(sessions, plans, StaticStep), False)


def _captured(sessions: Sequence[TorchSession], plans: Sequence[EpochPlan], kind: type[StaticStep]) -> CapturedSteps:
    steps = [kind(session, plan.batch_size, len(plan.bounds)) for session, plan in zip(sessions, plans, strict=True)]
    return CapturedSteps(steps, capture_of(sessions[0]))


def _timed(sessions: Sequence[TorchSession], plans: Sequence[EpochPlan], captured: CapturedSteps, read: bool) -> float:
    """Seconds of a step, over all but the first of the plan."""
    steps = len(plans[0].bounds)
    for step, plan in zip(captured.steps, plans, strict=True):
        step.fill(plan, 0, steps)
    captured.replay()
    wait(sessions[0])
    start = time.perf_counter()
    for place in range(1, steps):
        captured.replay()
        if read:
            captured.steps[0].losses[place].item()
    wait(sessions[0])
    seconds = time.perf_counter() - start
    for session in sessions:
        session.optimizer.steps += 0 if read else steps
    return seconds / (steps - 1)
