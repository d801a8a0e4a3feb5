"""MindSpore's defaults."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore
import numpy as np
from mindspore import Parameter, Tensor, mint, nn, ops

from backends.mindspore import optimizer, precision, session, state
from backends.mindspore.state import Flat, to_numpy, turn
from core.randomness import Array
from parity_tests.defaults import Replacements

RENAMED = {"norm.weight": "norm.gamma", "norm.bias": "norm.beta"}  # as nn.BatchNorm1d calls them


def _adam(make: Callable[[Any, dict[str, list[Any]]], Any]) -> Replacements:
    def step(self: Any, gradients: dict[str, Tensor]) -> None:
        self.steps += 1
        parts: dict[str, list[Any]] = {}
        for name, group in self.groups.items():
            parts[name] = []
            for key, view in group.flat.views.items():
                last = ".".join(key.split(".")[-2:])
                parts[name].append(Parameter(Tensor(to_numpy(view)), name=key.replace(last, RENAMED.get(last, last))))
        adam = make(self, parts)
        names = [key for group in self.groups.values() for key in group.flat.slices]
        values = [value for group in parts.values() for value in group]
        adam(tuple(gradients[key].view(value.shape) for key, value in zip(names, values, strict=True)))
        moments = [list(getattr(adam, key, [])) for key in ("moment1", "moment2")]
        for group in self.groups.values():
            count = len(group.flat.slices)
            for flat, tensors in ((group.flat, values), (group.exp_avg, moments[0]), (group.exp_avg_sq, moments[1])):
                if tensors:
                    joined = np.concatenate([to_numpy(tensor).ravel() for tensor in tensors[:count]])
                    ops.assign(flat.value, Tensor(joined))
                    del tensors[:count]

    return [(optimizer.GroupedAdam, "step", step)]


def _decay(adam: Any) -> float:
    return float(adam.decay.asnumpy())


def adam() -> Replacements:
    """nn.Adam with two groups."""
    return _adam(lambda self, parts: nn.Adam([
        {"params": parts[name], "lr": group.rate, "weight_decay": _decay(self)}
        for name, group in self.groups.items()]))


def adam_kernel() -> Replacements:
    """ops.Adam, which nn.Adam calls, without the addition that corrects its second moment."""
    return [(optimizer, "assign_add", lambda moment, missing: None)]


def adam_of_a_plain_list() -> Replacements:
    """nn.Adam with a list of all parameters and one rate, the one of `others`."""
    return _adam(lambda self, parts: nn.Adam(parts["factors"] + parts["others"], self.groups["others"].rate,
                                             weight_decay=_decay(self)))


def mint_adam() -> Replacements:
    """mint.optim.Adam, the one that is modelled on torch's."""
    return _adam(lambda self, parts: mint.optim.Adam([
        {"params": parts[name], "lr": group.rate} for name, group in self.groups.items()], weight_decay=_decay(self)))


def statistics_in_adam() -> Replacements:
    """The running statistics handed to nn.Adam too, with weight decay; their gradients are zero."""
    backward = session.MindSporeSession._backward

    def default(self: Any, *batch: Any) -> tuple[Tensor, Any]:
        result = backward(self, *batch)
        tensors = list(self.network.statistics.values())
        if not hasattr(self, "extra"):
            for number, tensor in enumerate(tensors):
                tensor.name, tensor.requires_grad = f"statistic{number}", True
            self.extra = nn.Adam([{"params": tensors, "lr": self.optimizer.groups["others"].rate,
                                   "weight_decay": _decay(self.optimizer)}])
        self.extra(tuple(ops.zeros_like(tensor) for tensor in tensors))
        return result

    return [(session.MindSporeSession, "_backward", default)]


def lstm_float64() -> Replacements:
    """nn.LSTM(dtype=float64), and its gradients by MindSpore's automatic differentiation."""
    def forward(self: Any, x: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, Any]:
        cell = nn.LSTM(weights[0].shape[1], weights[1].shape[1], dtype=mindspore.float64)
        for parameter, value in zip(cell.trainable_params(), weights, strict=True):
            ops.assign(parameter, Tensor(to_numpy(value)))
        return cell(x)[1][0][0], (cell, x)

    def backward(self: Any, dh: Tensor, saved: Any) -> list[Tensor]:
        cell, x = saved
        slope = mindspore.grad(lambda: (cell(x)[1][0][0] * dh).sum(), None, cell.trainable_params())
        return [gradient.view(-1) for gradient in slope()]

    return [(precision.Kernels64, "lstm", forward), (precision.Kernels64, "lstm_grad", backward)]


def batch_norm_cell() -> Replacements:
    """nn.BatchNorm1d as it comes: a cell starts in evaluation mode."""
    def default(self: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor,
                train: bool) -> tuple[Tensor, Any]:
        cell = nn.BatchNorm1d(x.shape[1], gamma_init=Tensor(to_numpy(weight)), beta_init=Tensor(to_numpy(bias)),
                              moving_mean_init=Tensor(to_numpy(mean)), moving_var_init=Tensor(to_numpy(var)))
        y = cell(x)
        for running, moved in ((mean, cell.moving_mean), (var, cell.moving_variance)):
            ops.assign(running, moved)
        return y, (y,)

    return [(precision.Kernels, "batch_norm", default)]


def batch_norm_of_one_row() -> Replacements:
    """The kernel of nn.BatchNorm1d in train mode, whatever the number of rows."""
    def default(self: Any, x: Tensor, *rest: Any) -> tuple[Tensor, Any]:
        return self._batch_norm_train(x, *rest[:-1])  # type: ignore[no-any-return]

    return [(precision.Kernels, "batch_norm", default)]


def float_constants() -> Replacements:
    """Python floats beside float64 tensors."""
    return [(precision, "constant", lambda value, dtype: value)]


def writing_to_views() -> Replacements:
    """A tensor's in-place methods on views, instead of an assignment to what they are views of."""
    def default(self: Flat, arrays: dict[str, Array]) -> None:
        for name, view in self.views.items():
            view.add_(Tensor(turn(name, arrays[name]), view.dtype) - view)

    return [(state.Flat, "write", default)]


def mean_loss() -> Replacements:
    """Both losses with their default reduction."""
    def default(output: Tensor, label: Tensor, task: str, kernels: Any) -> tuple[Tensor, Tensor]:
        loss = ops.cross_entropy if task == "classification" else ops.l1_loss
        return loss(output.float(), label.float()), output

    return [(session, "summed_loss", default)]


def l1_loss() -> Replacements:
    """ops.l1_loss on float64."""
    return [(session, "summed_loss", lambda output, label, task, kernels: (ops.l1_loss(output, label, "sum"), output))]


def log_softmax() -> Replacements:
    """Cross-entropy by ops.log_softmax on float64."""
    def default(self: Any, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        logs = ops.log_softmax(output, -1)
        return -(logs * label).sum(1), ops.exp(logs) - label

    return [(precision.Kernels64, "cross_entropy", default)]


def compile_with_parameter_in_construct() -> str:
    """Compile a cell that builds a Parameter in its forward pass: the error's kind, or nothing."""
    class Fusion(nn.Cell):
        def construct(self, x: Tensor) -> Tensor:
            weights = Parameter(Tensor(np.ones((1, 4), np.float32)), name="fusion_weights")
            return ops.matmul(weights, x)

    try:
        mindspore.jit(Fusion())(Tensor(np.ones((4, 2), np.float32)))
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return ""


def initial(shapes: dict[str, tuple[int, ...]], dtype: str) -> dict[str, Array]:
    """nn.Dense's own values and XavierNormal, by neutral name."""
    mindspore.set_seed(3)
    values: dict[str, Array] = {}
    for name, shape in shapes.items():
        if name.endswith("_factor"):
            draw = mindspore.common.initializer.initializer("xavier_normal", shape, mindspore.float32)
            values[name] = draw.init_data().asnumpy().astype(dtype)
        elif name.endswith("weight"):
            dense = nn.Dense(shape[1], shape[0])
            values[name] = dense.weight.asnumpy().astype(dtype)
            values[name.replace("weight", "bias")] = dense.bias.asnumpy().astype(dtype)
    return values


def dropout(rows: int, width: int, rate: float, dtype: str) -> Array:
    """The mask of ops.dropout on ones."""
    mindspore.set_seed(3)
    mask: Array = ops.dropout(Tensor(np.ones((rows, width), np.float32)), rate, True).asnumpy().astype(dtype)
    return mask
