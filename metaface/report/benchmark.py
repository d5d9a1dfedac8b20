"""The comparison of learners: a table, plots, one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from metaface.report.page import inline, write_page
from metaface.report.pictures import GridRow, draw_grid
from metaface.report.plots import COLOURS, LINES, add_legend, chart, plain, svg
from metaface.report.tables import Row, format_estimate, format_table, group_by_task

FLOORS = {"pixels": "#bbbbbb", "untrained": "#888888", "start": "#444444", "pretrained": "#000000"}
"""What a learner has to beat, and the grey that it is drawn in."""
_COLUMNS = (
    ("learner", "learner", "{}"),
    ("ways", "way", "{}"),
    ("shots", "shot", "{}"),
    ("accuracy", "accuracy %", "{}"),
    ("f1", "F1 %", "{:.1f}"),
    ("train_seconds", "train s", "{:.0f}"),
    ("train_images", "images seen", "{:,}"),
    ("adapt_ms", "adapt ms/task", "{:.1f}"),
    ("peak_mb", "peak MB", "{:.0f}"),
    ("parameters", "parameters", "{:,}"),
    ("norm", "norm", "{}"),
)
_TITLES = [title for _, title, _ in _COLUMNS]


def format_benchmark(rows: Sequence[Row]) -> str:
    """Rows of ``results.json`` as text, best first within each way and shot.

    Example:
        >>> from metaface.report import format_benchmark
        >>> row = {"learner": "maml", "ways": 5, "shots": 1, "accuracy": 0.718, "ci95": 0.007}
        >>> row |= {"f1": 0.7, "train_seconds": 36, "train_images": 9600, "adapt_ms": 4.2}
        >>> row |= {"peak_mb": 800, "parameters": 113088, "norm": "group", "transductive": False}
        >>> for line in format_benchmark([row]).splitlines():
        ...     print(line[:36])
        learner  way  shot  accuracy %  F1 %
        -------  ---  ----  ----------  ----
        maml       5     1  71.8 ± 0.7  70.0
    """
    tables = [_table(mine) for _, mine in group_by_task(rows)]
    cells = [_TITLES, *(line for table in tables for line in table)]
    header, rule, *lines = format_table(cells, rule=True).splitlines()
    text = iter(lines)
    blocks = ["\n".join(islice(text, len(table))) for table in tables]
    return "\n".join([header, rule, "\n\n".join(blocks)])


def write_benchmark(
    path: str | Path,
    results: Mapping[str, Any],
    task: Sequence[GridRow],
    photos: Mapping[str, GridRow],
) -> None:
    """Write the page of a benchmark.

    Args:
        path: the HTML file; pictures are inside it, nothing is fetched.
        results: what ``results.json`` holds.
        task: a test task to show, a row a person.
        photos: by the name of each test person in ``results["confusions"]``, some photographs.
    """
    rows = results["rows"]
    ways, shots = results["settings"]["ways"][0], results["settings"]["shots"][0]
    first = [r for r in rows if (r["ways"], r["shots"]) == (ways, shots)]
    best = max((r for r in first if r["train_images"]), key=lambda r: r["accuracy"], default=None)
    confusions = results["confusions"].get(best["learner"], []) if best else []
    write_page(
        path,
        "benchmark.html",
        results=results,
        groups=[(title, [_TITLES, *_table(mine)]) for title, mine in group_by_task(rows)],
        recipes=_recipes(first),
        differences=_differences(results["differences"], _best_first(first)),
        ways=ways,
        shots=shots,
        plots=[
            (f"Learning curves ({_name_validation(results)})", draw_curves(results["curves"])),
            ("Accuracy by shot", draw_by_shot(rows)),
            ("Accuracy against cost", draw_cost(first)),
        ],
        episode=inline(draw_grid(task)),
        best=best,
        confusions=[
            (c, inline(draw_grid([photos[c["person"]], photos[c["taken_for"]]])))
            for c in confusions[:6]
        ],
    )


def draw_curves(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> Markup:
    """Validation accuracy against training time, a line a training.

    Args:
        curves: rows of ``seconds`` and ``val_accuracy``, by learner and seed: ``maml-0``.
    """
    figure, axes = chart("training time, s", "validation accuracy, %")
    names = sorted({key.rsplit("-", 1)[0] for key in curves})
    shown = set()  # a learner has one entry in the legend, at its first seed
    for key, rows in sorted(curves.items(), key=lambda item: item[0].rsplit("-", 1)[1]):
        name = key.rsplit("-", 1)[0]
        points = [r for r in rows if "val_accuracy" in r]
        axes.plot(
            [r["seconds"] for r in points],
            [100 * r["val_accuracy"] for r in points],
            color=COLOURS[names.index(name) % len(COLOURS)],
            linestyle=LINES[names.index(name) // len(COLOURS) % len(LINES)],
            marker="o",
            markersize=3,
            label=None if name in shown else plain(name),
        )
        shown.add(name)
    if curves:
        add_legend(axes)
    return svg(figure)


def draw_by_shot(rows: Sequence[Row]) -> Markup:
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
    add_legend(axes)
    return svg(figure)


def draw_cost(rows: Sequence[Row]) -> Markup:
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
    add_legend(axes)
    return svg(figure)


def _best_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -row["accuracy"])


def _table(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of ``_COLUMNS``, the best row first."""
    return [_cells(row) for row in _best_first(rows)]


def _cells(row: Row) -> list[str]:
    shown = dict(row)
    shown["accuracy"] = format_estimate(row["accuracy"], row["ci95"])
    shown["f1"] = 100 * row["f1"]
    if row["transductive"]:
        shown["norm"] = f"{row['norm']} (transductive)"
    return [
        "" if shown[key] is None else template.format(shown[key]) for key, _, template in _COLUMNS
    ]


def _name_validation(results: Mapping[str, Any]) -> str:
    """What tasks the learning curves were measured on."""
    rows = (row for curve in results["curves"].values() for row in curve)
    tasks = sorted({(r["val_ways"], r["val_shots"]) for r in rows if "val_ways" in r})
    return ", ".join(["validation people", *(f"{way}-way {shot}-shot" for way, shot in tasks)])


def _recipes(rows: Sequence[Row]) -> list[list[str]]:
    """The table of how each learner was trained."""
    columns = {
        "ways": "way",
        "shots": "shot",
        "queries": "queries",
        "meta_batch": "tasks a step",
        "optimizer": "outer optimiser",
        "lr": "outer rate",
        "schedule": "schedule",
    }
    lines = [["learner", *columns.values(), "steps"]]
    for row in rows:
        if recipe := row.get("recipe"):
            cells = (row["learner"], *(recipe[name] for name in columns), row["train_iterations"])
            lines.append([str(cell) for cell in cells])
    return lines


def _differences(rows: Sequence[Row], learners: Sequence[Row]) -> list[list[str]]:
    """The table of paired differences, row minus column, in points."""
    names = [row["learner"] for row in learners]
    task = learners[0]["ways"], learners[0]["shots"]
    cells: dict[tuple[str, str], str] = {}
    for d in rows:
        if (d["ways"], d["shots"]) == task:
            for row, column, sign in ((d["a"], d["b"], 1), (d["b"], d["a"], -1)):
                difference = format_estimate(sign * d["difference"], d["ci95"], sign="+")
                cells[row, column] = difference
    return [["", *names], *([row, *(cells.get((row, c), "") for c in names)] for row in names)]


def _colour(name: str, names: Sequence[str]) -> str:
    trained = sorted(n for n in names if n not in FLOORS)
    return FLOORS[name] if name in FLOORS else COLOURS[trained.index(name) % len(COLOURS)]
