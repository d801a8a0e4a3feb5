"""What training minimises, in PyTorch."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from core.training.losses import Loss


def loss_of_batch(loss: Loss, output: Tensor, label: Tensor) -> Tensor:
    """() of scores (B, O) with labels alike, or of logits (B, C) with classes int64 (B,)."""
    if loss.kind == "huber":
        return F.huber_loss(output, label, reduction=loss.reduction, delta=loss.delta)
    losses = {"l1": F.l1_loss, "mse": F.mse_loss, "cross_entropy": F.cross_entropy}
    return losses[loss.kind](output, label, reduction=loss.reduction)
