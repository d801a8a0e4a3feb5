"""Records that this project wrote and reads again, as JSON: each is checked against what was written there."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from core.common.errors import UserError
from core.common.files import read_bounded
from core.common.text import shown

T = TypeVar("T")
MOST_BYTES = 1 << 28  # the plan of 100,000 jobs has a tenth of it


def read_record(path: Path, schema: TypeAdapter[T], way_out: str) -> T:
    """What the JSON file `path` holds, as `schema` says.

    Raises UserError naming the file, the key and the value where it can't be read, is no JSON or holds something else.
    """
    return check_record(read_json(path, way_out), schema, str(path), way_out)


def read_json(path: Path, way_out: str) -> Any:
    """Any JSON. Raises UserError naming the file where it can't be read or is none."""
    try:
        raw = read_bounded(path, MOST_BYTES)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}); {way_out}") from error
    return parse_json(raw, str(path), way_out)


def parse_json(raw: bytes | str, where: str, way_out: str) -> Any:
    """Any JSON but NaN and infinities, for which it has no word. Raises UserError beginning with `where`."""
    try:
        return json.loads(raw, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:  # garbage, an integer of 5000 digits, brackets without end
        raise UserError(f"{where}: can't be read, it is not JSON ({error}); {way_out}") from error


def check_record(value: Any, schema: TypeAdapter[T], where: str, way_out: str) -> T:
    """`value` as `schema` says. Raises UserError beginning with `where` and naming the first key that isn't."""
    try:
        return schema.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "all of it"
        found = "" if first["type"] == "missing" else f" = {shown(first['input'], 80)}"
        reason = first["msg"].replace("Input should", "should")
        raise UserError(f"{where}: isn't what was written there ({key}{found}: {reason}); {way_out}") from error


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")
