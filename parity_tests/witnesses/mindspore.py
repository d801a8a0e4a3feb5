"""The LMF of backends/mindspore/lmf.py, in float32."""
from __future__ import annotations

import doctest
from collections.abc import Mapping

import mindspore
import numpy as np
from mindspore import Tensor, nn, ops

from backends.mindspore import lmf
from core.common.arrays import Array
from core.training.plan import Batch
from parity_tests.witnesses import Seen, Sizes, neutral

DROPOUT = {"audio": "drop", "video": "drop", "text": "dropout"}  # its name in the subnet


class Masked(nn.Cell):
    """A given mask in the place of dropout."""

    def __init__(self, mask: Array) -> None:
        super().__init__()
        self.mask = Tensor(mask)

    def construct(self, x: Tensor) -> Tensor:
        return x * self.mask if self.training else x


def made(sizes: Sizes) -> lmf.LMF:
    """A network as its constructor draws it."""
    subnets = {m: (lmf.TextSubNet if m == "text" else lmf.SubNet)(*sizes[m]) for m in DROPOUT if m in sizes}
    return lmf.LMF(sizes["rank"], sizes["output_dim"], **subnets)


def loaded(sizes: Sizes, weights: Mapping[str, Array]) -> lmf.LMF:
    """A network with these weights."""
    network = made(sizes)
    network.load(weights)
    return network


def tensors(inputs: Mapping[str, Array]) -> dict[str, Tensor]:
    """Rows in float32."""
    return {m: Tensor(x.astype(np.float32)) for m, x in inputs.items()}


def initial(sizes: Sizes) -> dict[str, Array]:
    """What the constructor draws."""
    return neutral("mindspore", {name: value.asnumpy() for name, value in made(sizes).parameters_and_names()})


def outputs(sizes: Sizes, weights: Mapping[str, Array], inputs: Mapping[str, Array]) -> Array:
    """(B, O), in evaluation."""
    return loaded(sizes, weights).set_train(False)(**tensors(inputs)).asnumpy()


def outputs_of_file(sizes: Sizes, path: str, inputs: Mapping[str, Array]) -> Array:
    """From a published checkpoint, read by MindSpore itself."""
    network = made(sizes)
    mindspore.load_checkpoint(path, network)
    return network.set_train(False)(**tensors(inputs)).asnumpy()


def seen(sizes: Sizes, weights: Mapping[str, Array], batch: Batch) -> Seen:
    """One batch in evaluation, then in train mode with its masks, and back."""
    network = loaded(sizes, weights)
    evaluation = outputs(sizes, weights, batch.inputs)
    for m, name in DROPOUT.items():
        if f"{m}_subnet" in batch.masks:
            setattr(getattr(network, f"{m}_subnet"), name, Masked(batch.masks[f"{m}_subnet"]))
    scores = batch.label.dtype.kind == "f"
    inputs, label = tensors(batch.inputs), Tensor(batch.label.astype(np.float32 if scores else np.int32))

    def forward() -> tuple[Tensor, Tensor]:
        output = network(**inputs)
        return (ops.l1_loss if scores else ops.cross_entropy)(output, label, reduction="sum"), output

    network.set_train()
    trained = network.trainable_params()
    (loss, output), gradients = mindspore.value_and_grad(forward, None, trained, has_aux=True)()
    named = {parameter.name: gradient.asnumpy() for parameter, gradient in zip(trained, gradients, strict=True)}
    statistics = {name: value.asnumpy() for name, value in network.parameters_and_names() if ".moving_" in name}
    return Seen(evaluation, output.asnumpy(), float(loss.asnumpy()), neutral("mindspore", named),
                neutral("mindspore", statistics))


def dropped(sizes: Sizes, modality: str, count: int, train: bool) -> Array:
    """What the dropout of a subnet makes of ones (count,)."""
    network = made(sizes).set_train(train)
    return getattr(getattr(network, f"{modality}_subnet"), DROPOUT[modality])(ops.ones(count)).asnumpy()


def example() -> tuple[int, int]:
    """How many lines of the file's example fail, and how many there are."""
    return tuple(doctest.testmod(lmf))
