"""Low-rank Multimodal Fusion (LMF: Liu & Shen et al., ACL 2018) in MindSpore, in one file to read and to copy.

The subnet of each modality m gives h_m, and z_m = [1; h_m]. With R factors W_m^r per modality the output is
y = b + sum_r w_r (z_audio W_audio^r) * (z_video W_video^r) * (z_text W_text^r), element by element (equation 8).
`mindspore.load_checkpoint(file, lmf)` takes the MindSpore port's files, `lmf.load` the original's tensors. All is
float32: on the CPU a float64 nn.LSTM computes in float32, its gradients are noise, and nn.BatchNorm1d refuses.

    >>> lmf = LMF(rank=4, output_dim=1, audio=SubNet(74, 8, dropout=0.3), video=SubNet(35, 4, dropout=0.3),
    ...           text=TextSubNet(300, 64, 32, dropout=0.5)).set_train()  # a cell begins in evaluation
    >>> inputs = {"audio": ops.rand(16, 74), "video": ops.rand(16, 35), "text": ops.rand(16, 20, 300)}
    >>> loss_of = lambda: ops.l1_loss(lmf(**inputs), ops.rand(16, 1), reduction="sum")
    >>> loss, gradients = mindspore.value_and_grad(loss_of, None, lmf.trainable_params())()
"""
import mindspore
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import XavierNormal, initializer

RENAMED = {"norm.weight": "norm.gamma", "norm.bias": "norm.beta", "running_mean": "moving_mean",
           "running_var": "moving_variance"}  # torch's name -> MindSpore's


class BatchNorm(nn.BatchNorm1d):
    """Momentum .9 is torch's .1. One row has no variance, and would give NaN: it is normalised as in evaluation."""

    def construct(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            return super().construct(x)  # (B, A)
        return ops.batch_norm(x, self.moving_mean, self.moving_variance, self.gamma, self.beta)  # (1, A)


class SubNet(nn.Cell):
    """Audio or video, one vector per row: three linear layers with ReLU. (B, A) -> (B, H)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.drop, self.linear_1 = BatchNorm(width), nn.Dropout(p=dropout), nn.Dense(width, hidden)
        self.linear_2, self.linear_3 = nn.Dense(hidden, hidden), nn.Dense(hidden, hidden)

    def construct(self, x: Tensor) -> Tensor:
        y = self.drop(self.norm(x))  # (B, A)
        y = ops.relu(self.linear_1(y))  # (B, H)
        y = ops.relu(self.linear_2(y))  # (B, H)
        return ops.relu(self.linear_3(y))  # (B, H)


class TextSubNet(nn.Cell):
    """Text, one vector per word: a linear layer on the last state of an LSTM. (B, T, D) -> (B, H)."""

    def __init__(self, width: int, lstm: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, lstm, batch_first=True)  # gates i, f, g, o, with two biases, as torch
        self.dropout, self.linear_1 = nn.Dropout(p=dropout), nn.Dense(lstm, hidden)

    def construct(self, x: Tensor) -> Tensor:
        _, (last, _) = self.rnn(x)  # (1, B, L)
        return self.linear_1(self.dropout(last[0]))  # (B, L) -> (B, H)


class LMF(nn.Cell):
    """The fusion of any of `audio`, `video` and `text`. The original's dropout behind it is never applied: left out."""

    def __init__(self, rank: int, output_dim: int, **subnets: nn.Cell) -> None:
        super().__init__()
        self.modalities = tuple(subnets)
        for m, subnet in subnets.items():
            shape = rank, 1 + subnet.linear_1.out_channels, output_dim  # (R, 1 + H, O)
            setattr(self, f"{m}_subnet", subnet)
            setattr(self, f"{m}_factor", Parameter(initializer(XavierNormal(), shape)))
        self.fusion_weights = Parameter(initializer(XavierNormal(), (1, rank)))
        self.fusion_bias = Parameter(ops.zeros((1, output_dim)))

    def construct(self, **inputs: Tensor) -> Tensor:
        """audio (B, A), video (B, V), text (B, T, D) -> scores or logits (B, O)."""
        fused = self.fusion_weights.view(-1, 1, 1)  # (R, 1, 1)
        for m in self.modalities:
            h = getattr(self, f"{m}_subnet")(inputs[m])  # (B, H)
            z = ops.cat((ops.ones_like(h[:, :1]), h), 1)  # (B, 1 + H)
            fused = fused * ops.matmul(z, getattr(self, f"{m}_factor"))  # (B, 1 + H) @ (R, 1 + H, O) -> (R, B, O)
        return fused.sum(0) + self.fusion_bias  # (B, O)

    def load(self, weights: dict) -> None:
        """Take arrays under torch's names. Raises ValueError if one is missing or has no place here."""
        own = {}
        for name, value in weights.items():
            for theirs, ours in RENAMED.items():
                name = name.replace(theirs, ours)
            own[name] = Parameter(Tensor(value, mindspore.float32))
        missing, unknown = mindspore.load_param_into_net(self, own)
        if missing or unknown:
            raise ValueError(f"missing: {missing}; without a place here: {unknown}")
