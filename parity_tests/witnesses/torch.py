"""The LMF of backends/torch/lmf.py."""
from __future__ import annotations

import doctest
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends.torch import lmf
from core.common.arrays import Array
from core.training.plan import Batch
from parity_tests.witnesses import Seen, Sizes, neutral

DROPOUT = {"audio": "drop", "video": "drop", "text": "dropout"}  # its name in the subnet


class Masked(nn.Module):
    """A given mask in the place of dropout."""

    def __init__(self, mask: Array) -> None:
        super().__init__()
        self.mask = torch.from_numpy(mask)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask if self.training else x


def made(sizes: Sizes) -> lmf.LMF:
    """A network as its constructor draws it."""
    subnets = {m: (lmf.TextSubNet if m == "text" else lmf.SubNet)(*sizes[m]) for m in DROPOUT if m in sizes}
    return lmf.LMF(sizes["rank"], sizes["output_dim"], **subnets)


def loaded(sizes: Sizes, weights: Mapping[str, Array]) -> lmf.LMF:
    """A network with these weights, in their dtype."""
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    network = made(sizes).to(tensors["fusion_bias"].dtype)
    network.load_state_dict(tensors)
    return network


def initial(sizes: Sizes) -> dict[str, Array]:
    """What the constructor draws."""
    return neutral("torch", {name: value.numpy() for name, value in made(sizes).state_dict().items()})


def outputs(sizes: Sizes, weights: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array:
    """(B, O), in evaluation."""
    network = loaded(sizes, weights).eval()
    return network(**{m: torch.from_numpy(x) for m, x in inputs.items()}).detach().numpy()


def outputs_of_file(sizes: Sizes, path: str, inputs: Mapping[str, Array]) -> Array:
    """From a published state dict, read by torch itself, in the dtype of the file."""
    tensors = torch.load(path)
    dtype = tensors["fusion_bias"].dtype
    network = made(sizes).to(dtype).eval()
    network.load_state_dict(tensors)
    return network(**{m: torch.from_numpy(x).to(dtype) for m, x in inputs.items()}).detach().numpy()


def seen(sizes: Sizes, weights: Mapping[str, Array], batch: Batch) -> Seen:
    """One batch in evaluation, then in train mode with its masks, and back."""
    network = loaded(sizes, weights)
    evaluation = outputs(sizes, weights, batch.inputs)
    for m, name in DROPOUT.items():
        if f"{m}_subnet" in batch.masks:
            setattr(network.get_submodule(f"{m}_subnet"), name, Masked(batch.masks[f"{m}_subnet"]))
    output = network.train()(**{m: torch.from_numpy(x) for m, x in batch.inputs.items()})
    label = torch.from_numpy(batch.label)
    loss = (F.l1_loss if label.is_floating_point() else F.cross_entropy)(output, label, reduction="sum")
    loss.backward()
    return Seen(evaluation, output.detach().numpy(), loss.item(),
                {name: value.grad.numpy() for name, value in network.named_parameters()},
                {name: value.numpy() for name, value in network.named_buffers() if "running" in name})


def dropped(sizes: Sizes, modality: str, count: int, train: bool) -> Array:
    """What the dropout of a subnet makes of ones (count,)."""
    network = made(sizes).train(train)
    return getattr(network.get_submodule(f"{modality}_subnet"), DROPOUT[modality])(torch.ones(count)).numpy()


def example() -> tuple[int, int]:
    """How many lines of the file's example fail, and how many there are."""
    return tuple(doctest.testmod(lmf))
