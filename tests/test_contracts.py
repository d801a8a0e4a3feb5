"""Every call to an accelerator fits the signature of the real package: which need not be there, nor its hardware."""
from __future__ import annotations

import inspect
import re

import pytest

from core.runtime.worker import Worker
from tests.contracts import ANY, Call, Signatures, calls, calls_of, parsed, stored
from tests.running import needs

ADAM = "torch_npu.optim.NpuFusedAdam"


def found(source: str) -> list[Call]:
    return list(calls(source, "file.py", ("torch_npu.", "torch.npu.", "torch.cuda.")))


def problem(source: str, signatures: Signatures | None = None) -> str:
    call, = found(source)
    return call.problem(stored() if signatures is None else signatures) or ""


@pytest.fixture(scope="module", params=["torch", "paddle", "mindspore"])
def framework(request: pytest.FixtureRequest) -> tuple[str, Signatures]:
    """One that is installed, and what it says of every name that is called."""
    backend: str = request.param
    needs(backend)
    worker = Worker(backend)
    try:
        return backend, worker.run("tests.contracts:installed", sorted({call.name for call in calls_of(backend)}))
    finally:
        worker.close()


def test_calls_to_torch_npu() -> None:
    made, signatures = calls_of("torch_npu"), stored()
    assert {call.name for call in made} >= {"torch_npu.npu.is_available", "torch_npu.npu.device_count"}
    assert [said for call in made if (said := call.problem(signatures))] == []


def test_calls_to_frameworks(framework: tuple[str, Signatures]) -> None:
    backend, signatures = framework
    made = calls_of(backend)
    known = {"torch": {"torch.cuda.is_available", "torch._fused_adam_", "torch.lstm"},
             "paddle": {"paddle.device.set_device", "paddle.base.core.set_num_threads"},
             "mindspore": {"mindspore.set_device", "mindspore.runtime.launch_blocking"}}
    assert {call.name for call in made} >= known[backend]
    assert [said for call in made if (said := call.problem(signatures))] == []
    assert [name for name in known[backend] if signatures[name] == [ANY]] == [], "nothing was bound"


@pytest.mark.parametrize(("source", "words"), [
    ("import torch_npu\ntorch_npu.optim.NpuFusedAdam(p, lr=0.1, betas=b, eps=e, weight_decay=0, amsgrad=False)", ""),
    ("import torch_npu\ntorch_npu.optim.NpuFusedAdam(p, fused=True)", rf"{ADAM}\(params, lr=0.*unexpected.*'fused'"),
    ("from torch_npu.optim import NpuFusedAdam as Adam\nAdam(p, foreach=True)", "file.py:2: .*'foreach'"),
    ("import torch_npu as tn\ntn.optim.NpuFusedAdam()", "missing.*'params'"),
    ("import torch_npu as tn\ntn.optim.NpuFusedAdam(*p, lr=rate)", ""),
    ("import torch_npu as tn\ntn.optim.NpuFusedAdam(**p, fused=True)", "'fused'"),
    ("def f():\n  import torch_npu\n  return torch_npu.npu.amp.GradScaler(device='npu')", "file.py:3: .*'device'"),
    ("import torch\ntorch.npu.set_device(0)", ""), ("import torch\ntorch.npu.set_device()", "missing"),
    ("import torch\nwith torch.npu.graph(g, stream=s): pass", ""),
    ("import torch\nwith torch.npu.graph(g, keep_graph=True): pass", "'keep_graph'"),
    ("import torch\ntorch.npu.fly()", "torch_npu.npu.fly is not among.*python -m tests.contracts WHEEL"),
])
def test_what_is_caught(source: str, words: str) -> None:
    said = problem(source)
    assert re.search(words, said) if words else not said, said


def test_what_is_not_an_accelerator_is_left_alone() -> None:
    assert found("import torch\nimport numpy as np\ntorch.stack([])\nnp.cuda.is_available()\ncuda.is_available()") == []
    assert [call.name for call in found("from torch import cuda\ncuda.is_available()")] == ["torch.cuda.is_available"]


def test_overloads_are_tried_in_turn() -> None:
    signatures = {"torch.cuda.f": ["(a, /)", "(a, b, *, lr=...)"]}
    assert not problem("import torch\ntorch.cuda.f(1)", signatures)
    assert not problem("import torch\ntorch.cuda.f(1, b=2, lr=3)", signatures)
    assert "torch.cuda.f(a, /)" in problem("import torch\ntorch.cuda.f(1, 2, 3)", signatures)
    assert "torch.cuda.f" in problem("import torch\ntorch.cuda.f(a=1)", signatures)


def test_a_stored_text_is_a_signature() -> None:
    def example(a, /, b, c=1, *args, d, e=2, **kwargs):  # type: ignore[no-untyped-def]
        pass

    found, true = parsed("(a, /, b, c=1, *args, d, e=2, **kwargs)"), inspect.signature(example)
    assert [(one.name, one.kind, one.default is one.empty) for one in found.parameters.values()] == [
        (one.name, one.kind, one.default is one.empty) for one in true.parameters.values()]
    for texts in stored().values():
        parsed(texts[0])
