"""Paddle's defaults."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from backends.paddle import blocks, kernels, model, optimizer, precision, session, state
from backends.paddle.kernels import Place
from core.common.arrays import Array
from core.common.constants import LAYERNORM_EPS
from core.models.graph import Node
from core.runtime import half
from core.runtime.layouts import Layout
from core.training.losses import Loss
from parity_tests.defaults import Replacements

Arguments = Callable[[Any, float], dict[str, Any]]  # a group's tensor and rate -> arguments of Adam


class BatchNorm(nn.BatchNorm1D):
    """The layer as it comes: biased running variance, eps in float32, and no care for a single row.

    The network gives it its parameters.
    """

    def __init__(self, node: Node, tensors: blocks.Tensors, place: Place) -> None:
        super().__init__(*node.output.shape)
        self._mean.data, self._variance.data = tensors["running_mean"], tensors["running_var"]

    def forward(self, xs: Sequence[Tensor], train: bool) -> Tensor:
        (self.train if train else self.eval)()
        return super().forward(xs[0])


def batch_norm() -> Replacements:
    return [(model.BLOCKS, "batch_norm", BatchNorm)]


def layer_norm() -> Replacements:
    """The function as it comes."""
    def normed(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weight, bias, LAYERNORM_EPS)

    return [(kernels, "layer_norm", normed)]


def _adam(arguments: Arguments) -> Replacements:
    def step(self: optimizer.Group, gradients: Sequence[Tensor], count: int, rate: float) -> None:
        tensor = paddle.base.framework.EagerParamBase.from_tensor(self.value.value.clone(), trainable=True)
        tensor.grad = paddle.concat([gradient.reshape([-1]) for gradient in gradients])
        adam = paddle.optimizer.Adam(weight_decay=self.decay, **arguments(tensor, rate))
        adam.step()
        kept = adam.state_dict()
        for flat, found in ((self.value, tensor.detach()), (self.exp_avg, kept[f"{tensor.name}_moment1_0"]),
                            (self.exp_avg_sq, kept[f"{tensor.name}_moment2_0"])):
            paddle.assign(found, flat.value)

    return [(optimizer.Group, "step", step)]


def adam_with_lr_groups() -> Replacements:
    """Groups as torch has them, with the key `lr`."""
    return _adam(lambda tensor, rate: {"parameters": [{"params": [tensor], "lr": rate}]})


def adam_with_learning_rate_groups() -> Replacements:
    """The key that Paddle knows, with the rates themselves as its values."""
    return _adam(lambda tensor, rate: {"parameters": [{"params": [tensor], "learning_rate": rate}]})


def adam_kernel() -> Replacements:
    """Paddle's Adam with its rates right: multipliers of a base rate of 1."""
    return _adam(lambda tensor, rate: {"learning_rate": 1.0,
                                       "parameters": [{"params": [tensor], "learning_rate": rate}]})


def linear_layout() -> Replacements:
    """torch's (out, in) weights of the square layers taken as they are: their shape says nothing."""
    own, neutral = state.LAYOUTS["matrix"]

    def square(array: Array) -> bool:
        return array.shape[0] == array.shape[1]

    return [(state.LAYOUTS, "matrix", Layout(lambda array: array if square(array) else own(array),
                                             lambda array, shape: array if square(array) else neutral(array, shape)))]


def mean_loss() -> Replacements:
    """Both losses with their default reduction."""
    def default(loss: Loss, output: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(output, label) if loss.kind == "cross_entropy" else F.l1_loss(output, label)

    return [(session, "loss_of_batch", default)]


def lstm_names() -> list[str]:
    """What nn.LSTM's state dict lists."""
    return list(nn.LSTM(6, 5).state_dict())


def autocast() -> Replacements:
    """Paddle's casts in the place of ours at the borders of blocks."""
    def block(self: half.Bordered[Tensor], xs: Sequence[Tensor], train: bool) -> Tensor:
        with paddle.amp.auto_cast(level=self.half.level, dtype=self.half.kind):
            y: Tensor = self.block(xs, train)
            return y

    return [(half.Bordered, "__call__", block)]


def own_cast() -> Replacements:
    """Paddle's cast as it is."""
    return [(precision.Half, "cast", lambda self, x, dtype: kernels.cast(x, dtype))]


def autocast_dtype() -> str:
    """The dtype of a matrix product under bfloat16 autocast."""
    x = paddle.ones([2, 2], "float32")
    with paddle.amp.auto_cast(level="O1", dtype="bfloat16"):
        return str((x @ x).dtype).removeprefix("paddle.")


def squeezed_output(rows: int, rank: int) -> list[int]:
    """Shape of the fusion's output of width 1 with a bare squeeze() before the bias (1, 1) is added."""
    terms = paddle.ones([rows, rank, 1])  # (B, R, O)
    fused = paddle.matmul(paddle.ones([1, rank]), terms).squeeze()  # (B, 1, O) -> (B,)
    return list((fused + paddle.ones([1, 1])).shape)


def export_for_inference(folder: str) -> dict[str, str]:
    """What a deployment written for older versions meets: the files of a saved layer, and the errors by step."""
    paddle.jit.save(nn.Linear(4, 2), f"{folder}/old", input_spec=[paddle.static.InputSpec([1, 4], "float32", "x")])

    def predictor(program: str, optimise: bool) -> None:
        config = paddle.inference.Config(f"{folder}/{program}", f"{folder}/old.pdiparams")
        config.disable_glog_info()
        if optimise:
            config.enable_memory_optim()
        paddle.inference.create_predictor(config)

    steps: dict[str, Callable[[], object]] = {
        "gpu": lambda: paddle.device.set_device("gpu"), "pdmodel": lambda: predictor("old.pdmodel", False),
        "json": lambda: predictor("old.json", False), "memory": lambda: predictor("old.json", True)}
    answers = {"files": " ".join(sorted(path.suffix for path in Path(folder).glob("old*")))}
    for name, step in steps.items():
        try:
            step()
            answers[name] = ""
        except (RuntimeError, ValueError, OSError) as error:
            answers[name] = f"{type(error).__name__}: {' '.join(str(error).split())[-400:]}"
    return answers


def exported_shape(path: str, widths: dict[str, tuple[int, ...]], rows: int) -> list[int]:
    """Output shape of an exported network on that many rows of ones."""
    loaded = paddle.jit.load(path.removesuffix(".json"))
    return list(loaded(*[paddle.ones([rows, *width], "float32") for width in widths.values()]).shape)


def initial(shapes: dict[str, tuple[int, ...]], dtype: str) -> dict[str, Array]:
    """nn.Linear's own values and XavierNormal, by neutral name."""
    paddle.seed(3)
    values: dict[str, Array] = {}
    for name, shape in shapes.items():
        if name.endswith("_factor"):
            factor = paddle.create_parameter(shape, "float32", default_initializer=nn.initializer.XavierNormal())
            values[name] = factor.numpy().astype(dtype)
        elif name.endswith("weight"):
            linear = nn.Linear(shape[1], shape[0])
            values[name] = np.ascontiguousarray(linear.weight.numpy().T.astype(dtype))
            values[name.replace("weight", "bias")] = linear.bias.numpy().astype(dtype)
    return values


def dropout(rows: int, width: int, rate: float, dtype: str) -> Array:
    """The mask of F.dropout on ones."""
    paddle.seed(3)
    mask: Array = F.dropout(paddle.to_tensor(np.ones((rows, width), dtype)), rate).numpy()
    return mask
