"""Plots of a benchmark, as SVG text."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from metaface._letters import in_first
from metaface._text import printable

FLOORS = ("pixels", "untrained", "start", "pretrained")
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999",
)  # fmt: skip  # Okabe & Ito's: told apart by everybody


def curves(found: Mapping[str, Sequence[Mapping[str, float]]]) -> Markup:
    """Validation accuracy against training time; one line a learner and seed."""
    figure, axes = chart("training time, s", "validation accuracy, %")
    names = sorted({key.rsplit("-", 1)[0] for key in found})
    for key, rows in found.items():
        name = key.rsplit("-", 1)[0]
        points = [r for r in rows if "val_accuracy" in r]
        axes.plot(
            [r["seconds"] for r in points],
            [100 * r["val_accuracy"] for r in points],
            color=COLOURS[names.index(name) % len(COLOURS)],
            marker="o",
            markersize=3,
            label=plain(name) if key.endswith(f"-{_first_seed(found, name)}") else None,
        )
    if found:
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


def by_shot(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Bars of accuracy with intervals: a group for each way and shot, a bar for each learner."""
    groups = sorted({(r["ways"], r["shots"]) for r in rows})
    names = list(dict.fromkeys(r["learner"] for r in rows))
    figure, axes = chart("", "accuracy, %")
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        mine = {(r["ways"], r["shots"]): r for r in rows if r["learner"] == name}
        axes.bar(
            [g + (i - len(names) / 2 + 0.5) * width for g in range(len(groups))],
            [100 * mine[g]["accuracy"] for g in groups],
            width,
            yerr=[100 * (mine[g]["ci95"] or 0) for g in groups],
            label=plain(name),
            color=_colour(name, names),
            capsize=2,
        )
    axes.set_xticks(range(len(groups)), [f"{w}-way {s}-shot" for w, s in groups])
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


def cost(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy against the time to adapt to a task, on a logarithmic scale."""
    figure, axes = chart("time to adapt to a task and answer, ms", "accuracy, %")
    names = [r["learner"] for r in rows]
    for row in rows:
        axes.errorbar(
            row["adapt_ms"],
            100 * row["accuracy"],
            yerr=100 * (row["ci95"] or 0),
            fmt="o",
            capsize=2,
            color=_colour(row["learner"], names),
            label=plain(row["learner"]),
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


def _first_seed(found: Mapping[str, Any], name: str) -> str:
    return min(k.rsplit("-", 1)[1] for k in found if k.rsplit("-", 1)[0] == name)


def _colour(name: str, names: Sequence[str]) -> str:
    if name in FLOORS:
        return ("#bbbbbb", "#888888", "#444444", "#000000")[FLOORS.index(name)]
    trained = sorted(n for n in names if n not in FLOORS)
    return COLOURS[trained.index(name) % len(COLOURS)]


def chart(x: str, y: str) -> tuple[Figure, Any]:
    """An empty figure with the names of its axes, and those axes."""
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


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
