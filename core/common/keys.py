"""What every schema of keys is made of: the base class, the types of values, and the grid that a search tries."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationInfo, field_validator

Width = Annotated[int, Field(ge=1, le=65536)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=10)]


class Keys(BaseModel):
    """Keys with their types, bounds, defaults and descriptions. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @property
    def idle(self) -> frozenset[str]:
        """Keys that change nothing beside the values of the others. A search doesn't draw them."""
        return frozenset()

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` as true, and pydantic true as 1."""
        if isinstance(value, bool) and cls.model_fields[info.field_name or ""].annotation is not bool:
            raise ValueError("is a truth value, which this key doesn't take")
        return value


class OneOf:
    """In the annotation of a key: its value is one of `names`, which are known when the program runs."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return handler.generate_schema(Literal[tuple(self.names)])


def searched(*choices: float | str) -> dict[str, Any]:
    """What `python -m core.search` tries for a key: the original's grid. A data set may have its own."""
    return {"search": list(choices)}


def split_names(value: Any) -> Any:
    """Flags say `audio,video`; YAML may say that or a list."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value
