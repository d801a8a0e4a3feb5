"""What tests of mixed precision do within a worker process, for each framework in its own words."""
from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from core import api
from core.common.arrays import Array
from core.common.half import HalfType
from core.config import build_graph, make_config
from core.data.published import feature_inputs
from core.data.specs import InputSpec
from core.models.precision import Border
from core.runtime.backend import open_session
from core.training.plan import EpochPlan
from core.training.state import State

# What asks a tensor for its numbers: Python waits for the device, and a captured step can't be captured.
WAITS = {"torch": ("item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__", "__index__"),
         "mindspore": ("item", "tolist", "asnumpy", "__array__", "__bool__", "__float__", "__int__", "__index__"),
         "paddle": ("item", "tolist", "numpy", "cpu", "__array__", "__bool__", "__float__", "__int__", "__index__")}


class Passing:
    """A block that passes on what it takes."""

    def __call__(self, xs: Sequence[Any], train: bool) -> Any:
        return xs[0]

    def forward(self, xs: Sequence[Any]) -> tuple[Any, None]:
        return xs[0], None

    def backward(self, dy: Any, saved: None, needs: Sequence[bool]) -> tuple[list[Any], dict[str, Any]]:
        return [dy], {}


def crossing(backend: str, kind: HalfType, half: bool, values: Array, slopes: Array) -> tuple[Array, Array]:
    """What `values` become in a block on the CPU, and what arrives before it of the gradient `slopes`: in one in half,
    or in one in float32 that is given what another block has in half.
    """
    config = make_config({"dataset": "mosi", "amp_level": "O2", "amp_dtype": kind})
    session: Any = open_session(backend, build_graph(config, feature_inputs(audio=1, video=1, text=1, steps=1)), config)
    model = importlib.import_module(f"backends.{backend}.model")
    block = model.Bordered(Passing(), Border(half, (True,)), session.half)
    if backend == "mindspore":
        from mindspore import Tensor

        y, saved = block.forward([Tensor(values)])
        [dx], _ = block.backward(Tensor(slopes), saved, [True])
        return y.asnumpy(), dx.asnumpy()
    if backend == "paddle":
        import paddle

        x = paddle.to_tensor(values, stop_gradient=False)
        y = block([x], True)
        dx, = paddle.grad(y, [x], [paddle.to_tensor(slopes)])
        return y.numpy(), dx.numpy()
    import torch

    x = torch.from_numpy(values).requires_grad_()
    y = block([x], True)
    dx, = torch.autograd.grad(y, [x], [torch.from_numpy(slopes)])
    return y.detach().numpy(), dx.numpy()


def steps_that_wait(backend: str, values: dict[str, Any], inputs: Sequence[InputSpec], rows: dict[str, Array],
                    state: State, plan: EpochPlan) -> tuple[list[str], list[str], int]:
    """What asks a tensor for its numbers from the first to the last step of an epoch, and after; steps skipped."""
    config = make_config(values)
    session: Any = open_session(backend, build_graph(config, inputs), config)
    session.load_data("train", rows)
    session.load_state(state)
    kind: Any = importlib.import_module(backend).Tensor
    asked: list[str] = []
    during: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        original = getattr(kind, name)

        def wrapper(tensor: Any, *args: Any, **more: Any) -> Any:
            asked.append(name)
            return original(tensor, *args, **more)
        return wrapper

    with contextlib.ExitStack() as stack:
        first, read = session.train_steps, session.read_losses

        def train_steps(*args: Any) -> Any:
            for name in WAITS[backend]:
                if hasattr(kind, name):
                    stack.enter_context(mock.patch.object(kind, name, noted(name)))
            return first(*args)

        def read_losses(losses: Any) -> Any:
            during.extend(asked)
            return read(losses)

        session.train_steps, session.read_losses = train_steps, read_losses
        skipped = session.train_epoch(plan).skipped
    return during, asked[len(during):], skipped


def exported_output(backend: str, path: str, rows: Sequence[Array]) -> Array:
    """What an exported program gives for rows in the network's order of inputs."""
    found: Array
    if backend == "mindspore":
        import mindspore

        found = mindspore.nn.GraphCell(mindspore.load(path))(*map(mindspore.Tensor, rows)).asnumpy()
    elif backend == "paddle":
        import paddle

        found = paddle.jit.load(path.removesuffix(".json"))(*map(paddle.to_tensor, rows)).numpy()
    else:
        import torch

        found = torch.export.load(path).module()(*map(torch.from_numpy, rows)).detach().numpy()
    return found


class Stop(Exception):
    """Raised where a user's Ctrl-C or a power cut would strike."""


def stopped(backend: str, values: dict[str, Any], folder: Path, epochs: int) -> None:
    """Begin a run in `folder` and stop it after so many epochs."""
    def report(row: dict[str, Any]) -> None:
        if row["epoch"] == epochs:
            raise Stop

    with contextlib.suppress(Stop):
        api.train(backend, make_config(values), folder, report=report)
        raise AssertionError("it came to its end")


def there(backend: str, device: str) -> str:
    """Why this machine may have the device for the backend; empty where it can't."""
    kind = device.partition(":")[0]
    if backend == "torch":
        import torch

        if kind == "cuda":
            return "torch sees a CUDA device" if torch.cuda.is_available() else ""
        return "torch_npu is installed" if importlib.util.find_spec("torch_npu") else ""
    if backend == "paddle":
        import paddle

        if kind == "cuda":
            return "Paddle is built for CUDA" if paddle.device.is_compiled_with_cuda() else ""
        return "Paddle has an NPU plugin" if "npu" in (paddle.device.get_all_custom_device_type() or ()) else ""
    if kind == "npu":
        import ctypes

        with contextlib.suppress(OSError):
            ctypes.CDLL("libge_runner.so")
            return "CANN is installed"
    return ""


def placed(backend: str, name: str, cuda: int, npu: int) -> str:
    """Which device `find_device` finds on a machine with so many of each kind: cpu, cuda:1, npu:0."""
    runtime = importlib.import_module(f"backends.{backend}.runtime")
    if backend == "mindspore":
        import mindspore

        asked: list[str] = []

        def set_device(kind: str, index: int = 0) -> None:
            if kind == "Ascend" and not npu:
                raise RuntimeError("libge_runner.so: cannot open shared object file: No such file or directory")
            if kind == "Ascend" and index >= npu:
                raise ValueError(f"no device {index}\n")
            asked.append({"CPU": "cpu", "Ascend": f"npu:{index}"}[kind])

        with mock.patch.object(mindspore, "set_device", set_device):
            runtime.find_device(name)
        return asked[-1]
    if backend == "paddle":
        import paddle

        with (mock.patch.object(paddle.device, "is_compiled_with_cuda", lambda: cuda > 0),
              mock.patch.object(paddle.device.cuda, "device_count", lambda: cuda),
              mock.patch.object(paddle.device, "get_all_custom_device_type", lambda: ["npu"] if npu else []),
              mock.patch.object(paddle.base.core, "get_custom_device_count", lambda kind: {"npu": npu}[kind]),
              mock.patch.object(paddle, "CUDAPlace", lambda index: f"cuda:{index}"),
              mock.patch.object(paddle, "CustomPlace", lambda kind, index: f"{kind}:{index}")):
            return str(runtime.find_device(name)).removeprefix("Place(").removesuffix(")")
    import torch

    own = types.ModuleType("torch_npu")
    own.npu = types.SimpleNamespace(is_available=lambda: npu > 0, device_count=lambda: npu)  # type: ignore[attr-defined]
    with (mock.patch.object(torch.cuda, "is_available", lambda: cuda > 0),
          mock.patch.object(torch.cuda, "device_count", lambda: cuda),
          mock.patch.object(torch, "device", lambda kind, *index: ":".join([kind, *map(str, index)])),
          mock.patch.dict(sys.modules, {"torch_npu": own})):
        return str(runtime.find_device(name))
