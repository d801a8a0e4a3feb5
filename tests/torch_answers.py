"""What torch itself says, for tests that hold core to it: functions for a worker, which alone may import it."""
from __future__ import annotations

from core.common.arrays import Array

FUNCTIONS = {"l1": "l1_loss", "mse": "mse_loss", "huber": "huber_loss", "cross_entropy": "cross_entropy"}


def loss(kind: str, reduction: str, delta: float, output: Array, label: Array) -> float:
    """torch.nn.functional's loss in float64."""
    import torch

    more = {"delta": delta} if kind == "huber" else {}
    function = getattr(torch.nn.functional, FUNCTIONS[kind])
    return float(function(torch.tensor(output), torch.tensor(label), reduction=reduction, **more))


def cosine(rates: list[float], steps: int) -> list[list[float]]:
    """The rates of an optimizer's groups before each of `steps` steps, CosineAnnealingLR stepped after each."""
    import torch

    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    found = []
    for _ in range(steps):
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found
