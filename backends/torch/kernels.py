"""PyTorch's own kernels that are called by position or are not part of its public interface, each with its reason."""
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.common.constants import ADAM_BETAS, ADAM_EPS, BATCHNORM_EPS, BATCHNORM_MOMENTUM


def lstm(x: Tensor, weights: Sequence[Tensor], train: bool) -> tuple[Tensor, Tensor]:
    """One layer, (T, B, D) -> all hidden states (T, B, H) and the last one (1, B, H).

    nn.LSTM's own kernel without its argument checks, which at batch 16 cost as much as an addition of the fusion.
    Arguments: biases, layers, dropout, train, bidirectional, batch first.
    """
    zeros = x.new_zeros(1, x.shape[1], weights[1].shape[1])  # (1, B, H)
    states, last, _ = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, train, False, False)
    return states, last


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, train: bool) -> Tensor:
    """(B, A) -> (B, A); with `train` by the batch's own statistics, updating `mean` and `var` (A,).

    F.batch_norm refuses a batch of one row in train mode, by a check that a traced program would keep.
    The last argument: cudnn.
    """
    return torch.batch_norm(x, weight, bias, mean, var, train, BATCHNORM_MOMENTUM, BATCHNORM_EPS, False)


def adam(value: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, count: Tensor, rate: float | Tensor,
         decay: float, overflow: Tensor | None = None) -> None:
    """torch.optim.Adam(fused=True)'s kernel on one tensor, in place; `count` () is the number of this step.

    rate: a number, or () on the device. overflow: float32 (), 1 where the step is to be left out.
    The bookkeeping of Adam.step costs 3 % of a training step at batch 16, and importing it a second of every start.
    """
    torch._fused_adam_([value], [gradient], [exp_avg], [exp_avg_sq], [], [count], lr=rate, beta1=ADAM_BETAS[0],
                       beta2=ADAM_BETAS[1], eps=ADAM_EPS, weight_decay=decay, amsgrad=False, maximize=False,
                       found_inf=overflow)


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target, in one call for all, also into another dtype."""
    torch._foreach_copy_(list(targets), list(sources))
