"""Paddle's defaults."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from backends.paddle import model, optimizer, session, state
from core.randomness import Array
from parity_tests.defaults import Replacements

Groups = Callable[[list[Any], list[float]], dict[str, Any]]  # tensors and rates -> arguments of Adam


def batch_norm() -> Replacements:
    """nn.BatchNorm1D's function: biased running variance, eps in float32."""
    def default(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, train: bool) -> Tensor:
        return F.batch_norm(x, mean, variance, weight, bias, training=train)

    return [(model, "batch_norm", default)]


def batch_norm_of_one_row() -> Replacements:
    """The same in train mode, whatever the number of rows."""
    def default(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, train: bool) -> Tensor:
        return F.batch_norm(x, mean, variance, weight, bias, training=True)

    return [(model, "batch_norm", default)]


def _adam(groups: Groups) -> Replacements:
    def step(self: Any, gradients: Sequence[Tensor]) -> None:
        self.steps += 1
        tensors = []
        for name, group in self.groups.items():
            tensor = paddle.base.framework.EagerParamBase.from_tensor(group.flat.clone(), trainable=True)
            tensor.grad = paddle.concat([gradients[i].reshape([-1]) for i in self.places[name]])
            tensors.append(tensor)
        adam = paddle.optimizer.Adam(weight_decay=self.weight_decay,
                                     **groups(tensors, [group.rate for group in self.groups.values()]))
        adam.step()
        kept = adam.state_dict()
        for tensor, group in zip(tensors, self.groups.values(), strict=True):
            paddle.assign(tensor.detach(), group.flat)
            paddle.assign(kept[f"{tensor.name}_moment1_0"], group.exp_avg)
            paddle.assign(kept[f"{tensor.name}_moment2_0"], group.exp_avg_sq)

    return [(optimizer.GroupedAdam, "step", step)]


def adam_with_lr_groups() -> Replacements:
    """Groups as torch has them, with the key `lr`."""
    return _adam(lambda tensors, rates: {"parameters": [
        {"params": [tensor], "lr": rate} for tensor, rate in zip(tensors, rates, strict=True)]})


def adam_with_learning_rate_groups() -> Replacements:
    """The key that Paddle knows, with the rates themselves as its values."""
    return _adam(lambda tensors, rates: {"parameters": [
        {"params": [tensor], "learning_rate": rate} for tensor, rate in zip(tensors, rates, strict=True)]})


def adam_kernel() -> Replacements:
    """Paddle's Adam with its rates right: multipliers of a base rate of 1."""
    return _adam(lambda tensors, rates: {"learning_rate": 1.0, "parameters": [
        {"params": [tensor], "learning_rate": rate} for tensor, rate in zip(tensors, rates, strict=True)]})


def linear_layout() -> Replacements:
    """torch's (out, in) weights of the square layer taken as they are: its shape says nothing."""
    return [(state, "TRANSPOSED", ("linear_1.weight", "linear_3.weight"))]


def mean_loss() -> Replacements:
    """Both losses with their default reduction."""
    def default(output: Tensor, label: Tensor) -> Tensor:
        loss: Tensor = F.cross_entropy(output, label) if label.dtype == paddle.int64 else F.l1_loss(output, label)
        return loss

    return [(session, "summed_loss", default)]


def lstm_names() -> list[str]:
    """What nn.LSTM's state dict lists."""
    return list(nn.LSTM(6, 5).state_dict())


def nothing_refused() -> Replacements:
    """A session that takes any mixed precision."""
    return [(session, "check_precision", lambda config: None)]


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
