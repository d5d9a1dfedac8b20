"""``sweep.html``: how sensitive each learner is to its hyper-parameters, as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from metaface.report.page import write_page
from metaface.report.plots import COLOURS, chart, plain, svg

BLUE, RED, GREEN = COLOURS[:3]
GREY = "#999999"
COLUMNS = (
    "learner",
    "parameters",
    "accuracy, %",
    "by default, %",
    "trials",
    "stopped early",
    "failed",
    "minutes",
)
Rows = Sequence[Mapping[str, Any]]


def write_sweep(path: str | Path, results: Mapping[str, Any]) -> None:
    """Write the page of a sweep.

    Args:
        path: the HTML file; plots are inside it, nothing is fetched.
        results: what ``sweep.json`` holds.
    """
    by_learner = {
        name: [r for r in results["trials"] if r["learner"] == name] for name in results["spaces"]
    }
    write_page(
        path,
        "sweep.html",
        results=results,
        budget=_budget(results["settings"]),
        columns=COLUMNS,
        lines=sweep_lines(results),
        spread=spread(by_learner),
        learners=[
            (name, _plots(rows, results["spaces"][name], results["importances"][name]))
            for name, rows in by_learner.items()
            if _complete(rows)
        ],
    )


def sweep_lines(results: Mapping[str, Any]) -> list[list[str]]:
    """A line of ``COLUMNS`` for each learner."""
    lines = []
    for name in results["spaces"]:
        rows = [r for r in results["trials"] if r["learner"] == name]
        best = results["best"].get(name)
        default = next((r for r in _complete(rows) if r["default"]), None)
        states = [r["state"] for r in rows]
        lines.append(
            [
                name,
                ", ".join(f"{n} {v}" for n, v in best["parameters"].items()) if best else "-",
                _accuracy(best),
                _accuracy(default),
                str(states.count("complete") + states.count("pruned") + states.count("failed")),
                str(states.count("pruned")),
                str(states.count("failed")),
                f"{sum(r['seconds'] or 0 for r in rows) / 60:.1f}",
            ]
        )
    return lines


def spread(by_learner: Mapping[str, Rows]) -> Markup:
    """Accuracies of the completed trials, a column a learner; diamonds: its defaults."""
    figure, axes = chart("", "validation accuracy, %")
    for column, rows in enumerate(by_learner.values()):
        found = _complete(rows)
        shift = np.linspace(-0.2, 0.2, len(found)) if len(found) > 1 else np.zeros(len(found))
        axes.plot(
            column + shift,
            [100 * r["accuracy"] for r in found],
            "o",
            markersize=4,
            alpha=0.7,
            color=COLOURS[column % len(COLOURS)],
        )
        default = [100 * r["accuracy"] for r in found if r["default"]]
        axes.plot(
            [column] * len(default),
            default,
            "D",
            color="black",
            markersize=7,
            fillstyle="none",
            label=None if column else "defaults",
        )
    axes.set_xticks(range(len(by_learner)), [plain(name) for name in by_learner])
    axes.set_xlim(-0.6, len(by_learner) - 0.4)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


def slices(rows: Rows, space: Mapping[str, Any]) -> Markup:
    """Accuracy against each parameter, a small plot each; red: the best; diamond: the defaults."""
    found = _complete(rows)
    stopped = [r for r in rows if r["state"] == "pruned" and r["accuracy"] is not None]
    best = max(found, key=lambda r: r["accuracy"])
    across = min(4, len(space))
    down = -(-len(space) // across)
    figure = Figure(figsize=(2.4 * across + 0.6, 2.4 * down + 0.2), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True)
    for axes, (name, values) in zip(grid.flat, space.items(), strict=False):
        names = list(values.get("values", ()))

        def place(row: Mapping[str, Any], name: str = name, names: list[str] = names) -> float:
            value = row["parameters"][name]
            return names.index(value) if names else value

        marks = [(stopped, "x", GREY), (found, "o", BLUE), ([best], "o", RED)]
        for some, mark, colour in marks:
            axes.plot(
                [place(r) for r in some],
                [100 * r["accuracy"] for r in some],
                mark,
                color=colour,
                markersize=4,
                alpha=0.8,
            )
        default = [r for r in found if r["default"]]
        axes.plot(
            [place(r) for r in default],
            [100 * r["accuracy"] for r in default],
            "D",
            color="black",
            markersize=8,
            fillstyle="none",
        )
        if names:
            axes.set_xticks(range(len(names)), [plain(name) for name in names])
            axes.set_xlim(-0.5, len(names) - 0.5)
        elif values["log"]:
            axes.set_xscale("log")
            axes.set_xlim(values["low"] / 1.2, values["high"] * 1.2)
            if values["high"] / values["low"] <= 64:  # too few decades for powers of ten
                ticks = np.geomspace(values["low"], values["high"], 4)
                ticks = ticks.round() if isinstance(values["low"], int) else ticks
                axes.set_xticks(ticks, [f"{t:.2g}" for t in ticks])
                axes.minorticks_off()
        axes.set_xlabel(plain(name))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    for axes in list(grid.flat)[len(space) :]:
        axes.remove()
    for row in grid:
        row[0].set_ylabel("accuracy, %")
    return svg(figure)


def importance_bars(shares: Mapping[str, float]) -> Markup:
    """Each parameter's importance, the largest on top."""
    figure, axes = chart("importance (the sum is 1)", "")
    figure.set_size_inches(7.5, 0.6 + 0.4 * len(shares))
    order = sorted(shares, key=shares.__getitem__)
    axes.barh([plain(n) for n in order], [shares[n] for n in order], color=BLUE)
    return svg(figure)


def best_so_far(rows: Rows) -> Markup:
    """The best accuracy after each trial, and every trial's own."""
    figure, axes = chart("trial", "validation accuracy, %")
    figure.set_size_inches(7.5, 3)
    found = sorted(_complete(rows), key=lambda r: r["number"])
    numbers = [r["number"] + 1 for r in found]
    own = np.array([100 * r["accuracy"] for r in found])
    axes.errorbar(
        numbers,
        own,
        yerr=[100 * r["ci95"] for r in found],
        fmt="o",
        color=BLUE,
        markersize=4,
        capsize=2,
        alpha=0.6,
        label="trial",
    )
    axes.step(numbers, np.maximum.accumulate(own), where="post", color=RED, label="best so far")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


def _plots(
    rows: Rows, space: Mapping[str, Any], shares: Mapping[str, float]
) -> list[tuple[str, str, Markup]]:
    found = [
        (
            "Accuracy against each parameter",
            "All parameters change at once, so a plot mixes their effects. Red: the best. "
            "Diamond: the defaults. Crosses: stopped early, at the best until then.",
            slices(rows, space),
        )
    ]
    if shares:
        found.append(
            (
                "Importances",
                f"PED-ANOVA over {len(_complete(rows))} completed trials: what tells the best "
                "tenth from the rest. With fewer than about 50, a hint at most.",
                importance_bars(shares),
            )
        )
    found.append(
        (
            "Best so far",
            "Where the line is flat, more trials bring little.",
            best_so_far(rows),
        )
    )
    return found


def _complete(rows: Rows) -> Rows:
    return [r for r in rows if r["state"] == "complete"]


def _accuracy(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else f"{100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f}"


def _budget(settings: Mapping[str, Any]) -> str:
    names = {"iterations": "steps", "images": "photographs", "minutes": "minutes"}
    return ", ".join(f"{settings[n]} {word}" for n, word in names.items() if settings[n])
