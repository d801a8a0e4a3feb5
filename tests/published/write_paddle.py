"""Writes what users of the Paddle port have. Run as `python write_paddle.py SIZES`, beside rows.npz."""
from __future__ import annotations

import json
import sys

import numpy as np
import paddle
from paddle import nn

paddle.set_default_dtype("float64")
paddle.seed(1)
sizes = json.loads(sys.argv[1])
rows = {name: paddle.to_tensor(value) for name, value in np.load("rows.npz").items()}


class SubNet(nn.Layer):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1D(width)
        self.linear_1, self.linear_2 = nn.Linear(width, hidden), nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, hidden)

    def forward(self, x):
        y = self.norm(x)  # (B, A)
        for linear in (self.linear_1, self.linear_2, self.linear_3):
            y = nn.functional.relu(linear(y))  # (B, H)
        return y


class TextSubNet(nn.Layer):
    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.rnn, self.linear_1 = nn.LSTM(width, hidden), nn.Linear(hidden, out)

    def forward(self, x):
        return self.linear_1(self.rnn(x)[1][0][0])  # (B, O)


class LMF(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        for name in ("audio", "video"):
            setattr(self, f"{name}_subnet", SubNet(sizes[name], sizes[f"{name}_hidden"]))
        self.text_subnet = TextSubNet(sizes["text"], sizes["text_hidden"], sizes["text_out"])
        rank, out = sizes["rank"], sizes["output_dim"]
        for name, width in (("audio", "audio_hidden"), ("video", "video_hidden"), ("text", "text_out")):
            setattr(self, f"{name}_factor", self.create_parameter([rank, sizes[width] + 1, out]))
        self.fusion_weights, self.fusion_bias = self.create_parameter([1, rank]), self.create_parameter([1, out])

    def forward(self):
        fused = 1
        for name in ("audio", "video", "text"):
            h = getattr(self, f"{name}_subnet")(rows[name])  # (B, H)
            one = paddle.concat([paddle.ones([len(h), 1]), h], axis=1)
            fused = fused * paddle.matmul(one, getattr(self, f"{name}_factor"))  # (R, B, O)
        return (self.fusion_weights[0].reshape([-1, 1, 1]) * fused).sum(0) + self.fusion_bias  # (B, O)


network = LMF()
draw = np.random.default_rng(2)
single = {}
for name, value in network.state_dict().items():  # numbers that float32 holds exactly
    numbers = draw.uniform(0.2, 1.2, value.shape) if name.endswith("_variance") else draw.normal(0, 0.4, value.shape)
    if ".0.cell." in name:  # the same tensor under its second name
        numbers = value.numpy()
    value.set_value(numbers.astype("float32").astype("float64"))
    single[name] = value.astype("float32")
network.eval()
np.save("paddle.npy", network().numpy())
paddle.save(single, "single.pkl")
paddle.save(network.state_dict(), "double.pkl")
paddle.save({"model": single, "epoch": 3}, "wrapped.pkl")
