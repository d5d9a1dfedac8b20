"""Accuracy against nuisances, and error rates of groups: plots, and a page of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from metaface._text import printable
from metaface.evaluation.degradation import Level
from metaface.metrics.groups import RATES, GroupComparison, Rate
from metaface.metrics.intervals import Estimate
from metaface.report.page import write_page
from metaface.report.plots import COLOURS, chart, plain, svg

NAMES: dict[tuple[str, Rate], str] = {
    ("verification", "false_positive"): "FMR",
    ("verification", "false_negative"): "FNMR",
    ("identification", "false_positive"): "FPIR",
    ("identification", "false_negative"): "FNIR",
}
_STYLES = ("-", "--", ":")


def nuisance_curves(levels: Sequence[Level], chance: float | None = None) -> Markup:
    """Accuracy against severity, a line a nuisance, its 95% interval as a band."""
    figure, axes = chart("severity (0: as it is)", "accuracy, %")
    for i, name in enumerate(dict.fromkeys(level.nuisance for level in levels)):
        mine = [level for level in levels if level.nuisance == name]
        x = [level.severity for level in mine]
        y = 100 * np.array([level.accuracy for level in mine])
        half = 100 * np.array([level.ci95 for level in mine])
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
        axes.axhline(100 * chance, color="#999999", linewidth=0.8, linestyle=":", label="chance")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


def group_rates(slices: GroupComparison, which: Rate) -> Markup:
    """One error rate: a dot a group, the interval that decides (thin), and Clopper-Pearson's
    (thick); the line is everybody's."""
    name = NAMES[slices.kind, which]
    figure, axes = chart(f"{name} at the shared threshold, %", "")
    for y, group in enumerate(reversed(slices.groups)):
        errors = group.errors(which)
        if errors.trials:
            for ends, width in ((errors.rate, 1), (errors.exact, 3)):
                ends_percent = [100 * ends.low, 100 * ends.high]
                axes.plot(ends_percent, [y, y], color=COLOURS[0], linewidth=width)
            axes.plot(100 * errors.rate.value, y, "o", color=COLOURS[0])
    everybody = slices.overall.errors(which).rate.value
    if not np.isnan(everybody):
        axes.axvline(100 * everybody, color="#999999", linestyle=":", label="everybody")
        axes.legend(frameon=False)
    axes.set_yticks(range(len(slices.groups)), [plain(g.name) for g in reversed(slices.groups)])
    axes.set_ylim(-0.5, len(slices.groups) - 0.5)
    axes.set_xlim(left=0)
    return svg(figure)


def write_robustness(path: str | Path, title: str, levels: Sequence[Level], ways: int) -> None:
    """Write a page of accuracy against nuisances.

    Args:
        path: the HTML file; the plot is inside it, nothing is fetched.
        title: of the section, such as "LFW, 20-way 1-shot".
        levels: what :func:`metaface.evaluation.degradation` gives.
        ways: of the episodes, for the line of chance.
    """
    rows = []
    for level in levels:
        if level.severity == 0 and level is not levels[0]:
            continue
        name = (
            f"{level.nuisance} {level.severity} ({level.unit} {level.strength:g})"
            if level.severity
            else "as it is"
        )
        accuracy, half = level.accuracy, level.ci95
        rows.append(_row(name, Estimate(accuracy, accuracy - half, min(1.0, accuracy + half))))
    about = (
        f"The same {len(levels[0].accuracies)} episodes at every severity of every nuisance: "
        "differences are paired, and known better than the intervals of two accuracies suggest."
    )
    plots = [("Accuracy against severity", nuisance_curves(levels, 1 / ways))]
    _write(path, [{"title": title, "about": about, "rows": rows, "plots": plots}])


def write_slices(path: str | Path, found: Sequence[GroupComparison]) -> None:
    """Write a page of error rates by group, a section each."""
    _write(path, [_section(slices) for slices in found])


def slices_table(slices: GroupComparison) -> str:
    """The groups and their rates as lines of text."""
    names = [NAMES[slices.kind, which] for which in RATES]
    width = max(len(printable(g.name)) for g in (slices.overall, *slices.groups))
    lines = [f"{slices.kind} by {printable(slices.by)}, everybody's {names[0]} {slices.asked:g}"]
    for group in (slices.overall, *slices.groups):
        told = [
            f"{name} {group.errors(which).rate} of {group.errors(which).trials}"
            for name, which in zip(names, RATES, strict=True)
        ]
        title = printable(group.name).ljust(width)
        lines.append(f"  {title}  {group.people:>5} people  {'  '.join(told)}")
    for name, which in zip(names, RATES, strict=True):
        apart = "the groups differ" if slices.differs(which) else "no difference shown"
        lines.append(f"  {name}, worst group over best: {slices.ratio(which):.2f} ({apart})")
    return "\n".join(lines)


def _section(slices: GroupComparison) -> dict[str, Any]:
    names = [NAMES[slices.kind, which] for which in RATES]
    rows = [
        _row(f"{name}, {group.name} ({e.trials} counted, {group.people} people)", e.rate)
        for name, which in zip(names, RATES, strict=True)
        for group in (slices.overall, *slices.groups)
        if (e := group.errors(which)).trials
    ]
    ratios = "; ".join(
        f"{name}: {slices.ratio(which):.2f} times"
        + ("" if slices.differs(which) else ", which may be chance")
        for name, which in zip(names, RATES, strict=True)
    )
    about = (
        f"One threshold, {slices.threshold:.3f}, at which everybody has a {names[0]} of "
        f"{100 * slices.asked:g}%. The worst group's rate over the best one's, {ratios}."
    )
    plots = [
        (f"{name} by {slices.by}", group_rates(slices, which))
        for name, which in zip(names, RATES, strict=True)
    ]
    title = f"{slices.kind.capitalize()} by {slices.by}"
    return {"title": title, "about": about, "rows": rows, "plots": plots}


def _row(name: str, rate: Estimate) -> tuple[str, str, str]:
    value, low, high = (f"{100 * x:.2f}" for x in rate)
    return name, value, f"{low} to {high}"


def _write(path: str | Path, sections: list[dict[str, Any]]) -> None:
    write_page(path, "recognition.html", sections=sections)
