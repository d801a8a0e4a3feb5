"""Float64 numbers that know the size of what went into them, and how they were made.

The first tells what rounding can have done to them, the second their gradients.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.common.arrays import F64


@dataclass(frozen=True, eq=False)
class Sized:
    """An array, and element by element the size of all that is rounded on the way to it, in whatever order.

    A product rounds itself. A sum rounds its terms' magnitudes, added up: much of them may cancel, their rounding
    doesn't. What an operation rounds counts by its influence on the element, and independent roundings add in squares
    (Higham & Mary, A new approach to probabilistic rounding error analysis, SIAM J. Sci. Comput. 41, 2019). So the
    same computation with a unit roundoff u is off by a few u * size, to first order in u.

    made_of: what it was made of, each with the function from the gradient of this array to its own.
    """

    value: F64
    size: F64
    made_of: tuple[tuple[Sized, Callable[[Sized], Sized]], ...] = ()
    is_leaf: bool = False  # a gradient is wanted of it
    __array_ufunc__ = None  # arrays on the left leave the operation to this class

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def alone(self) -> Sized:
        """The same number, made of nothing."""
        return Sized(self.value, self.size)

    def __len__(self) -> int:
        return len(self.value)

    def __add__(self, other: Operand) -> Sized:
        other = sized(other)
        terms = np.abs(self.value) + np.abs(other.value)
        return _made(self.value + other.value, _root(self.size, other.size, terms),
                     (self, lambda g: g.fitted(self.shape)), (other, lambda g: g.fitted(other.shape)))

    def __sub__(self, other: Operand) -> Sized:
        return self + -sized(other)

    def __neg__(self) -> Sized:
        return _made(-self.value, self.size, (self, lambda g: -g))

    def __mul__(self, other: Operand) -> Sized:
        other = sized(other)
        value = self.value * other.value
        return _made(value, _root(self.size * other.value, other.size * self.value, value),
                     (self, lambda g: (g * other.alone).fitted(self.shape)),
                     (other, lambda g: (g * self.alone).fitted(other.shape)))

    def __truediv__(self, other: Operand) -> Sized:
        other = sized(other)
        value = self.value / other.value
        size = _root(self.size / other.value, other.size * value / other.value, value)
        return _made(value, size, (self, lambda g: (g / other.alone).fitted(self.shape)),
                     (other, lambda g: (-g * Sized(value, size) / other.alone).fitted(other.shape)))

    def __matmul__(self, other: Operand) -> Sized:
        """Of two matrices, or of stacks of them."""
        other = sized(other)
        size = np.abs(self.value) @ np.abs(other.value)
        if self.size.any() or other.size.any():
            size = _root(size, np.sqrt(self.size**2 @ other.value**2 + self.value**2 @ other.size**2))
        return _made(self.value @ other.value, size, (self, lambda g: (g @ other.alone.T).fitted(self.shape)),
                     (other, lambda g: (self.alone.T @ g).fitted(other.shape)))

    __radd__, __rmul__ = __add__, __mul__

    def __getitem__(self, key: Any) -> Sized:
        """A slice: no element twice."""
        def back(g: Sized) -> Sized:
            whole = sized(np.zeros(self.shape))
            whole.value[key], whole.size[key] = g.value, g.size
            return whole

        return _made(self.value[key], self.size[key], (self, back))

    def reshape(self, *shape: int) -> Sized:
        """As NumPy's."""
        return _made(self.value.reshape(*shape), self.size.reshape(*shape), (self, lambda g: g.reshape(*self.shape)))

    def transpose(self, *axes: int) -> Sized:
        """As NumPy's."""
        back = [int(axis) for axis in np.argsort(axes)]
        return _made(self.value.transpose(*axes), self.size.transpose(*axes), (self, lambda g: g.transpose(*back)))

    @property
    def T(self) -> Sized:
        """Of a matrix, or of each in a stack."""
        last = self.value.ndim - 1
        return self.transpose(*range(last - 1), last, last - 1)

    def sum(self, axis: int | None = None) -> Sized:
        """Over one axis, or over all elements."""
        def back(g: Sized) -> Sized:
            rest = g if axis is None else g.reshape(*(1 if i == axis % self.value.ndim else n
                                                      for i, n in enumerate(self.shape)))
            value, size = (np.array(np.broadcast_to(part, self.shape)) for part in (rest.value, rest.size))
            return Sized(value, size)

        terms = np.abs(self.value).sum(axis)
        return _made(np.asarray(self.value.sum(axis)), _root(np.sqrt((self.size**2).sum(axis)), terms), (self, back))

    def fitted(self, shape: tuple[int, ...]) -> Sized:
        """Summed over what broadcasting added to `shape`."""
        found = self
        while found.value.ndim > len(shape):
            found = found.sum(0)
        for axis, width in enumerate(shape):
            if width == 1 and found.shape[axis] > 1:
                found = found.sum(axis).reshape(*found.shape[:axis], 1, *found.shape[axis + 1:])
        return found


Operand = Sized | npt.NDArray[Any] | float
Link = tuple[Sized, Callable[[Sized], Sized]]


def _made(value: F64, size: F64, *links: Link) -> Sized:
    """A number that remembers those of its parents that lead to a leaf."""
    return Sized(value, size, tuple(link for link in links if link[0].made_of or link[0].is_leaf))


def sized(x: Operand) -> Sized:
    """`x` itself, or a number or an array that is exact."""
    if isinstance(x, Sized):
        return x
    value = np.asarray(x, np.float64)
    return Sized(value, np.zeros(value.shape))


def leaf(x: npt.ArrayLike) -> Sized:
    """An exact array that a gradient is wanted of."""
    value = np.asarray(x, np.float64)
    return Sized(value, np.zeros(value.shape), is_leaf=True)


def rounded(x: npt.ArrayLike) -> Sized:
    """An array that was computed elsewhere, and rounded once when it was stored."""
    value = np.asarray(x, np.float64)
    return Sized(value, np.abs(value))


def square(x: Sized) -> Sized:
    """Not `x * x`: both factors are off alike."""
    value = x.value**2
    return _made(value, _root(2 * x.value * x.size, value), (x, lambda g: g * x.alone * 2.0))


def sqrt(x: Sized) -> Sized:
    """The root. Where it is 0, so was everything that went into it, and its slope is taken for 0."""
    value = np.sqrt(x.value)
    slope = np.divide(0.5, value, out=np.zeros(value.shape), where=value > 0)
    size = _root(slope * x.size, value)
    bend = np.divide(slope, value, out=np.zeros(value.shape), where=value > 0)
    return _made(value, size, (x, lambda g: g * Sized(slope, bend * size)))


def tanh(x: Sized) -> Sized:
    """The hyperbolic tangent, which libraries compute to a few roundoffs of 1, the end of its range."""
    value = np.tanh(x.value)
    return _curve(x, value, 1 - value**2, -2 * value * (1 - value**2))


def sigmoid(x: Sized) -> Sized:
    """1 / (1 + exp(-x)), in the form that can't overflow; computed elsewhere as `tanh` is."""
    value = 0.5 * (1 + np.tanh(0.5 * x.value))
    return _curve(x, value, value * (1 - value), value * (1 - value) * (1 - 2 * value))


def _curve(x: Sized, value: F64, slope: npt.NDArray[Any], bend: npt.NDArray[Any]) -> Sized:
    """A function between -1 and 1 with its first two derivatives."""
    slopes = Sized(slope, _root(bend * x.size, np.ones(value.shape)))
    return _made(value, _root(slope * x.size, np.ones(value.shape)), (x, lambda g: g * slopes))


def relu(x: Sized, doubt: float = 0.0) -> Sized:
    """max(x, 0). What was rounded below 0 keeps its size: it may have been on the other side."""
    step = Sized(np.where(x.value > 0, 1.0, 0.0), _kink(x, 1.0, doubt))
    return _made(np.maximum(x.value, 0), x.size, (x, lambda g: g * step))


def absolute(x: Sized, doubt: float = 0.0) -> Sized:
    """|x|."""
    sign = Sized(np.sign(x.value), _kink(x, 2.0, doubt))
    return _made(np.abs(x.value), x.size, (x, lambda g: g * sign))


def _kink(x: Sized, jump: float, doubt: float) -> F64:
    """The size of a slope that jumps at 0: where rounding by a share `doubt` of its size takes x to the other side, it
    is so large that the same share of it is the jump.
    """
    near = (np.abs(x.value) <= doubt * x.size) & (x.size > 0)
    return np.where(near, jump / doubt if doubt else 0.0, 0.0)


def with_one(x: Sized) -> Sized:
    """(B, H) -> (B, 1 + H), with a one in front."""
    one = np.ones((len(x), 1))
    return _made(np.concatenate([one, x.value], 1), np.concatenate([0 * one, x.size], 1), (x, lambda g: g[:, 1:]))


def concatenated(xs: Sequence[Sized], axis: int = -1) -> Sized:
    """One after the other along an axis: (B, A), (B, C), ... -> (B, A + C + ...)."""
    links: list[Link] = []
    start = 0
    for x in xs:
        part = [slice(None)] * x.value.ndim
        part[axis] = slice(start, start + x.shape[axis])
        links.append((x, lambda g, part=tuple(part): g[part]))  # type: ignore[misc]
        start += x.shape[axis]
    return _made(np.concatenate([x.value for x in xs], axis), np.concatenate([x.size for x in xs], axis), *links)


def softmax(x: Sized) -> Sized:
    """exp(x) over its sum along the last axis, in the form that can't overflow."""
    shifted = x.value - x.value.max(-1, keepdims=True)
    powers = np.exp(shifted)
    value = powers / powers.sum(-1, keepdims=True)
    # dy_i = y_i (dx_i - sum_j y_j dx_j); each x is rounded once more when the largest is taken off
    off = np.where(powers > 0, np.hypot(x.size, shifted), 0.0)
    size = value * np.sqrt(off**2 + ((value * off)**2).sum(-1, keepdims=True) + 1)
    y = Sized(value, size)

    def back(g: Sized) -> Sized:
        weighed = g * y
        return weighed - y * weighed.sum(-1).reshape(*y.shape[:-1], 1)

    return _made(value, size, (x, back))


def slopes(of: Sized, leaves: Mapping[str, Sized]) -> dict[str, Sized]:
    """The gradient of the number `of` () in each of `leaves`, with its size; 0 where nothing depends on it."""
    order: list[Sized] = []
    seen: set[int] = set()
    waiting: list[tuple[Sized, bool]] = [(of, False)]
    while waiting:  # parents come before what is made of them
        node, done = waiting.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            waiting += [(node, True), *((parent, False) for parent, _ in node.made_of)]
    found = {id(of): sized(1.0)}
    for node in reversed(order):
        for parent, back in node.made_of:
            part = back(found[id(node)])
            found[id(parent)] = found[id(parent)] + part if id(parent) in found else part
    return {name: found.get(id(one), sized(np.zeros(one.shape))) for name, one in leaves.items()}


def _root(*sizes: npt.ArrayLike) -> F64:
    """The root of the sum of squares: how independent roundings add."""
    return np.asarray(np.sqrt(sum(np.square(np.asarray(size, np.float64)) for size in sizes)))
