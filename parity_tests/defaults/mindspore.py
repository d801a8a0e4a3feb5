"""MindSpore's defaults."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mindspore
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, mint, nn, ops
from mindspore.ops.operations import _grad_ops as grad_ops

from backends.mindspore import attention, blocks, losses, model, normalisation, optimizer, session, state
from backends.mindspore.blocks import Differentiated, Saved
from backends.mindspore.state import to_numpy
from core.common.arrays import F64, Array
from core.models.graph import OTHERS, STATISTICS, Graph
from core.runtime.layouts import to_own
from core.runtime.optimizer import GroupedAdam
from core.training.losses import Loss
from parity_tests.defaults import Replacements

RENAMED = {"norm.weight": "norm.gamma", "norm.bias": "norm.beta"}  # as nn.BatchNorm1d calls them


Make = Callable[[list[Parameter], float, float], nn.Cell]  # parameters, rate, decay -> their Adam


class BatchNorm(Differentiated):
    """nn.BatchNorm1d as it comes: a cell starts in evaluation mode."""

    def bind(self, tensors: blocks.Tensors) -> None:
        self.layer = nn.BatchNorm1d(len(tensors["weight"]))
        self.layer.gamma, self.layer.beta = tensors["weight"], tensors["bias"]
        self.layer.moving_mean, self.layer.moving_variance = tensors["running_mean"], tensors["running_var"]

    def construct(self, x: Tensor) -> Tensor:
        return self.layer(x)


class BatchNormOfOneRow(normalisation.BatchNorm):
    """The kernel of nn.BatchNorm1d in train mode, whatever the number of rows."""

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        return self.trained(xs[0])


class LayerNorm(Differentiated):
    """nn.LayerNorm as it comes."""

    def bind(self, tensors: blocks.Tensors) -> None:
        self.layer = nn.LayerNorm((len(tensors["weight"]),))
        self.layer.gamma, self.layer.beta = tensors["weight"], tensors["bias"]

    def construct(self, x: Tensor) -> Tensor:
        return self.layer(x)


class LayerNormByItsKernels(normalisation.LayerNorm):
    """The kernel's own way back, which takes no eps."""

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, Saved]:
        y, mean, var = self.normalised(xs[0].view(-1, self.width))
        return y.view(self.shape), (xs[0].view(-1, self.width), mean, var)

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> blocks.Back:
        x, mean, var = saved
        dx, weight, bias = grad_ops.LayerNormGrad(-1, -1)(x, dy.view(x.shape), var, mean, self.weight)
        return [dx.view(dy.shape)], {"weight": weight, "bias": bias}


class OneValueTwice(Differentiated, blocks.Add):
    """mindspore.grad asked for the gradient of every input, though one tensor may be two of them."""

    def backward(self, dy: Tensor, saved: Saved, needs: Sequence[bool]) -> blocks.Back:
        found = mindspore.grad(lambda *xs: (self.construct(*xs) * dy).sum(), tuple(range(len(saved))))(*saved)
        return list(found), {}


class LSTM(Differentiated):
    """nn.LSTM(dtype=float64)."""

    def bind(self, tensors: blocks.Tensors) -> None:
        self.layer = nn.LSTM(tensors["weight_ih_l0"].shape[1], self.node["hidden"], dtype=self.dtype)
        for key, name in (("w_ih", "weight_ih"), ("w_hh", "weight_hh"), ("b_ih", "bias_ih"), ("b_hh", "bias_hh")):
            setattr(self.layer, f"{key}_list", ParameterTuple([tensors[f"{name}_l0"]]))

    def construct(self, x: Tensor) -> Tensor:
        return self.layer(x)[1][0][0]  # (T, B, D) -> (B, H)


def batch_norm_cell() -> Replacements:
    return [(model.BLOCKS, "batch_norm", BatchNorm)]


def batch_norm_of_one_row() -> Replacements:
    return [(model.BLOCKS, "batch_norm", BatchNormOfOneRow)]


def layer_norm_cell() -> Replacements:
    return [(model.BLOCKS, "layer_norm", LayerNorm)]


def layer_norm_gradient() -> Replacements:
    return [(model.BLOCKS, "layer_norm", LayerNormByItsKernels)]


def layer_norm_float64() -> Replacements:
    """The kernel in float64."""
    return [(model.BLOCKS64, "layer_norm", normalisation.LayerNorm)]


def one_value_twice() -> Replacements:
    return [(model.BLOCKS, "add", OneValueTwice)]


def lstm_float64() -> Replacements:
    return [(model.BLOCKS64, "lstm", LSTM)]


def differentiated() -> Replacements:
    """The framework's own differentiation in the place of our ways back, of blocks that use their tensors directly."""
    return [(table, kind, type(table[kind].__name__, (Differentiated, table[kind]), {}))
            for table in (model.BLOCKS, model.BLOCKS64)
            for kind in ("linear", "layer_norm", "lstm", "concat", "add", "scaled_sigmoid", *attention.BLOCKS,
                         "outer_product")]


def _adam(make: Make) -> Replacements:
    """Groups step by an Adam of their own, in which each parameter is one."""
    def step(self: optimizer.Group, gradients: Sequence[Tensor], count: int, rate: float) -> None:
        parameters = []
        for p in self.value.parameters:
            last = ".".join(p.name.split(".")[-2:])
            parameters.append(Parameter(Tensor(to_numpy(self.value.view(p.name))),
                                        name=p.name.replace(last, RENAMED.get(last, last))))
        adam = make(parameters, rate, self.decay)
        adam(tuple(gradient.view(p.shape) for gradient, p in zip(gradients, parameters, strict=True)))
        for flat, found in ((self.value, parameters), (self.exp_avg, getattr(adam, "moment1", ())),
                            (self.exp_avg_sq, getattr(adam, "moment2", ()))):
            if found:
                ops.assign(flat.value, Tensor(np.concatenate([to_numpy(tensor).ravel() for tensor in found])))

    return [(optimizer.Group, "step", step)]


def adam() -> Replacements:
    """nn.Adam, each group as a group."""
    return _adam(lambda parameters, rate, decay: nn.Adam([{"params": parameters, "lr": rate, "weight_decay": decay}]))


def adam_of_a_plain_list() -> Replacements:
    """nn.Adam with a plain list of parameters."""
    return _adam(lambda parameters, rate, decay: nn.Adam(parameters, rate, weight_decay=decay))


def mint_adam() -> Replacements:
    """mint.optim.Adam, the one that is modelled on torch's."""
    return _adam(lambda parameters, rate, decay: mint.optim.Adam(parameters, rate, weight_decay=decay))


def adam_kernel() -> Replacements:
    """ops.Adam, which nn.Adam calls, without the addition that corrects its second moment."""
    return [(optimizer, "assign_add", lambda moment, missing: None)]


def statistics_in_adam() -> Replacements:
    """The running statistics handed to nn.Adam too, with weight decay; their gradients are zero."""
    def default(graph: Graph, network: model.Network, dtype: mindspore.dtype) -> GroupedAdam[Tensor]:
        made = optimizer.make_optimizer(graph, network, dtype)
        statistics = [flat.value for flat in network.flats[STATISTICS]]
        others = next(group for group in graph.groups if group.name == OTHERS)
        zeros, step = tuple(ops.zeros_like(one) for one in statistics), made.step
        for one in statistics:
            one.requires_grad = True
        adam = nn.Adam([{"params": statistics, "lr": others.rate, "weight_decay": others.decay}])

        def both(gradients: Sequence[Tensor], rates: F64) -> None:
            step(gradients, rates)
            adam(zeros)

        made.step = both
        return made

    return [(session, "make_optimizer", default)]


def float_constants() -> Replacements:
    """Python floats beside float64 tensors."""
    return [(normalisation, "constant", lambda value, dtype: value)]


def writing_to_views() -> Replacements:
    """A tensor's in-place methods on views, instead of an assignment to what they are views of."""
    def default(self: state.Flat, arrays: Mapping[str, Array]) -> None:
        for p in self.parameters:
            view = self.view(p.name)
            view.add_(Tensor(to_own(self.layouts, p.layout, arrays[p.name]), view.dtype) - view)

    return [(state.Flat, "write", default)]


def mean_loss() -> Replacements:
    """Both losses with their default reduction."""
    def default(loss: Loss, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        mean = ops.cross_entropy if loss.kind == "cross_entropy" else ops.l1_loss
        found: tuple[Tensor, Tensor] = mindspore.value_and_grad(lambda y: mean(y, label))(output)
        return found

    return [(session, "loss_of_batch", default)]


def l1_loss() -> Replacements:
    """ops.l1_loss on float64."""
    def default(loss: Loss, output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        return ops.l1_loss(output, label, "sum"), ops.sign(output - label)

    return [(session, "loss_of_batch", default)]


def log_softmax() -> Replacements:
    """Cross-entropy by ops.log_softmax on float64."""
    def default(output: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        logs = ops.log_softmax(output, -1)
        return -(logs * label).sum(1), ops.exp(logs) - label

    return [(losses, "entropy64", default)]


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
