"""Low-rank Multimodal Fusion (LMF: Liu & Shen et al., ACL 2018) in Paddle, in one file to read and to copy.

The subnet of each modality m gives h_m, and z_m = [1; h_m]. With R factors W_m^r per modality the output is
y = b + sum_r w_r (z_audio W_audio^r) * (z_video W_video^r) * (z_text W_text^r), element by element (equation 8).
`set_state_dict` takes the Paddle port's files, `load` the original's tensors; for float64 set the default dtype first.

    >>> lmf = LMF(rank=4, output_dim=1, audio=SubNet(74, 8, dropout=0.3), video=SubNet(35, 4, dropout=0.3),
    ...           text=TextSubNet(300, 64, 32, dropout=0.5))  # or any of the three
    >>> output = lmf(audio=paddle.rand([16, 74]), video=paddle.rand([16, 35]), text=paddle.rand([16, 20, 300]))
    >>> F.l1_loss(output, paddle.rand([16, 1]), reduction="sum").backward()
"""
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


def linear(width: int, out: int) -> nn.Linear:
    """Weights and biases drawn as torch draws them: Paddle's own are Xavier's, and 0."""
    draw = nn.initializer.Uniform(-(width**-0.5), width**-0.5)
    return nn.Linear(width, out, draw, draw)


class BatchNorm(nn.BatchNorm1D):
    """By torch's rule: Paddle's own keeps a biased variance, rounds eps to float32, and passes a single row through."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var, rows = self._mean, self._variance, len(x)  # (A,)
        if self.training and rows > 1:  # one row has no variance: it is normalised as in evaluation
            mean = x.mean(0)
            var = (x - mean).square().mean(0)
            self._mean.set_value(0.9 * self._mean + 0.1 * mean.detach())
            self._variance.set_value(0.9 * self._variance + 0.1 * rows / (rows - 1) * var.detach())
        return (x - mean) / (var + 1e-5).sqrt() * self.weight + self.bias  # (B, A)


class SubNet(nn.Layer):
    """Audio or video, one vector per row: three linear layers with ReLU. (B, A) -> (B, H)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.drop, self.linear_1 = BatchNorm(width), nn.Dropout(dropout), linear(width, hidden)
        self.linear_2, self.linear_3 = linear(hidden, hidden), linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.linear_1(self.drop(self.norm(x))))  # (B, A) -> (B, H)
        return F.relu(self.linear_3(F.relu(self.linear_2(y))))  # (B, H)


class TextSubNet(nn.Layer):
    """Text, one vector per word: a linear layer on the last state of an LSTM. (B, T, D) -> (B, H)."""

    def __init__(self, width: int, lstm: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.rnn, self.dropout, self.linear_1 = nn.LSTM(width, lstm), nn.Dropout(dropout), linear(lstm, hidden)

    def forward(self, x: Tensor) -> Tensor:
        _, (last, _) = self.rnn(x)  # (1, B, L)
        return self.linear_1(self.dropout(last[0]))  # (B, L) -> (B, H)


class LMF(nn.Layer):
    """The fusion of any of `audio`, `video` and `text`. The original's dropout behind it is never applied: left out."""

    def __init__(self, rank: int, output_dim: int, **subnets: nn.Layer) -> None:
        super().__init__()
        self.modalities, xavier = tuple(subnets), nn.initializer.XavierNormal()
        for m, subnet in subnets.items():
            self.add_sublayer(f"{m}_subnet", subnet)
            shape = [rank, 1 + subnet.linear_1.weight.shape[1], output_dim]  # (R, 1 + H, O)
            self.add_parameter(f"{m}_factor", self.create_parameter(shape, default_initializer=xavier))
        self.fusion_weights = self.create_parameter([1, rank], default_initializer=xavier)
        self.fusion_bias = self.create_parameter([1, output_dim], is_bias=True)

    def forward(self, **inputs: Tensor) -> Tensor:
        """audio (B, A), video (B, V), text (B, T, D) -> scores or logits (B, O)."""
        fused = self.fusion_weights.reshape([-1, 1, 1])  # (R, 1, 1)
        for m in self.modalities:
            h = getattr(self, f"{m}_subnet")(inputs[m])  # (B, H)
            z = paddle.concat([paddle.ones_like(h[:, :1]), h], 1)  # (B, 1 + H)
            fused = fused * (z @ getattr(self, f"{m}_factor"))  # (B, 1 + H) @ (R, 1 + H, O) -> (R, B, O)
        return fused.sum(0) + self.fusion_bias  # (B, O)

    def load(self, weights: dict) -> None:
        """Take arrays under torch's names and layouts. Raises ValueError if one is missing or has no place here."""
        own = {name.replace("._mean", ".running_mean").replace("._variance", ".running_var"): tensor
               for name, tensor in self.state_dict().items() if ".cell." not in name}  # the LSTM's second names
        if strange := own.keys() ^ weights.keys():
            raise ValueError(f"missing or without a place here: {sorted(strange)}")
        for name, value in weights.items():  # Paddle's linear weights are (in, out)
            own[name].set_value(paddle.to_tensor(value.T if ".linear_" in name else value, own[name].dtype))
