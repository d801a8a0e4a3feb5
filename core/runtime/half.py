"""Half precision at the borders of blocks (core.models.precision): what all backends share of it."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from core.common.half import HalfType
from core.config import Config
from core.models.graph import Graph
from core.models.precision import Border, Level, emulated, half_parameters

T = TypeVar("T")


class Half(ABC, Generic[T]):
    """Half precision on a device: really, or emulated.

    halves: the backend's dtypes; full: its float32; dtype: the half type; working: what blocks in half compute with.
    """

    halves: Mapping[HalfType, Any]
    full: Any

    def __init__(self, config: Config) -> None:
        self.level, self.kind, self.emulated = config.amp_level, config.amp_dtype, emulated(config.device)
        self.dtype = self.halves[self.kind]
        self.working = self.full if self.emulated else self.dtype

    @abstractmethod
    def cast(self, x: T, dtype: Any) -> T:
        """`x` in a dtype; `x` itself where it is in it. On the way back its gradient is cast to what `x` is in."""

    @abstractmethod
    def one(self) -> T:
        """A tensor () of `working`."""

    def enter(self, x: Any, half: bool, crossed: bool) -> Any:
        """An input of a block that computes in half or not."""
        if self.emulated:
            return self.leave(x) if crossed else x
        if half:
            return self.cast(x, self.dtype)
        return self.cast(x, self.full) if x.dtype == self.dtype else x

    def leave(self, y: T) -> T:
        """What a block in half gives; emulated, by a way to half and back."""
        return self.cast(self.cast(y, self.dtype), self.working)

    def gradient(self, slope: T) -> T:
        """That of a parameter of a block in half, as the block gives it."""
        return self.cast(slope, self.dtype)

    def observed(self) -> tuple[Level, HalfType, bool]:
        """Level, half type and whether it is emulated, as a tensor says that has crossed a border."""
        found: Any = self.cast(self.one(), self.dtype)
        return self.level, next(kind for kind, dtype in self.halves.items() if dtype == found.dtype), self.emulated


class Copies(ABC, Generic[T]):
    """What blocks in half work on, `tensors` by name: their parameters rounded to half. Adam steps those in float32."""

    tensors: Mapping[str, T]

    def __init__(self, graph: Graph, half: Half[T]) -> None:
        names = half_parameters(graph, half.level)
        self.parameters, self.half = [p for p in graph.parameters if p.name in names], half
        self.trained = [p.name for p in graph.trainable]

    @abstractmethod
    def refresh(self) -> None:
        """Round the parameters anew: after every step."""

    def gradients(self, slopes: Sequence[T]) -> list[T]:
        """Those of the trained parameters, as blocks in half give them: rounded to half."""
        return [self.half.gradient(slope) if name in self.tensors else slope
                for name, slope in zip(self.trained, slopes, strict=True)]


class Bordered(Generic[T]):
    """A block between its casts. Where the framework differentiates, the way back passes them too."""

    def __init__(self, block: Callable[..., T], border: Border, half: Half[T]) -> None:
        self.block: Any = block
        self.border, self.half = border, half

    def __call__(self, xs: Sequence[T], train: bool) -> T:
        return self.leave(self.block(self.enter(xs), train))

    def enter(self, xs: Sequence[T]) -> list[T]:
        """Its inputs. A mask, which comes last, has no cast."""
        own = [self.half.enter(x, self.border.half, crossed)
               for x, crossed in zip(xs, self.border.crossed, strict=False)]
        return [*own, *xs[len(own):]]

    def leave(self, y: T) -> T:
        """Its output."""
        return self.half.leave(y) if self.border.half else y
