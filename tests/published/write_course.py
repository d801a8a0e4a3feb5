"""Writes what students of the course have. Run as `python write_course.py SIZES`, beside rows.npz.

SIZES: hidden and, by modality, widths. The network is the course's, with the fusion and LayerNorm that a name asks for.
"""
from __future__ import annotations

import json
import sys

import numpy as np
import torch
from torch import nn


class SentimentNet(nn.Module):
    """Each modality's LayerNorm, Linear and LSTM; their sum; an LSTM; a score from -3 to 3."""

    def __init__(self, widths, hidden, layer_norm=True, concat=False):
        super().__init__()
        self.names, self.layer_norm, self.concat = list(widths), layer_norm, concat
        for name, width in widths.items():
            if layer_norm:
                setattr(self, f"{name}_norm", nn.LayerNorm(width))
            setattr(self, f"{name}_fc", nn.Linear(width, hidden))
            setattr(self, f"{name}_lstm", nn.LSTM(hidden, hidden, batch_first=True, dropout=0.1))
        self.mm_lstm = nn.LSTM(hidden * (len(widths) if concat else 1), hidden, batch_first=True, dropout=0.1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(hidden, 1)

    def forward(self, rows):
        encoded = []
        for name in self.names:
            x = rows[name]
            if self.layer_norm:
                x = getattr(self, f"{name}_norm")(x)
            encoded.append(getattr(self, f"{name}_lstm")(self.relu(getattr(self, f"{name}_fc")(x)))[0])
        x = torch.cat(encoded, 2) if self.concat else sum(encoded)
        return torch.sigmoid(self.fc(self.mm_lstm(x)[0][:, -1, :])) * 6 - 3


torch.manual_seed(1)
sizes = json.loads(sys.argv[1])
hidden = sizes.pop("hidden")
rows = {name: torch.from_numpy(value) for name, value in np.load("rows.npz").items()}
two = {name: sizes[name] for name in ("vision", "audio")}
networks = {"best_model": SentimentNet(sizes, hidden), "two": SentimentNet(two, hidden),
            "bare": SentimentNet(sizes, hidden, layer_norm=False), "concat": SentimentNet(sizes, hidden, concat=True)}
for name, network in networks.items():
    with torch.no_grad():
        for key, value in network.named_parameters():
            if "_norm." in key:  # as after some training
                value.add_(torch.randn(value.shape) * 0.2)
        torch.save(network.state_dict(), f"{name}.pth")
        if name == "best_model":
            torch.save(network, "whole.pth")
            torch.save(nn.DataParallel(network).state_dict(), "parallel.pth")
            torch.save({"epoch": 3, "model_state_dict": network.state_dict(),
                        "optimizer": torch.optim.Adam(network.parameters()).state_dict()}, "wrapped.pth")
            network.text_norm.eps = 1e-6
            torch.save(network, "other_eps.pth")
            network.text_norm.eps = 1e-5
        np.save(f"{name}.npy", network.double()(rows).numpy())
