"""The live table of a comparison: a row per rung and precision, a column per backend."""
from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

Row = tuple[str, str]  # precision, rung
DIFFERS = Text("differs", style="red")


class Board:
    """Texts by backend and row, shown anew at each change."""

    def __init__(self, console: Console, backends: Sequence[str], precisions: Sequence[str],
                 rungs: Sequence[str]) -> None:
        rows = [(precision, rung) for precision in precisions for rung in rungs]
        self.cells: dict[str, dict[Row, str | Text]] = {name: dict.fromkeys(rows, "") for name in backends}
        self.live = Live(self.table(), console=console, refresh_per_second=4)

    def table(self) -> Table:
        """As it stands."""
        table = Table("precision", "rung", *self.cells)
        for row in next(iter(self.cells.values())):
            table.add_row(*row, *(cells[row] for cells in self.cells.values()))
        return table

    def put(self, backend: str, precision: str, rung: str, text: str | Text) -> None:
        """Write one cell."""
        self.cells[backend][precision, rung] = text
        self.live.update(self.table())
