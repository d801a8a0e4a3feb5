"""The Ascend port's parameter file: a CSV without a header, a row per emotion, eleven numbers in each."""
from __future__ import annotations

import csv
import math
from pathlib import Path

from core.common.errors import UserError
from core.common.files import read_bounded
from core.common.text import shown

ROWS = ("angry", "sad", "happy", "neutral")
COLUMNS = ("audio_hidden", "video_hidden", "text_hidden", "audio_dropout", "video_dropout", "text_dropout",
           "factor_learning_rate", "learning_rate", "rank", "batch_size", "weight_decay")
EMOTION = "neutral"  # the port's, where none is named
MOST_BYTES = 10_000


def read_parameters(path: Path) -> dict[str, dict[str, float]]:
    """Emotion -> key -> number, as the file says it; the schema validates the values.

    Empty lines don't count. Raises UserError naming file, row and column for anything that isn't such a file: with a
    row more or less, every emotion would get another's numbers.
    """
    try:
        lines = read_bounded(path, MOST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--para_path {path}: can't be read ({reason}); give a CSV of {_expected()}") from error
    rows = [row for row in csv.reader(lines) if any(field.strip() for field in row)]
    numbers = [[_number(path, row, column, text) for column, text in enumerate(fields)]
               for row, fields in enumerate(rows, 1)]
    for row, found in enumerate(numbers, 1):
        if len(found) != len(COLUMNS):
            raise UserError(f"--para_path {path}: row {row} has {len(found)} columns, expected {_expected()}")
    if len(numbers) != len(ROWS):
        raise UserError(f"--para_path {path}: has {len(numbers)} rows, expected {_expected()}")
    return {emotion: dict(zip(COLUMNS, found, strict=True)) for emotion, found in zip(ROWS, numbers, strict=True)}


def _number(path: Path, row: int, column: int, text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        called = COLUMNS[column] if column < len(COLUMNS) else "one too many"
        raise UserError(f"--para_path {path}: row {row}, column {column + 1} ({called}) is {shown(text)}, expected a "
                        f"number, and no header: {_expected()}")
    return int(found) if found.is_integer() else found


def _expected() -> str:
    return f"{len(ROWS)} rows ({', '.join(ROWS)}) of {len(COLUMNS)} numbers ({', '.join(COLUMNS)})"
