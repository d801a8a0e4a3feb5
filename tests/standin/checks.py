"""What the stand-in is held to itself, in a process that has it: `tests/test_standin.py` calls every function here."""
from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torch_npu  # registers the device
from torch import Tensor

DEVICE = torch.device("npu")
HALVES = (torch.float16, torch.bfloat16)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def refused(call: Callable[[], object], *words: str) -> None:
    try:
        call()
    except (RuntimeError, TypeError) as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(f"not refused; expected {words}")


def it_says_that_it_is_there() -> None:
    assert torch_npu.npu is torch.npu and torch.npu.is_available()
    assert (torch.npu.device_count(), torch.npu.current_device()) == (2, 0)
    assert str(torch.ones(1, device=DEVICE).device) == "npu:0"
    torch.npu.synchronize()
    try:
        torch.npu.set_device("npu:1")
        assert torch.npu.current_device() == 1 and str(torch.ones(1, device=DEVICE).device) == "npu:1"
    finally:
        torch.npu.set_device("npu:0")
    assert str((torch.arange(3, device="npu:1").unsqueeze(1) * 2).device) == "npu:1"
    refused(lambda: torch.ones(1, device="npu:2"), "npu:2")


def float64_is_refused() -> None:
    """At every placement, and as the result of every operator."""
    x, words = normal(3, 4).to(DEVICE), ("npu", "Double")
    for call in (lambda: torch.zeros(3, dtype=torch.float64, device=DEVICE), lambda: normal(3).double().to(DEVICE),
                 lambda: x.double(), lambda: x.sum(dtype=torch.float64), lambda: x.view(torch.float64) + 1,
                 lambda: torch.arange(3.0, dtype=torch.float64, device=DEVICE), lambda: x.new_zeros(2).double(),
                 lambda: torch.softmax(x, 1, dtype=torch.float64), lambda: torch.tensor(1.0, dtype=torch.float64,
                                                                                       device=DEVICE)):
        refused(call, *words)
    refused(lambda: x.to(torch.complex64), "npu", "Complex")
    assert (x * 2.5).dtype == (x + torch.tensor(1.0, dtype=torch.float64)).dtype == torch.float32  # numbers are fine


def tensors_of_two_devices_are_refused() -> None:
    x, host, other = normal(3, 4).to(DEVICE), normal(3, 4), normal(3, 4).to("npu:1")
    rows = torch.tensor([0, 2])
    for call in (lambda: x + host, lambda: host + x, lambda: x + other, lambda: torch.cat((x, host)),
                 lambda: F.linear(x, host), lambda: x.index_select(0, rows), lambda: x[rows], lambda: x.mul_(host),
                 lambda: F.layer_norm(x, (4,), host[0], host[0]), lambda: torch.stack((x, other))):
        refused(call, "device")
    refused(lambda: torch._fused_adam_([x], [x], [x], [x], [], [torch.ones(())], lr=0.1, beta1=0.9, beta2=0.9, eps=1.0,
                                       weight_decay=0.0, amsgrad=False, maximize=False), "one device")
    assert torch.equal(x.index_select(0, rows.to(DEVICE)).cpu(), normal(3, 4)[rows])


def numpy_is_refused() -> None:
    x = normal(3).to(DEVICE)
    refused(x.numpy, "numpy")
    refused(lambda: torch.from_numpy(x.detach().numpy()), "numpy")
    assert x.cpu().numpy().tolist() == normal(3).numpy().tolist()


def products_of_halves_are_rounded_products_in_float32() -> None:
    """Bit for bit those of the CPU's float32 kernel, which is given the halves."""
    x, w, b = normal(6, 9), normal(5, 9, seed=1), normal(5, seed=2)
    for dtype in HALVES:
        halves = [t.to(dtype) for t in (x, w, b)]
        y = F.linear(*(t.to(DEVICE) for t in halves))
        assert y.dtype == dtype and torch.equal(y.cpu(), F.linear(*(t.float() for t in halves)).to(dtype))
        batched = torch.bmm(*(t.to(DEVICE).unsqueeze(0) for t in (halves[0], halves[1].t())))
        assert torch.equal(batched.cpu()[0], (halves[0].float() @ halves[1].float().t()).to(dtype))
    large = torch.full((1, 2), 300.0, dtype=torch.float16, device=DEVICE)
    assert torch.isinf(large @ large.t()).all() and (large @ large.t() / 2).isinf().all()
    assert (large @ (large / 3).t()).item() == 60000


def operators_of_halves_give_halves() -> None:
    """Forward and backward; with float32 among them, what torch's promotion says."""
    full, index = torch.ones(6, 4, device=DEVICE), torch.tensor([0, 5, 0], device=DEVICE)
    calls: list[Callable[[Tensor], Tensor]] = [
        torch.sigmoid, torch.tanh, torch.relu, torch.exp, lambda t: torch.softmax(t, 1), lambda t: t[index],
        lambda t: F.layer_norm(t, (4,)), lambda t: torch.cat((t, t), 1), lambda t: torch.stack([t, t]),
        lambda t: t.index_select(0, index), lambda t: F.embedding(index, t), lambda t: torch.where(t > 0, t, 0.0),
        lambda t: t * 2 + 1, lambda t: t.sum(0), lambda t: t.mean(), lambda t: F.pad(t, (1, 0), value=1.0),
        lambda t: torch.log_softmax(t, 1), lambda t: t / t.abs(), lambda t: t.sum(0, dtype=t.dtype),
        lambda t: F.scaled_dot_product_attention(t[None], t[None], t[None]), lambda t: t * full.sum()]
    widening: list[Callable[[Tensor], Tensor]] = [
        lambda t: t * full, lambda t: t.float(), lambda t: t.sum(dtype=torch.float32)]
    for dtype in HALVES:
        x = normal(6, 4).to(DEVICE, dtype).requires_grad_()
        for call in (*calls, *widening):
            y = call(x)
            gradient, = torch.autograd.grad(y.sum(), x)
            assert (y.dtype, gradient.dtype) == (torch.float32 if call in widening else dtype, dtype), calls.index(call)
        assert x.isfinite().all().item() is True and (x / 0).isfinite().all().item() is False
        assert x.isfinite().dtype == torch.bool and x.argmax(1).dtype == torch.int64


def an_lstm_is_the_cpu_s() -> None:
    """In float32 to a few hundred roundings, for sums of some ten terms over seven steps; in half, to as many of its
    own. Forward and backward.
    """
    shapes = ((20, 4), (20, 5), (20,), (20,))

    def run(device: str, dtype: torch.dtype) -> list[Tensor]:
        weights = [(normal(*shape, seed=place) / 3).to(device, dtype).requires_grad_()
                   for place, shape in enumerate(shapes)]
        x = normal(7, 3, 4, seed=9).to(device, dtype).requires_grad_()
        zeros = x.new_zeros(1, 3, 5)
        states, last, cell = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, True, False, False)
        total = states.float().square().sum() + last.float().sum() + cell.float().prod()
        return [t.detach().cpu().float() for t in (states, last, cell, *torch.autograd.grad(total, [x, *weights]))]

    expected = run("cpu", torch.float32)
    for dtype, unit in ((torch.float32, 2.0**-24), (torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)):
        for want, got in zip(expected, run("npu", dtype), strict=True):
            assert (want - got).abs().max() <= 200 * unit * want.abs().max(), (dtype, (want - got).abs().max() / unit)


def writing_in_place_reaches_the_device() -> None:
    for dtype in (torch.float32, *HALVES):
        host, here = normal(4, 6).to(dtype), normal(4, 6).to(DEVICE, dtype)
        for t in (host, here):
            place = t.data_ptr()
            t.mul_(2).add_(1)
            torch.relu_(t)
            t[1:3, ::2].fill_(5)
            t.t()[0].sub_(t.t()[1])
            torch._foreach_mul_([t, t[0]], 0.5)
            torch._foreach_copy_([t[3]], [t[0].float()])
            torch.add(t[0], t[1], out=t[2])
            assert t.data_ptr() == place
        assert torch.equal(here.cpu(), host), dtype
    result = torch.empty(0, device=DEVICE)
    torch.add(here.float(), 1, out=result)
    assert result.shape == (4, 6) and torch.equal(result.cpu(), host.float() + 1)


def views_share_memory() -> None:
    flat = torch.zeros(24, device=DEVICE)
    for view in (flat.view(4, 6), flat[6:12], flat.view(4, 6).t(), flat.as_strided((3, 2), (8, 1)), flat.detach(),
                 flat.unflatten(0, (2, -1)), flat.view(2, 12).flatten(), flat.split(12)[1], flat.unsqueeze(0),
                 flat.view(2, 3, 4).permute(2, 0, 1), flat.expand(2, 24), flat.chunk(3)[0], flat.data,
                 torch.nn.Parameter(flat.view(4, 6)).detach()):
        assert view.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
        before = flat.sum().item()
        view.view_as(view)[(0,) * view.dim()].add_(1)
        assert flat.sum().item() == before + 1
    copy = flat.view(4, 6).t().contiguous()
    assert copy.untyped_storage().data_ptr() != flat.untyped_storage().data_ptr()


def batch_norm_moves_its_statistics() -> None:
    found = []
    for device in ("cpu", "npu"):
        x = normal(8, 3).to(device).requires_grad_()
        mean, var, weight, bias = (t.to(device) for t in (torch.zeros(3), torch.ones(3), torch.ones(3), torch.ones(3)))
        y = torch.batch_norm(x, weight, bias, mean, var, True, 0.1, 1e-5, False)
        found.append([t.detach().cpu() for t in (y, mean, var, *torch.autograd.grad(y.square().sum(), x))])
    assert found[0][1].any() and all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def fused_adam_is_the_cpu_s() -> None:
    """In place, with tensors on the device for rate, step count, scale and overflow; which leaves a step out."""
    found = []
    for device in ("cpu", "npu"):
        p, g, m, v = (normal(9, seed=seed).abs().to(device) for seed in range(4))
        count, one, two = (torch.tensor(value, device=device) for value in (3.0, 1.0, 2.0))
        kept = []
        for rate, more in ((0.1, {}), (one / 10, {"grad_scale": two, "found_inf": one - 1}), (0.1, {"found_inf": one})):
            torch._fused_adam_([p], [g], [m], [v], [], [count], lr=rate, beta1=0.9, beta2=0.999, eps=1e-8,
                               weight_decay=0.1, amsgrad=False, maximize=False, **more)
            kept += [t.cpu().clone() for t in (p, g, m, v)]
        found.append(kept)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert not torch.equal(found[1][0], found[1][4]) and torch.equal(found[1][4], found[1][8])


def copies_go_between_dtypes_and_devices() -> None:
    x = normal(5, 7) * 1e5  # beyond float16
    for dtype in (torch.float32, *HALVES, torch.int64, torch.bool):
        there = x.to(DEVICE).to(dtype)
        assert torch.equal(there.cpu(), x.to(dtype)) and torch.equal(x.to(dtype).to(DEVICE).cpu(), x.to(dtype))
        assert torch.equal(there.to("npu:1").cpu(), x.to(dtype)) and str(there.to("npu:1").device) == "npu:1"
    target = torch.zeros(7, 5)
    target.t().copy_(x.to(DEVICE))
    assert torch.equal(target, x.t())
