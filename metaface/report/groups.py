"""Error rates of groups of people: lines of text, plots, and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from metaface._text import printable
from metaface.metrics.groups import RATES, GroupComparison, Rate
from metaface.report.plots import BLUE, GREY, chart, plain, svg
from metaface.report.recognition import Section, format_rate, write_sections

_NAMES: dict[tuple[str, Rate], str] = {
    ("verification", "false_positive"): "FMR",
    ("verification", "false_negative"): "FNMR",
    ("identification", "false_positive"): "FPIR",
    ("identification", "false_negative"): "FNIR",
}


def write_slices(path: str | Path, results: Sequence[GroupComparison]) -> None:
    """Write a page of error rates by group, a section each.

    Args:
        path: the HTML file; plots are inside it, nothing is fetched.
        results: one a section.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import verify_by_group
        >>> from metaface.report import write_slices
        >>> random = np.random.default_rng(0)
        >>> person = np.repeat(np.arange(100), 3)
        >>> faces = random.normal(size=(100, 32))[person] + random.normal(size=(300, 32)) / 2
        >>> faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        >>> slices = verify_by_group(faces, person, np.where(person < 50, "young", "old"), by="age")
        >>> write_slices("slices.html", [slices])
    """
    write_sections(path, [_describe(slices) for slices in results])


def format_slices(slices: GroupComparison) -> str:
    """The groups and their rates as lines of text.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import verify_by_group
        >>> from metaface.report import format_slices
        >>> random = np.random.default_rng(0)
        >>> person = np.repeat(np.arange(100), 3)
        >>> faces = random.normal(size=(100, 32))[person] + random.normal(size=(300, 32)) / 2
        >>> faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        >>> slices = verify_by_group(faces, person, np.where(person < 50, "young", "old"), by="age")
        >>> for line in format_slices(slices).splitlines()[:4]:
        ...     print(line[:42])
        verification by age, everybody's FMR 0.01
          everybody    100 people  FMR 0.010 [0.00
          old           50 people  FMR 0.010 [0.00
          young         50 people  FMR 0.009 [0.00
    """
    names = _names(slices)
    groups = (slices.overall, *slices.groups)
    width = max(len(printable(group.name)) for group in groups)
    asked = f"everybody's {names['false_positive']} {slices.asked:g}"
    lines = [f"{slices.kind} by {printable(slices.by)}, {asked}"]
    for group in groups:
        rates = "  ".join(
            f"{name} {group.errors(which).rate} of {group.errors(which).trials}"
            for which, name in names.items()
        )
        title = printable(group.name).ljust(width)
        lines.append(f"  {title}  {group.people:>5} people  {rates}")
    for which, name in names.items():
        apart = "the groups differ" if slices.differs(which) else "no difference shown"
        lines.append(f"  {name}, worst group over best: {slices.ratio(which):.2f} ({apart})")
    return "\n".join(lines)


def draw_group_rates(slices: GroupComparison, which: Rate) -> Markup:
    """One error rate: a dot a group, the interval that decides (thin), and Clopper-Pearson's
    (thick); the line is everybody's."""
    figure, axes = chart(f"{_names(slices)[which]} at the shared threshold, %", "")
    for y, group in enumerate(reversed(slices.groups)):
        errors = group.errors(which)
        if errors.trials:
            for ends, width in ((errors.rate, 1), (errors.exact, 3)):
                axes.plot([100 * ends.low, 100 * ends.high], [y, y], color=BLUE, linewidth=width)
            axes.plot(100 * errors.rate.value, y, "o", color=BLUE)
    everybody = slices.overall.errors(which).rate.value
    if not np.isnan(everybody):
        axes.axvline(100 * everybody, color=GREY, linestyle=":", label="everybody")
        axes.legend(frameon=False)
    axes.set_yticks(range(len(slices.groups)), [plain(g.name) for g in reversed(slices.groups)])
    axes.set_ylim(-0.5, len(slices.groups) - 0.5)
    axes.set_xlim(left=0)
    return svg(figure)


def _names(slices: GroupComparison) -> dict[Rate, str]:
    return {which: _NAMES[slices.kind, which] for which in RATES}


def _describe(slices: GroupComparison) -> Section:
    names = _names(slices)
    ratios = "; ".join(
        f"{name}: {slices.ratio(which):.2f} times"
        + ("" if slices.differs(which) else ", which may be chance")
        for which, name in names.items()
    )
    return {
        "title": f"{slices.kind.capitalize()} by {slices.by}",
        "about": (
            f"One threshold, {slices.threshold:.3f}, at which everybody has a "
            f"{names['false_positive']} of {100 * slices.asked:g}%. The worst group's rate over "
            f"the best one's, {ratios}."
        ),
        "rows": [
            format_rate(f"{name}, {g.name} ({e.trials} counted, {g.people} people)", e.rate)
            for which, name in names.items()
            for g in (slices.overall, *slices.groups)
            if (e := g.errors(which)).trials
        ],
        "plots": {
            f"{name} by {slices.by}": draw_group_rates(slices, which)
            for which, name in names.items()
        },
    }
