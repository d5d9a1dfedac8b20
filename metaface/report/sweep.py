"""``sweep.html``: how sensitive each learner is to its hyper-parameters, as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from metaface.report.page import write_page
from metaface.report.plots import BLUE, COLOURS, GREY, RED, add_legend, chart, clean, plain, svg
from metaface.report.tables import Row, format_estimate

_COLUMNS = [
    "learner",
    "parameters",
    "accuracy, %",
    "by default, %",
    "trials",
    "stopped early",
    "failed",
    "minutes",
]
Rows = Sequence[Row]
"""Trials, as ``sweep.json`` has them."""


def write_sweep(path: str | Path, results: Mapping[str, Any]) -> None:
    """Write the page of a sweep.

    Args:
        path: the HTML file; plots are inside it, nothing is fetched.
        results: what ``sweep.json`` holds.
    """
    by_learner = _group_by_learner(results)
    write_page(
        path,
        "sweep.html",
        results=results,
        budget=_describe_budget(results["settings"]),
        lines=tabulate_sweep(results),
        spread=draw_spread(by_learner),
        learners=[
            (name, _draw_learner(rows, results["spaces"][name], results["importances"][name]))
            for name, rows in by_learner.items()
            if _complete(rows)
        ],
    )


def tabulate_sweep(results: Mapping[str, Any]) -> list[list[str]]:
    """The table: the header, and a line for each learner: what was chosen, its accuracy and that
    by default, numbers of trials, minutes.

    Example:
        >>> from metaface.report import tabulate_sweep
        >>> trial = {"learner": "maml", "state": "complete", "default": True, "seconds": 60.0}
        >>> trial |= {"parameters": {"inner_lr": 0.01}, "accuracy": 0.8, "ci95": 0.01}
        >>> results = {"spaces": {"maml": {}}, "trials": [trial], "best": {"maml": trial}}
        >>> header, line = tabulate_sweep(results)
        >>> list(zip(header, line))[:3]
        [('learner', 'maml'), ('parameters', 'inner_lr 0.01'), ('accuracy, %', '80.0 ± 1.0')]
    """
    lines = [_COLUMNS]
    for name, rows in _group_by_learner(results).items():
        best = results["best"].get(name)
        default = next((r for r in _complete(rows) if r["default"]), None)
        states = [r["state"] for r in rows]
        complete, pruned, failed = map(states.count, ("complete", "pruned", "failed"))
        lines.append(
            [
                name,
                ", ".join(f"{n} {v}" for n, v in best["parameters"].items()) if best else "-",
                _format_accuracy(best),
                _format_accuracy(default),
                str(complete + pruned + failed),
                str(pruned),
                str(failed),
                f"{sum(r['seconds'] or 0 for r in rows) / 60:.1f}",
            ]
        )
    return lines


def draw_spread(by_learner: Mapping[str, Rows]) -> Markup:
    """Accuracies of the completed trials, a column a learner; diamonds: its defaults."""
    figure, axes = chart("", "validation accuracy, %")
    for column, rows in enumerate(by_learner.values()):
        complete = _complete(rows)
        count = len(complete)
        shift = np.linspace(-0.2, 0.2, count) if count > 1 else np.zeros(count)
        colour = COLOURS[column % len(COLOURS)]
        _plot_points(axes, column + shift, complete, "o", colour, markersize=4, alpha=0.7)
        default = [r for r in complete if r["default"]]
        label = None if column else "defaults"
        _plot_default(axes, [column] * len(default), default, markersize=7, label=label)
    axes.set_xticks(range(len(by_learner)), [plain(name) for name in by_learner])
    axes.set_xlim(-0.6, len(by_learner) - 0.4)
    add_legend(axes)
    return svg(figure)


def draw_parameters(rows: Rows, space: Mapping[str, Any]) -> Markup:
    """Accuracy against each parameter, a small plot each; red: the best; diamond: the defaults.

    Args:
        rows: trials of a learner.
        space: by parameter its ``values``, or its ``low``, ``high`` and whether it is ``log``.
    """
    across = min(4, len(space))
    down = -(-len(space) // across)
    figure = Figure(figsize=(2.4 * across + 0.6, 2.4 * down + 0.2), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes, (name, values) in zip(grid.flat, space.items(), strict=False):
        _draw_parameter(axes, rows, name, values)
    for axes in list(grid.flat)[len(space) :]:
        axes.remove()
    for row in grid:
        row[0].set_ylabel("accuracy, %")
    return svg(figure)


def _draw_parameter(axes: Any, rows: Rows, name: str, values: Mapping[str, Any]) -> None:
    names = list(values.get("values", ()))

    def places(some: Rows) -> list[float]:
        of_each = [row["parameters"][name] for row in some]
        return [names.index(value) for value in of_each] if names else of_each

    complete = _complete(rows)
    stopped = [r for r in rows if r["state"] == "pruned" and r["accuracy"] is not None]
    best = [max(complete, key=lambda r: r["accuracy"])]
    for some, mark, colour in ((stopped, "x", GREY), (complete, "o", BLUE), (best, "o", RED)):
        _plot_points(axes, places(some), some, mark, colour, markersize=4, alpha=0.8)
    default = [r for r in complete if r["default"]]
    _plot_default(axes, places(default), default, markersize=8)
    if names:
        axes.set_xticks(range(len(names)), [plain(value) for value in names])
        axes.set_xlim(-0.5, len(names) - 0.5)
    elif values["log"]:
        low, high = values["low"], values["high"]
        axes.set_xscale("log")
        axes.set_xlim(low / 1.2, high * 1.2)
        if high / low <= 64:  # too few decades for powers of ten
            ticks = np.geomspace(low, high, 4)
            ticks = ticks.round() if isinstance(low, int) else ticks
            axes.set_xticks(ticks, [f"{t:.2g}" for t in ticks])
            axes.minorticks_off()
    axes.set_xlabel(plain(name))
    clean(axes)


def draw_importances(shares: Mapping[str, float]) -> Markup:
    """Each parameter's importance, the largest on top."""
    figure, axes = chart("importance (the sum is 1)", "")
    figure.set_size_inches(7.5, 0.6 + 0.4 * len(shares))
    order = sorted(shares, key=shares.__getitem__)
    axes.barh([plain(n) for n in order], [shares[n] for n in order], color=BLUE)
    return svg(figure)


def draw_best_so_far(rows: Rows) -> Markup:
    """The best accuracy after each trial, and every trial's own."""
    figure, axes = chart("trial", "validation accuracy, %")
    figure.set_size_inches(7.5, 3)
    complete = sorted(_complete(rows), key=lambda r: r["number"])
    numbers = [r["number"] + 1 for r in complete]
    own = np.array([100 * r["accuracy"] for r in complete])
    axes.errorbar(
        numbers,
        own,
        yerr=[100 * r["ci95"] for r in complete],
        fmt="o",
        color=BLUE,
        markersize=4,
        capsize=2,
        alpha=0.6,
        label="trial",
    )
    axes.step(numbers, np.maximum.accumulate(own), where="post", color=RED, label="best so far")
    axes.xaxis.get_major_locator().set_params(integer=True)
    add_legend(axes)
    return svg(figure)


def _draw_learner(
    rows: Rows, space: Mapping[str, Any], shares: Mapping[str, float]
) -> list[tuple[str, str, Markup]]:
    """Title, explanation and figure of each plot of a learner."""
    about = (
        "All parameters change at once, so a plot mixes their effects. Red: the best. "
        "Diamond: the defaults. Crosses: stopped early, at the best until then."
    )
    plots = [("Accuracy against each parameter", about, draw_parameters(rows, space))]
    if shares:
        about = (
            f"PED-ANOVA over {len(_complete(rows))} completed trials: what tells the best "
            "tenth from the rest. With fewer than about 50, a hint at most."
        )
        plots.append(("Importances", about, draw_importances(shares)))
    about = "Where the line is flat, more trials bring little."
    return [*plots, ("Best so far", about, draw_best_so_far(rows))]


def _plot_points(axes: Any, x: Any, rows: Rows, mark: str, color: str, **style: Any) -> None:
    axes.plot(x, [100 * r["accuracy"] for r in rows], mark, color=color, **style)


def _plot_default(axes: Any, x: Any, rows: Rows, **style: Any) -> None:
    _plot_points(axes, x, rows, "D", "black", fillstyle="none", **style)


def _group_by_learner(results: Mapping[str, Any]) -> dict[str, Rows]:
    trials = results["trials"]
    return {name: [r for r in trials if r["learner"] == name] for name in results["spaces"]}


def _complete(rows: Rows) -> Rows:
    return [r for r in rows if r["state"] == "complete"]


def _format_accuracy(row: Row | None) -> str:
    return "-" if row is None else format_estimate(row["accuracy"], row["ci95"])


def _describe_budget(settings: Mapping[str, Any]) -> str:
    names = {"iterations": "steps", "images": "photographs", "minutes": "minutes"}
    return ", ".join(f"{settings[n]} {word}" for n, word in names.items() if settings[n])
