"""The LSTM fusion model of the course and its ablations, as a person writes them in plain PyTorch, and its training.

Made of torch.nn's own layers alone, from the words of the task, and not from this project's graph: NumPy in, NumPy and
neutral names out. Sequences are batch first here.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
PARTS = ("q_proj", "k_proj", "v_proj")  # torch.nn.MultiheadAttention stacks them to in_proj


class Attended(nn.Module):
    """Multi-head attention, added to the query; LayerNorm behind the sum, or in front of the attention."""

    def __init__(self, width: int, heads: int, pre: bool, name: str) -> None:
        super().__init__()
        self.pre, self.name = pre, name
        self.norm1 = nn.LayerNorm(width)
        self.add_module(name, nn.MultiheadAttention(width, heads, batch_first=True))

    def forward(self, query: Tensor, memory: Tensor, hide: Tensor) -> Tensor:
        x = self.norm1(query) if self.pre else query
        seen = x if memory is query else memory
        y = query + getattr(self, self.name)(x, seen, seen, key_padding_mask=hide, need_weights=False)[0]
        return y if self.pre else self.norm1(y)


def sinusoids(x: Tensor) -> Tensor:
    """(T, E) for x (B, T, E)."""
    steps, width = x.shape[1:]
    where = torch.arange(steps, dtype=x.dtype)[:, None]
    angles = where * torch.exp(torch.arange(0, width, 2, dtype=x.dtype) * (-math.log(10000.0) / width))
    table = torch.zeros(steps, width, dtype=x.dtype)
    table[:, 0::2], table[:, 1::2] = torch.sin(angles), torch.cos(angles)[:, :width // 2]
    return table


def padding(x: Tensor) -> Tensor:
    """(B, T), true for steps of (B, T, D) that are nothing but zeros; of a row of zeros none is."""
    zero = (x == 0).all(2)
    return zero & ~zero.all(1, keepdim=True)


class Course(nn.Module):
    """Per modality LayerNorm, Linear, ReLU and an encoder; a fusion; Linear; a sigmoid scaled to `low` .. `high`."""

    def __init__(self, widths: Mapping[str, int], hidden: int, outputs: int = 1, low: float = -3.0, high: float = 3.0,
                 encoder: str = "lstm", layer_norm: bool = True, fusion: str = "sum_lstm", heads: int = 4,
                 feed_forward: int = 256, layers: int = 1, pre: bool = False) -> None:
        super().__init__()
        self.names, self.low, self.high = list(widths), low, high
        self.encoder, self.layer_norm, self.fusion = encoder, layer_norm, fusion
        for name, width in widths.items():
            if layer_norm:
                self.add_module(f"{name}_norm", nn.LayerNorm(width))
            self.add_module(f"{name}_fc", nn.Linear(width, hidden))
            if encoder == "lstm":
                self.add_module(f"{name}_lstm", nn.LSTM(hidden, hidden, batch_first=True))
            else:
                layer = nn.TransformerEncoderLayer(hidden, heads, feed_forward, dropout=0.0, batch_first=True,
                                                   norm_first=pre)
                self.add_module(f"{name}_transformer", nn.TransformerEncoder(
                    layer, layers, nn.LayerNorm(hidden) if pre else None, enable_nested_tensor=False))
            if fusion == "cross_attention":
                self.add_module(f"{name}_attention", Attended(hidden, heads, pre, "cross_attn"))
        if fusion == "self_attention":
            self.mm_attention = Attended(hidden, heads, pre, "self_attn")
        else:
            joined = hidden * len(widths) if fusion == "concat_lstm" else hidden
            self.mm_lstm = nn.LSTM(joined, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, outputs)

    def forward(self, inputs: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """masks: (B, T, hidden) by modality, in the place of dropout between encoder and fusion."""
        encoded, hide = {}, {}
        for name in self.names:
            x = inputs[name]  # (B, T, D)
            hide[name] = padding(x)
            if self.layer_norm:
                x = getattr(self, f"{name}_norm")(x)
            x = F.relu(getattr(self, f"{name}_fc")(x))
            if self.encoder == "lstm":
                encoded[name], _ = getattr(self, f"{name}_lstm")(x)
            else:
                encoded[name] = getattr(self, f"{name}_transformer")(x + sinusoids(x), src_key_padding_mask=hide[name])
            if self.training and name in masks:
                encoded[name] = encoded[name] * masks[name]
        return self.low + (self.high - self.low) * torch.sigmoid(self.fc(self.fused(encoded, hide)))

    def fused(self, encoded: Mapping[str, Tensor], hide: Mapping[str, Tensor]) -> Tensor:
        if self.fusion == "self_attention":
            x, hidden = torch.cat(list(encoded.values()), 1), torch.cat(list(hide.values()), 1)
            y, real = self.mm_attention(x, x, hidden), (~hidden).to(x.dtype).unsqueeze(2)
            return (y * real).sum(1) / real.sum(1)
        if self.fusion == "cross_attention":
            others = {name: [other for other in self.names if other != name] for name in self.names}
            encoded = {name: getattr(self, f"{name}_attention")(
                x, torch.cat([encoded[other] for other in others[name]], 1),
                torch.cat([hide[other] for other in others[name]], 1)) for name, x in encoded.items()}
        if self.fusion == "concat_lstm":
            x = torch.cat(list(encoded.values()), 2)
        else:
            x = torch.stack(list(encoded.values())).sum(0)
        return self.mm_lstm(x)[0][:, -1]


def stacked(weights: Arrays) -> dict[str, Array]:
    """Neutral names to torch's: q, k, v one below the other."""
    own = {}
    for name, value in weights.items():
        if PARTS[0] in name:
            own[name.replace(".q_proj.", ".in_proj_")] = np.concatenate(
                [weights[name.replace(PARTS[0], part)] for part in PARTS])
        elif not any(part in name for part in PARTS):
            own[name] = value
    return own


def apart(own: Arrays) -> dict[str, Array]:
    """And back."""
    found = {}
    for name, value in own.items():
        if ".in_proj_" in name:
            found |= {name.replace(".in_proj_", f".{part}."): third
                      for part, third in zip(PARTS, np.split(value, 3), strict=True)}
        else:
            found[name] = value
    return found


def loaded(settings: Mapping[str, Any], weights: Arrays) -> Course:
    """With these weights, in their dtype. Raises RuntimeError for one that is missing or has no place."""
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in stacked(weights).items()}
    network = Course(**settings).to(tensors["fc.bias"].dtype)
    network.load_state_dict(tensors)
    return network


def tensors_of(arrays: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays.items()}


def seen(settings: Mapping[str, Any], weights: Arrays, inputs: Arrays, label: Array, masks: Arrays
         ) -> tuple[Array, Array, float, dict[str, Array]]:
    """One batch in evaluation, then in train mode with MSELoss, its mean, and back: outputs (B, O) of both, the loss
    and its gradients. masks: by `<modality>_dropout`.
    """
    network = loaded(settings, weights)
    drop = tensors_of({name.removesuffix("_dropout"): mask for name, mask in masks.items()})
    output = network.train()(tensors_of(inputs), drop)
    loss = nn.MSELoss()(output, torch.from_numpy(label))
    loss.backward()
    gradients = {name: value.grad.numpy() for name, value in network.named_parameters()}
    return outputs(settings, weights, inputs), output.detach().numpy(), loss.item(), apart(gradients)


def outputs(settings: Mapping[str, Any], weights: Arrays, inputs: Arrays) -> Array:
    """(B, O), in evaluation."""
    with torch.no_grad():
        return loaded(settings, weights).eval()(tensors_of(inputs), {}).numpy()


def trained(settings: Mapping[str, Any], weights: Arrays, splits: Mapping[str, Arrays], orders: Sequence[Array],
            batch: int, rate: float) -> tuple[Array, Array, Array, int, Array]:
    """The course's training: Adam without decay, a cosine schedule per step, the epoch of the highest Corr.

    Gives the loss of every step (S,), the loss and the Corr of the validation rows after every epoch (E,), the best
    epoch, from 1, and outputs (N, O) for test rows with its weights. orders: of the training rows, an epoch each. The
    rows of a split are inputs and their `label`.
    """
    network = loaded(settings, weights)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    steps = len(orders) * math.ceil(len(orders[0]) / batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    rows = {split: tensors_of(arrays) for split, arrays in splits.items()}
    criterion, best, kept = nn.MSELoss(), 0.0, None
    losses, epochs = [], []
    for epoch, order in enumerate(orders):
        network.train()
        for part in torch.from_numpy(order).split(batch):
            optimizer.zero_grad()
            loss = criterion(network({name: x[part] for name, x in rows["train"].items()}, {}),
                             rows["train"]["label"][part])
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        network.eval()
        with torch.no_grad():
            output, label = network(rows["valid"], {}), rows["valid"]["label"]
            corr = float(np.corrcoef(output[:, 0].numpy(), label[:, 0].numpy())[0, 1])
            epochs.append((criterion(output, label).item(), corr))
            if kept is None or corr > best:
                best, kept = corr, (epoch + 1, network(rows["test"], {}).numpy())
    assert kept is not None
    valid, corrs = np.transpose(epochs)
    return np.array(losses), valid, corrs, *kept
