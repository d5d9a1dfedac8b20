"""Accuracy against nuisances: a plot, and a page of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from metaface.metrics.intervals import Estimate
from metaface.report.plots import COLOURS, GREY, add_legend, chart, plain, svg
from metaface.report.recognition import format_rate, write_sections
from metaface.report.tables import Row

_STYLES = ("-", "--", ":")


def write_robustness(path: str | Path, title: str, rows: Sequence[Row], ways: int) -> None:
    """Write a page of accuracy against nuisances.

    Args:
        path: the HTML file; the plot is inside it, nothing is fetched.
        title: of the section, such as "LFW, 20-way 1-shot".
        rows: what ``results.json`` of ``metaface robustness`` holds of each nuisance and severity.
        ways: of the episodes, for the line of chance.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=8, photos=6, progress=False)
        >>> learner = mf.learners.Prototypical(mf.nets.Pixels())
        >>> levels = mf.evaluation.robustness(
        ...     learner, faces, nuisances=["blur"], episodes=10, progress=False
        ... )
        >>> rows = [level.row() for level in levels]
        >>> mf.report.write_robustness("robustness.html", "5-way 1-shot", rows, ways=5)
    """
    lines = []
    for row in rows:
        if row["severity"] == 0 and row is not rows[0]:
            continue
        name = "as it is"
        if row["severity"]:
            strength = f"{row['unit']} {row['strength']:g}"
            name = f"{row['nuisance']} {row['severity']} ({strength})"
        accuracy, half = row["accuracy"], row["ci95"]
        lines.append(
            format_rate(name, Estimate(accuracy, accuracy - half, min(1.0, accuracy + half)))
        )
    about = (
        f"The same {rows[0]['episodes']} episodes at every severity of every nuisance: "
        "differences are paired, and known better than the intervals of two accuracies suggest."
    )
    plots = {"Accuracy against severity": draw_nuisances(rows, 1 / ways)}
    write_sections(path, [{"title": title, "about": about, "rows": lines, "plots": plots}])


def draw_nuisances(rows: Sequence[Row], chance: float | None = None) -> Markup:
    """Accuracy against severity, a line a nuisance, its 95% interval as a band."""
    figure, axes = chart("severity (0: as it is)", "accuracy, %")
    for i, name in enumerate(dict.fromkeys(row["nuisance"] for row in rows)):
        mine = [row for row in rows if row["nuisance"] == name]
        x = [row["severity"] for row in mine]
        y = 100 * np.array([row["accuracy"] for row in mine])
        half = 100 * np.array([row["ci95"] for row in mine])
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(
            x,
            y,
            color=colour,
            marker="o",
            markersize=3,
            label=plain(name),
            linestyle=_STYLES[i // len(COLOURS) % len(_STYLES)],
        )
        axes.fill_between(x, y - half, y + half, color=colour, alpha=0.15, linewidth=0)
    if chance is not None:
        axes.axhline(100 * chance, color=GREY, linewidth=0.8, linestyle=":", label="chance")
    add_legend(axes)
    return svg(figure)
