"""Figures of one style, as SVG."""

from __future__ import annotations

import io
import warnings
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text

from metaface._letters import in_first
from metaface._text import printable

COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999",
)  # fmt: skip  # Okabe & Ito's: told apart by everybody
BLUE, RED, GREEN = COLOURS[:3]
GREY = "#999999"
LINES = ("-", "--", ":")  # of one colour, where there are more lines than colours
_LEGEND_LINE = 0.22  # inches


def chart(x: str, y: str) -> tuple[Figure, Any]:
    """An empty figure with the names of its axes, and those axes."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    clean(axes)
    return figure, axes


def clean(axes: Any) -> None:
    """Leave out the frame's upper and right side, and show a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def add_legend(axes: Any) -> None:
    """A legend at the right of the axes, whose figure becomes as high as it needs."""
    legend = axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    width, height = axes.figure.get_size_inches()
    lines = len(legend.get_texts())
    axes.figure.set_size_inches(width, max(height, 0.5 + _LEGEND_LINE * lines))


def plain(text: str) -> str:
    """A name from outside, so that matplotlib shows it letter by letter: it would take dollars for
    mathematics, and leave a name that begins with _ out of a legend."""
    shown = printable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def svg(figure: Figure) -> Markup:
    """The figure as an ``<svg>`` element.

    Its letters are outlines, which look alike everywhere; where matplotlib's font lacks some, they
    stay letters, for the fonts of whoever reads the page.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.draw_without_rendering()  # which makes the labels of ticks
        lacking = not all(in_first(text.get_text()) for text in figure.findobj(Text))
        with matplotlib.rc_context({"svg.fonttype": "none" if lacking else "path"}):
            figure.savefig(buffer, format="svg")
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
