"""The LMF of backends/paddle/lmf.py."""
from __future__ import annotations

import doctest
from collections.abc import Mapping

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from backends.paddle import lmf
from core.common.arrays import Array
from core.training.plan import Batch
from parity_tests.witnesses import Seen, Sizes, neutral

DROPOUT = {"audio": "drop", "video": "drop", "text": "dropout"}  # its name in the subnet


class Masked(nn.Layer):
    """A given mask in the place of dropout."""

    def __init__(self, mask: Array) -> None:
        super().__init__()
        self.mask = paddle.to_tensor(mask)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask if self.training else x


def made(sizes: Sizes, dtype: str = "float32") -> lmf.LMF:
    """A network as its constructor draws it."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype(dtype)
    subnets = {m: (lmf.TextSubNet if m == "text" else lmf.SubNet)(*sizes[m]) for m in DROPOUT if m in sizes}
    network = lmf.LMF(sizes["rank"], sizes["output_dim"], **subnets)
    paddle.set_default_dtype(before)  # the worker's sessions have theirs
    return network


def loaded(sizes: Sizes, weights: Mapping[str, Array]) -> lmf.LMF:
    """A network with these weights, in their dtype."""
    network = made(sizes, str(weights["fusion_bias"].dtype))
    network.load(weights)
    return network


def initial(sizes: Sizes) -> dict[str, Array]:
    """What the constructor draws."""
    return neutral("paddle", {name: value.numpy() for name, value in made(sizes).state_dict().items()})


def outputs(sizes: Sizes, weights: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array:
    """(B, O), in evaluation."""
    network = loaded(sizes, weights)
    network.eval()
    return network(**{m: paddle.to_tensor(x) for m, x in inputs.items()}).numpy()


def outputs_of_file(sizes: Sizes, path: str, inputs: Mapping[str, Array]) -> Array:
    """From a published state dict, read by Paddle itself, in the dtype of the file."""
    tensors = paddle.load(path)
    network = made(sizes, str(tensors["fusion_bias"].numpy().dtype))
    assert network.set_state_dict(tensors) == ([], [])  # nothing missing, nothing unknown
    network.eval()
    dtype = tensors["fusion_bias"].dtype
    return network(**{m: paddle.to_tensor(x, dtype) for m, x in inputs.items()}).numpy()


def seen(sizes: Sizes, weights: Mapping[str, Array], batch: Batch) -> Seen:
    """One batch in evaluation, then in train mode with its masks, and back."""
    network = loaded(sizes, weights)
    evaluation = outputs(sizes, weights, batch.inputs)
    for m, name in DROPOUT.items():
        if f"{m}_subnet" in batch.masks:
            setattr(getattr(network, f"{m}_subnet"), name, Masked(batch.masks[f"{m}_subnet"]))
    network.train()
    output = network(**{m: paddle.to_tensor(x) for m, x in batch.inputs.items()})
    label = paddle.to_tensor(batch.label)
    loss = (F.l1_loss if batch.label.dtype.kind == "f" else F.cross_entropy)(output, label, reduction="sum")
    loss.backward()
    own = dict(network.named_parameters())  # the statistics are among them
    statistics = {name: value.numpy() for name, value in own.items() if name.endswith(("._mean", "._variance"))}
    gradients = {name: value.grad.numpy() for name, value in own.items() if name not in statistics}
    return Seen(evaluation, output.numpy(), loss.item(), neutral("paddle", gradients), neutral("paddle", statistics))


def dropped(sizes: Sizes, modality: str, count: int, train: bool) -> Array:
    """What the dropout of a subnet makes of ones (count,)."""
    network = made(sizes)
    (network.train if train else network.eval)()
    return getattr(getattr(network, f"{modality}_subnet"), DROPOUT[modality])(paddle.ones([count])).numpy()


def example() -> tuple[int, int]:
    """How many lines of the file's example fail, and how many there are."""
    before = paddle.get_default_dtype()
    paddle.set_default_dtype("float32")  # as where nobody has set it
    found = tuple(doctest.testmod(lmf))
    paddle.set_default_dtype(before)
    return found
