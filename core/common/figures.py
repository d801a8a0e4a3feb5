"""Figures for reports: inline SVG of matplotlib, and one colour per backend."""
from __future__ import annotations

import io
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = {"torch": "#d1495b", "mindspore": "#2f6690", "paddle": "#3a7d44"}
# Text stays text, which is smaller and can be searched. Neither ids nor bytes change from one call to the next.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "lmf"}


def inline_svg(figure: Any) -> str:
    """The figure as an <svg> element, and closed."""
    text = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    return text.getvalue()[text.getvalue().index("<svg"):]


def plain(text: str) -> str:
    """`text` for a figure, where matplotlib would read `$` as the beginning of a formula."""
    return text.replace("$", r"\$")
