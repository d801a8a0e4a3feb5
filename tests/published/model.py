"""LMF as the original wrote it, for files that name `model.LMF`. Not importable where those files are read."""
from __future__ import annotations

import torch
from torch import Tensor, nn

DROPOUTS = 0.15, 0.1, 0.25, 0.4  # audio, video, text, post-fusion: none of them a default of ours


class SubNet(nn.Module):
    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(width), nn.Dropout(p=dropout)
        self.linear_1, self.linear_2 = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.norm(x))  # (B, A)
        for linear in (self.linear_1, self.linear_2, self.linear_3):
            y = torch.relu(linear(y))  # (B, H)
        return y


class TextSubNet(nn.Module):
    def __init__(self, width: int, hidden: int, out: int, dropout: float) -> None:
        super().__init__()
        self.rnn, self.dropout = nn.LSTM(width, hidden, batch_first=True), nn.Dropout(dropout)
        self.linear_1 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.rnn(x)  # (1, B, H)
        return self.linear_1(self.dropout(h[0]))  # (B, O)


class LMF(nn.Module):
    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        rank, out = sizes["rank"], sizes["output_dim"]
        self.audio_prob, self.video_prob, self.text_prob, self.post_fusion_prob = DROPOUTS
        self.audio_subnet = SubNet(sizes["audio"], sizes["audio_hidden"], self.audio_prob)
        self.video_subnet = SubNet(sizes["video"], sizes["video_hidden"], self.video_prob)
        self.text_subnet = TextSubNet(sizes["text"], sizes["text_hidden"], sizes["text_out"], self.text_prob)
        self.post_fusion_dropout = nn.Dropout(p=self.post_fusion_prob)
        self.audio_factor = nn.Parameter(torch.randn(rank, sizes["audio_hidden"] + 1, out))
        self.video_factor = nn.Parameter(torch.randn(rank, sizes["video_hidden"] + 1, out))
        self.text_factor = nn.Parameter(torch.randn(rank, sizes["text_out"] + 1, out))
        self.fusion_weights = nn.Parameter(torch.randn(1, rank))
        self.fusion_bias = nn.Parameter(torch.randn(1, out))
        self.use_softmax = False

    def forward(self, audio: Tensor, video: Tensor, text: Tensor) -> Tensor:
        fused = torch.ones(())
        for h, factor in ((self.audio_subnet(audio), self.audio_factor), (self.video_subnet(video), self.video_factor),
                          (self.text_subnet(text), self.text_factor)):
            one = torch.cat([torch.ones(len(h), 1, dtype=h.dtype), h], dim=1)  # (B, 1 + H)
            fused = fused * torch.matmul(one, factor)  # (R, B, O)
        return torch.einsum("r,rbo->bo", self.fusion_weights[0], fused) + self.fusion_bias  # (B, O)
