"""Low-rank Multimodal Fusion (LMF: Liu & Shen et al., ACL 2018) in PyTorch, in one file to read and to copy.

The subnet of each modality m gives h_m, and z_m = [1; h_m]. With R factors W_m^r per modality the output is

    y = b + sum_r w_r (z_audio W_audio^r) * (z_video W_video^r) * (z_text W_text^r)        (* element by element)

which is the outer product of all z_m times a weight tensor of rank R (equation 8), without building either of them.

    >>> lmf = LMF(rank=4, output_dim=1, audio=SubNet(74, 8, dropout=0.3), video=SubNet(35, 4, dropout=0.3),
    ...           text=TextSubNet(300, 64, 32, dropout=0.5))  # or any of the three
    >>> output = lmf(audio=torch.rand(16, 74), video=torch.rand(16, 35), text=torch.rand(16, 20, 300))
    >>> loss = F.l1_loss(output, torch.rand(16, 1), reduction="sum")
    >>> loss.backward()

A state dict of the original fits as it is: `lmf.load_state_dict(torch.load("original.pt"))`.
"""
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm1d):
    """One row has no variance: where torch raises, it is normalised as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            return super().forward(x)  # (B, A)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)  # (1, A)


class SubNet(nn.Module):
    """Audio or video, one vector per row: three linear layers with ReLU. (B, A) -> (B, H)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = BatchNorm(width)  # eps 1e-5, momentum 0.1, unbiased running variance
        self.drop = nn.Dropout(dropout)
        self.linear_1 = nn.Linear(width, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.norm(x))  # (B, A)
        y = F.relu(self.linear_1(y))  # (B, H)
        y = F.relu(self.linear_2(y))  # (B, H)
        return F.relu(self.linear_3(y))  # (B, H)


class TextSubNet(nn.Module):
    """Text, one vector per word: a linear layer on the last state of an LSTM. (B, T, D) -> (B, H)."""

    def __init__(self, width: int, lstm: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, lstm, batch_first=True)  # gates i, f, g, o, with two biases
        self.dropout = nn.Dropout(dropout)
        self.linear_1 = nn.Linear(lstm, hidden)

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.rnn(x)  # (1, B, L)
        return self.linear_1(self.dropout(last[0]))  # (B, L) -> (B, H)


class LMF(nn.Module):
    """The fusion of any of `audio`, `video` and `text`. The original's dropout behind it is never applied: left out."""

    def __init__(self, rank: int, output_dim: int, **subnets: nn.Module) -> None:
        super().__init__()
        self.modalities = tuple(subnets)
        for m, subnet in subnets.items():
            factor = torch.empty(rank, 1 + subnet.linear_1.out_features, output_dim)  # (R, 1 + H, O)
            self.add_module(f"{m}_subnet", subnet)
            self.register_parameter(f"{m}_factor", nn.Parameter(nn.init.xavier_normal_(factor)))
        self.fusion_weights = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, rank)))
        self.fusion_bias = nn.Parameter(torch.zeros(1, output_dim))

    def forward(self, **inputs: Tensor) -> Tensor:
        """audio (B, A), video (B, V), text (B, T, D) -> scores or logits (B, O)."""
        fused = self.fusion_weights.view(-1, 1, 1)  # (R, 1, 1)
        for m in self.modalities:
            h = self.get_submodule(f"{m}_subnet")(inputs[m])  # (B, H)
            z = F.pad(h, (1, 0), value=1.0)  # (B, 1 + H)
            fused = fused * (z @ self.get_parameter(f"{m}_factor"))  # (B, 1 + H) @ (R, 1 + H, O) -> (R, B, O)
        return fused.sum(0) + self.fusion_bias  # (B, O)
