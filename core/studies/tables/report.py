"""From a folder of runs to its tables: Markdown, CSV, LaTeX and one HTML file with figures.

    python -m core.tables.report OUTPUT     make them anew, from whatever is finished
"""
from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader

from core.common.errors import UserError
from core.common.files import write_text
from core.common.guard import guarded
from core.common.text import say
from core.data.tables import TABLES
from core.studies.tables.assemble import build_tables
from core.studies.tables.differences import compare_settings, summed
from core.studies.tables.equivalence import compare_backends
from core.studies.tables.figures import Figure, draw
from core.studies.tables.frames import Sheet, differences_sheet, equivalence_sheet, gap_text, table_sheet
from core.studies.tables.render import csv_text, latex, markdown
from core.studies.tables.results import Entry, load_entries

MOST_TOLD = 24  # differences in a terminal
WORDS = {"system", "cell", *(spec.cell for spec in TABLES.values()), "backend", "metric", "data", "remarks", "seeds",
         "verdict", "backends", "base"}


def write_tables(output: Path) -> list[Path]:
    """Write every planned table of `output` from its finished runs; returns the files.

    Raises UserError when there is no plan, or a finished run can't be read.
    """
    entries = load_entries(output)
    tables, gaps = build_tables(entries), compare_settings(entries)
    sheets = [*(table_sheet(table) for table in tables), *([differences_sheet(gaps)] if gaps else []),
              equivalence_sheet(compare_backends(entries))]
    figures = {table.key: draw(table, entries) for table in tables}
    written = []
    for sheet in sheets:
        texts = {".md": markdown(sheet), ".csv": csv_text(sheet.tidy), ".tex": latex(sheet)}
        if sheet.systems is not None:
            texts["_systems.csv"] = csv_text(sheet.systems)
        for ending, text in texts.items():
            written.append(output / f"{sheet.name}{ending}")
            write_text(written[-1], text)
    written.append(output / "report.html")
    write_text(written[-1], _page(output, sheets, figures, entries))
    return written


def told(output: Path) -> list[str]:
    """What the terminal says of settings side by side: each difference, or of many only how many there are of which."""
    gaps = compare_settings(load_entries(output))
    return [*(map(gap_text, gaps) if len(gaps) <= MOST_TOLD else ()), *([f"{summed(gaps)}"] if gaps else ())]


def _page(output: Path, sheets: Sequence[Sheet], figures: Mapping[str, list[Figure]], entries: Sequence[Entry]) -> str:
    """One self-contained file: figures are inline SVG, nothing is fetched."""
    pages = Environment(loader=PackageLoader("core.studies.tables", "."), autoescape=True)
    template = pages.get_template("report.html.j2")
    planned = {entry.job.run: entry for entry in entries}
    versions = {(entry.job.backend, ", ".join(f"{name} {version}" for name, version in entry.run.versions.items()))
                for entry in entries if entry.run}
    return template.render(
        name=output.name, sheets=sheets, figures={**dict.fromkeys((s.name for s in sheets), ()), **figures},
        numeric={sheet.name: [name not in WORDS for name in sheet.shown.columns] for sheet in sheets},
        planned=len(planned), finished=sum(entry.run is not None for entry in planned.values()),
        versions=sorted(versions))


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit codes as those of every command."""
    arguments = sys.argv[1:] if argv is None else list(argv)

    def run() -> None:
        folders = [argument for argument in arguments if argument != "--debug"]
        if len(folders) != 1 or folders[0].startswith("-"):
            raise UserError(f"expected one folder, found {' '.join(folders) or 'nothing'}; "
                            "usage: python -m core.tables.report OUTPUT")
        for path in write_tables(Path(folders[0])):
            say(f"wrote {path}")

    return guarded(arguments, run)
