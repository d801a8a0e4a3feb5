"""Writes what users of the MindSpore port have. Run as `python write_mindspore.py SIZES`, beside rows.npz."""
from __future__ import annotations

import json
import sys

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

mindspore.set_seed(1)
sizes = json.loads(sys.argv[1])
rows = {name: Tensor(value.astype("float32")) for name, value in np.load("rows.npz").items()}
draw = np.random.default_rng(3)


class SubNet(nn.Cell):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.linear_1, self.linear_2 = nn.Dense(width, hidden), nn.Dense(hidden, hidden)
        self.linear_3 = nn.Dense(hidden, hidden)

    def construct(self, x):
        y = self.norm(x)  # (B, A)
        for linear in (self.linear_1, self.linear_2, self.linear_3):
            y = ops.relu(linear(y))  # (B, H)
        return y


class TextSubNet(nn.Cell):
    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.rnn, self.linear_1 = nn.LSTM(width, hidden, batch_first=True), nn.Dense(hidden, out)

    def construct(self, x):
        return self.linear_1(self.rnn(x)[1][0][0])  # (B, O)


class LMF(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.audio_subnet = SubNet(sizes["audio"], sizes["audio_hidden"])
        self.video_subnet = SubNet(sizes["video"], sizes["video_hidden"])
        self.text_subnet = TextSubNet(sizes["text"], sizes["text_hidden"], sizes["text_out"])
        rank, out = sizes["rank"], sizes["output_dim"]
        shapes = {"audio_factor": (rank, sizes["audio_hidden"] + 1, out),
                  "video_factor": (rank, sizes["video_hidden"] + 1, out),
                  "text_factor": (rank, sizes["text_out"] + 1, out), "fusion_weights": (1, rank),
                  "fusion_bias": (1, out)}
        for name, shape in shapes.items():
            setattr(self, name, Parameter(Tensor(draw.normal(size=shape).astype("float32"))))

    def construct(self, audio, video, text):
        fused = 1
        for h, factor in ((self.audio_subnet(audio), self.audio_factor), (self.video_subnet(video), self.video_factor),
                          (self.text_subnet(text), self.text_factor)):
            one = ops.cat([ops.ones((len(h), 1), h.dtype), h], axis=1)
            fused = fused * ops.matmul(one, factor)  # (R, B, O)
        return (self.fusion_weights[0].view(-1, 1, 1) * fused).sum(0) + self.fusion_bias  # (B, O)


network = LMF()
for name, value in network.parameters_and_names():
    if ".norm." in name:
        low = 0.2 if name.endswith("variance") else -0.6
        value.set_data(Tensor(draw.uniform(low, low + 1, value.shape).astype("float32")))
network.set_train(False)
np.save("mindspore.npy", network(rows["audio"], rows["video"], rows["text"]).asnumpy())
mindspore.save_checkpoint(network, "plain.ckpt")
mindspore.save_checkpoint(network, "crc.ckpt", crc_check=True, append_dict={"epoch_num": 3, "lr": 0.1, "note": "x"})
step = nn.TrainOneStepCell(network, nn.Adam(network.trainable_params()))  # the network among optimizer state
mindspore.save_checkpoint(step, "training.ckpt")
