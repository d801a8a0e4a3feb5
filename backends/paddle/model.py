"""The networks in Paddle: LMF (Liu & Shen et al., ACL 2018, equation 8) and TFN, under the originals' names.

Layers own the parameters; the forward pass is functional, calls Paddle's kernels (`paddle._C_ops`) and looks
each tensor up once, at construction, because at batch 16 the checks of `paddle.nn` cost as much as the arithmetic.
"""
from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor, nn

from core.models import BATCHNORM_EPS, BATCHNORM_MOMENTUM, ModelSpec

kernels: Any = paddle._C_ops  # what paddle.nn calls in the end; Any, because its type stubs lag behind
Layers = dict[str, Tensor]
Place = Any  # paddle.CPUPlace, paddle.CUDAPlace or paddle.CustomPlace: three classes without a base


class DenseSubNet(nn.Layer):
    """Audio or video: BatchNorm, mask, three linear layers with ReLU. (B, A) -> (B, H)."""

    def __init__(self, name: str, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1D(width)
        self.linear_1 = nn.Linear(width, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, hidden)
        self.statistics: tuple[Any, Any] = (self.norm._mean, self.norm._variance)
        self.affine: tuple[Any, Any] = (self.norm.weight, self.norm.bias)
        self.linears = tuple((f"{name}.{key}", linear.weight, linear.bias) for key, linear in
                             (("linear_1", self.linear_1), ("linear_2", self.linear_2), ("linear_3", self.linear_3)))
        self.name = name

    def forward(self, x: Tensor, mask: Tensor | None, layers: Layers, train: bool) -> Tensor:
        # One row has no variance: BatchNorm then works as in evaluation and its statistics stay.
        y = batch_norm(x, *self.affine, *self.statistics, train and len(x) > 1)  # (B, A)
        layers[f"{self.name}.norm"] = y
        if mask is not None:
            y = y * mask
        # addmm's backward pass crashes unless all three inputs ask for gradients; here they do
        for name, weight, bias in self.linears:
            y = layers[name] = kernels.relu(kernels.addmm(bias, y, weight, 1.0, 1.0))  # (B, H)
        return y


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, train: bool) -> Tensor:
    """BatchNorm, (B, A) -> (B, A); with `train` by the batch's own statistics, updating `mean` and `variance` (A,).

    Not Paddle's own kernel: that one keeps a biased running variance and rounds eps to float32 in float64 too.
    """
    if train:
        batch_mean = kernels.mean(x, [0], False)  # (A,)
        centred = kernels.subtract(x, batch_mean)
        batch_variance = kernels.mean(kernels.square(centred), [0], False)  # (A,), biased
        unbiased = len(x) / (len(x) - 1)
        for running, batch, factor in ((mean, batch_mean, 1.0), (variance, batch_variance, unbiased)):
            kernels.scale_(running, 1 - BATCHNORM_MOMENTUM, 0.0, True)
            kernels.add_(running, kernels.scale(batch.detach(), BATCHNORM_MOMENTUM * factor, 0.0, True))
        variance = batch_variance
    else:
        centred = kernels.subtract(x, mean)
    normal = kernels.multiply(centred, kernels.rsqrt(kernels.scale(variance, 1.0, BATCHNORM_EPS, True)))
    y: Tensor = kernels.add(kernels.multiply(normal, weight), bias)
    return y


class TextSubNet(nn.Layer):
    """LSTM, mask on its last state, one linear layer. (T, B, D) -> (B, O)."""

    def __init__(self, name: str, width: int, hidden: int, out: int, place: Place) -> None:
        super().__init__()
        self.rnn = nn.LSTM(width, hidden)
        self.linear_1 = nn.Linear(hidden, out)
        self.weights = list(self.rnn.parameters())
        self.name, self.place = name, place

    def forward(self, x: Tensor, mask: Tensor | None, layers: Layers, train: bool) -> Tensor:
        width, hidden = self.rnn.input_size, self.rnn.hidden_size
        zeros = kernels.full_batch_size_like(x, [1, -1, hidden], x.dtype, 0.0, 1, 1, self.place)  # (1, B, H)
        # nn.LSTM's own kernel without its argument checks; arguments: row lengths, dropout state and rate,
        # bidirectional, sizes, layers, mode, seed, evaluation
        _, _, (last, _) = kernels.rnn(x, [zeros, zeros], self.weights, None, self.rnn._dropout_state, 0.0,
                                     False, width, hidden, 1, "LSTM", 0, not train)
        h = layers[f"{self.name}.rnn"] = kernels.reshape(last, [-1, hidden])  # (1, B, H) -> (B, H), also for B = 1
        if mask is not None:
            h = h * mask
        linear = self.linear_1
        y: Tensor = kernels.addmm(linear.bias, h, linear.weight, 1.0, 1.0)  # (B, O)
        layers[f"{self.name}.linear_1"] = y
        return y


class Network(nn.Layer):
    """The subnets of the modalities; a subclass fuses what they give into (B, output_dim).

    Parameters take Paddle's default dtype.
    """

    def __init__(self, spec: ModelSpec, place: Place) -> None:
        super().__init__(dtype=paddle.get_default_dtype())
        self.place = place
        self.shapes = {p.name: p.shape for p in spec.parameters}
        for modality in spec.modalities:
            name, width = f"{modality}_subnet", spec.dims.of(modality)
            out = self.shapes[f"{name}.linear_1.weight"][0]
            self.add_sublayer(name, TextSubNet(name, width, spec.text_hidden, out, place) if modality == "text"
                              else DenseSubNet(name, width, out))
        self.subnets = tuple((m, getattr(self, f"{m}_subnet")) for m in spec.modalities)

    def forward(self, inputs: dict[str, Tensor], masks: dict[str, Tensor], train: bool) -> tuple[Tensor, Layers]:
        """inputs: audio (B, A), video (B, V), text (T, B, D). Returns (B, O) and the named activations."""
        layers: Layers = {}
        hidden = [subnet.forward(inputs[modality], masks.get(f"{modality}_subnet"), layers, train)  # (B, H)
                  for modality, subnet in self.subnets]
        output = layers["output"] = self.fuse(hidden, masks.get("fusion"), layers)
        return output, layers

    def fuse(self, hidden: list[Tensor], mask: Tensor | None, layers: Layers) -> Tensor:
        """One (B, H) per modality -> (B, O)."""
        raise NotImplementedError


class LMF(Network):
    """Low-rank fusion: per rank, the product of what each modality's factor makes of it."""

    def __init__(self, spec: ModelSpec, place: Place) -> None:
        super().__init__(spec, place)
        self.rank, self.output_dim = spec.rank, spec.output_dim
        for modality in spec.modalities:
            rank, width, out = self.shapes[f"{modality}_factor"]
            factor = self.create_parameter([width, rank * out])  # (1 + H, R O): one matrix product fuses all ranks
            self.add_parameter(f"{modality}_factor", factor)
        self.fusion_weights = self.create_parameter(self.shapes["fusion_weights"])  # (1, R)
        self.fusion_bias = self.create_parameter(self.shapes["fusion_bias"])  # (1, O)
        self.factors = tuple(getattr(self, f"{m}_factor") for m in spec.modalities)

    def fuse(self, hidden: list[Tensor], mask: Tensor | None, layers: Layers) -> Tensor:
        terms: Tensor | None = None
        shape = [-1, self.rank, self.output_dim]
        for h, factor in zip(hidden, self.factors):  # noqa: B905  # Paddle's tracer knows no `strict`
            term = with_one(h, self.place) @ factor  # (B, 1 + H) -> (B, R O)
            terms = term if terms is None else terms * term
        assert terms is not None  # the schema asks for at least one modality
        terms = layers["fusion"] = kernels.reshape(terms, shape)  # (B, R, O)
        if mask is not None:
            terms = terms * kernels.reshape(mask, shape)
        weighted = kernels.reshape(self.fusion_weights, [-1, 1]) * terms  # (R, 1) * (B, R, O)
        output: Tensor = kernels.add(kernels.sum(weighted, [1], None, False), self.fusion_bias)  # (B, R, O) -> (B, O)
        return output


class TFN(Network):
    """Tensor fusion (Zadeh et al., EMNLP 2017): the outer product of all modalities, then linear layers with ReLU."""

    def __init__(self, spec: ModelSpec, place: Place) -> None:
        super().__init__(spec, place)
        for key in ("post_fusion_layer_1", "post_fusion_layer_2", "post_fusion_layer_3"):
            if f"{key}.weight" in self.shapes:
                out, width = self.shapes[f"{key}.weight"]
                self.add_sublayer(key, nn.Linear(width, out))
        self.layers = tuple((key, layer.weight, layer.bias)
                            for key, layer in self.named_children() if isinstance(layer, nn.Linear))

    def fuse(self, hidden: list[Tensor], mask: Tensor | None, layers: Layers) -> Tensor:
        outer = with_one(hidden[0], self.place)  # (B, 1 + H)
        for h in hidden[1:]:
            # a matrix product of column and row: the backward pass of a broadcast `*` takes twice the time
            one = kernels.unsqueeze(with_one(h, self.place), [1])  # (B, 1, 1 + H)
            outer = kernels.flatten(kernels.bmm(kernels.unsqueeze(outer, [2]), one), 1, 2)  # (B, P) -> (B, P (1 + H))
        y = layers["fusion"] = outer
        if mask is not None:
            y = y * mask
        *inner, (_, weight, bias) = self.layers
        for name, inner_weight, inner_bias in inner:
            y = layers[name] = kernels.relu(kernels.addmm(inner_bias, y, inner_weight, 1.0, 1.0))  # (B, K)
        output: Tensor = kernels.addmm(bias, y, weight, 1.0, 1.0)  # (B, O)
        return output


def with_one(h: Tensor, place: Place) -> Tensor:
    """(B, H) -> (B, 1 + H), with a one in front."""
    # not the kernel `pad`: exported, it writes out of bounds when the batch size changes
    ones = kernels.full_batch_size_like(h, [-1, 1], h.dtype, 1.0, 0, 0, place)  # (B, 1)
    y: Tensor = kernels.concat([ones, h], 1)
    return y


NETWORKS = {"lmf": LMF, "tfn": TFN}


def make_network(spec: ModelSpec, place: Place) -> Network:
    """The network of `spec.model`."""
    return NETWORKS[spec.model](spec, place)
