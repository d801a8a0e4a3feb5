"""A sheet as Markdown, CSV and LaTeX."""
from __future__ import annotations

import re

import pandas

from core.studies.tables.frames import Sheet

MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", **{sign: f"\\{sign}" for sign in "\\|`*[]~$"}}
SYMBOLS = {"±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "\N{EN DASH}": "--", "≤": r"$\leq$"}
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
         "[": "{[}", "]": "{]}", **SYMBOLS}
PARAGRAPH = r">{{\raggedright\arraybackslash}}p{{{:.3f}\linewidth}}"
LONG = 20  # characters; a longer text gets more lines


def markdown(sheet: Sheet) -> str:
    """A title, the table, its legend."""
    frame = _escaped(sheet.shown, MARKDOWN)
    table = frame.to_markdown(index=False, disable_numparse=True) if len(frame) else ""
    legend = "\n".join(f"- {_replace(sentence, MARKDOWN)}" for sentence in sheet.legend)
    return f"# {sheet.title}\n\n{table}\n\n{legend}\n"


def csv_text(frame: pandas.DataFrame) -> str:
    """Numbers in full; an empty field where there is none."""
    return frame.to_csv(index=False)


def latex(sheet: Sheet) -> str:
    """A long table on landscape pages, to be \\input; the legend below it."""
    frame = _escaped(sheet.shown, LATEX)
    table = frame.to_latex(index=False, escape=False, longtable=True, column_format=_widths(sheet.shown),
                           caption=_replace(sheet.title, LATEX), label=f"tab:{sheet.name}") if len(frame) else ""
    legend = "\n\n".join(_replace(sentence, LATEX) for sentence in sheet.legend)
    return "\n".join([r"% needs \usepackage{booktabs,longtable,pdflscape,array}", r"\begin{landscape}",
                      r"\tiny\setlength{\tabcolsep}{2pt}", table, legend, r"\end{landscape}", ""])


def _widths(frame: pandas.DataFrame) -> str:
    """Ragged paragraphs that share the line by the length of their texts, and of the words that can't be broken."""
    weights = []
    for name in frame.columns:
        texts = [str(name), *frame[name]]
        weights.append(max([*(len(word) + 1 for text in texts for word in text.split()),
                            min(max(len(text) for text in texts[1:]), LONG)]))
    return "".join(PARAGRAPH.format(0.91 * weight / sum(weights)) for weight in weights)


def _escaped(frame: pandas.DataFrame, table: dict[str, str]) -> pandas.DataFrame:
    return frame.map(lambda text: _replace(text, table)).rename(columns=lambda name: _replace(name, table))


def _replace(text: str, table: dict[str, str]) -> str:
    """Every character by what stands for it, in one pass; line breaks become blanks."""
    return re.sub("[" + re.escape("".join(table)) + "]", lambda found: table[found[0]], " ".join(text.split()))
