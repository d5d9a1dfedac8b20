"""The domain matrix as a table, heat maps and one page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from metaface.report.page import inline, write_page
from metaface.report.pictures import GridRow, draw_grid
from metaface.report.plots import plain, svg
from metaface.report.tables import Row, format_estimate, format_table, group_by_task


def write_cross_domain(
    path: str | Path, results: Mapping[str, Any], photos: Sequence[GridRow]
) -> None:
    """Write the page of a domain matrix.

    Args:
        path: the HTML file; pictures are inside it, nothing is fetched.
        results: what ``results.json`` of ``metaface cross-domain`` holds.
        photos: some photographs of each domain's test people.
    """
    rows = results["rows"]
    write_page(
        path,
        "cross_domain.html",
        results=results,
        sections=[
            (title, [(name, draw_heat_map(r), _drops(r)) for name, r in _by_learner(mine)])
            for title, mine in group_by_task(rows)
        ],
        everything=_table(rows),
        faces=inline(draw_grid(photos)),
    )


def draw_heat_map(rows: Sequence[Row]) -> Markup:
    """Accuracy of one learner at one way and shot: train domains down, test domains across."""
    trains, tests = _names(rows, "train"), _names(rows, "test")
    values = np.full((len(trains), len(tests)), np.nan)
    for row in rows:
        values[trains.index(row["train"]), tests.index(row["test"])] = 100 * row["accuracy"]
    figure = Figure(
        figsize=(2.6 + 1.15 * len(tests), 1.1 + 0.5 * len(trains)), layout="constrained"
    )
    axes = figure.subplots()
    low, high = np.nanmin(values), np.nanmax(values)
    axes.imshow(values, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    for row in rows:
        y, x = trains.index(row["train"]), tests.index(row["test"])
        dark = values[y, x] < (low + high) / 2 or low == high
        axes.text(
            x,
            y,
            f"{100 * row['accuracy']:.1f}",
            ha="center",
            va="center",
            color="white" if dark else "black",
            fontweight="bold" if row["train"] == row["test"] else "normal",
        )
    axes.set_xticks(range(len(tests)), [plain(name) for name in tests])
    axes.set_yticks(range(len(trains)), [plain(name) for name in trains])
    axes.set_xlabel("tested in")
    axes.set_ylabel("trained in")
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return svg(figure)


def format_matrix(rows: Sequence[Row]) -> str:
    """Accuracy in % as text: for each way, shot and learner, train domains down, test across.

    Example:
        >>> from metaface.report import format_matrix
        >>> row = {"learner": "reptile", "ways": 5, "shots": 1, "train": "photo"}
        >>> rows = [
        ...     row | {"test": "photo", "accuracy": 0.9, "ci95": 0.01},
        ...     row | {"test": "sketch", "accuracy": 0.6, "ci95": 0.02},
        ... ]
        >>> print(format_matrix(rows))
        reptile, 5-way 1-shot       photo      sketch
        photo                  90.0 ± 1.0  60.0 ± 2.0
    """
    return "\n\n".join(
        format_table(_cross(mine, f"{learner}, {title}", _accuracy))
        for title, group in group_by_task(rows)
        for learner, mine in _by_learner(group)
    )


def _cross(rows: Sequence[Row], title: str, format_row: Any) -> list[list[str]]:
    """A table of train domains down and test domains across, empty where there is no row."""
    cells = {(row["train"], row["test"]): format_row(row) for row in rows}
    trains, tests = _names(rows, "train"), _names(rows, "test")
    return [
        [title, *tests],
        *([train, *(cells.get((train, test), "") for test in tests)] for train in trains),
    ]


def _accuracy(row: Row) -> str:
    return format_estimate(row["accuracy"], row["ci95"])


def _drop(row: Row) -> str:
    if row["drop"] is None:
        return ""
    same = row["train"] == row["test"]
    return "in domain" if same else format_estimate(row["drop"], row["drop_ci95"], sign="+")


def _drops(rows: Sequence[Row]) -> list[list[str]] | None:
    """The table of drops; None where there is no training in a test domain."""
    known = any(row["drop"] is not None for row in rows)
    return _cross(rows, "trained in", _drop) if known else None


def _by_learner(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    return [(name, [r for r in rows if r["learner"] == name]) for name in _names(rows, "learner")]


def _names(rows: Iterable[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _table(rows: Sequence[Row]) -> list[list[str]]:
    """Every row, and all that was measured of it."""
    # the false accept rates that several domains can have alike: powers of ten
    fars = {far for row in rows for far in row["tar_at_far"] or () if far.strip("0.") == "1"}
    columns = sorted(fars, key=float, reverse=True)
    texts = {"learner": "learner", "train": "trained in", "test": "tested in"}
    numbers = {"ways": "way", "shots": "shot", "queries": "queries"}
    lines = [
        [
            *texts.values(),
            *numbers.values(),
            "accuracy %",
            "rank-1 %",
            *(f"TAR % at FAR {far}" for far in columns),
            "train s",
            "trainable",
        ]
    ]
    for row in rows:
        tars = row["tar_at_far"] or {}
        lines.append(
            [
                *(str(row[key]) for key in (*texts, *numbers)),
                _accuracy(row),
                _percent(row["rank1"]),
                *(_percent(tars.get(far)) for far in columns),
                f"{row['seconds']:.0f}",
                f"{row['trainable_parameters']:,}",
            ]
        )
    return lines


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
