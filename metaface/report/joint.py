"""The comparison of a shared network with networks in stages: a table, plots, one page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from metaface.report.page import inline, write_page
from metaface.report.plots import COLOURS, add_legend, chart, plain, svg
from metaface.report.tables import format_estimate, format_table

_METRICS = {
    "ap50": ("AP50 %", 100),
    "nme": ("NME %", 100),
    "iou": ("IoU %", 100),
    "pose": ("pose error °", 1),
    "expression": ("expression %", 100),
    "attributes": ("attributes %", 100),
    "attributes_precision": ("precision %", 100),
    "attributes_recall": ("recall %", 100),
    "attributes_f1": ("F1 %", 100),
    "one_shot": ("1-shot %", 100),
    "one_shot_given": ("1-shot, true landmarks %", 100),
    "tar@0.01": ("TAR % at FAR 0.01", 100),
    "tar@0.001": ("TAR % at FAR 0.001", 100),
    "dir@0.01": ("DIR % at FPIR 0.01", 100),
    "dir@0.1": ("DIR % at FPIR 0.1", 100),
    "score": ("mean task score %", 100),
}
"""Title of each metric, and the unit it is shown in."""
Lines = list[list[str]]


def write_joint(path: str | Path, results: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
    """Write the page of a comparison.

    Args:
        path: the HTML file; pictures are inside it, nothing is fetched.
        results: what ``results.json`` holds.
        pictures: by variant, the file of its scenes with labels and predictions.
    """
    shown = {}
    for name, file in pictures.items():
        with Image.open(file) as picture:
            shown[name] = inline(picture)
    write_page(
        path,
        "joint.html",
        results=results,
        lines=_transpose(tabulate(results)),
        differences=_tabulate_differences(results),
        speed=_draw_speed(results["speed"]["points"]),
        cosines={name: _draw_cosines(rows) for name, rows in results["cosines"].items()},
        pictures=shown,
    )


def format_joint(results: Mapping[str, Any]) -> str:
    """The table as text, a metric a line.

    Example:
        >>> from metaface.report import format_joint
        >>> metrics = {"ap50": [0.91, 0.02], "one_shot": [0.8, 0.01]}  # with ci95
        >>> row = {"variant": "fixed", "parameters": 1200000, "train_seconds": 600.0}
        >>> speed = {"points": [{"what": "fixed", "ms": 9.5}]}
        >>> print(format_joint({"rows": [row | {"metrics": metrics}], "speed": speed}))
                           fixed
        parameters     1,200,000
        ms a picture         9.5
        train s              600
        AP50 %        91.0 ± 2.0
        1-shot %      80.0 ± 1.0
    """
    return format_table(_transpose(tabulate(results)))


def tabulate(results: Mapping[str, Any]) -> Lines:
    """The table, a variant a line, header first."""
    times = {point["what"]: point["ms"] for point in results["speed"]["points"]}
    metrics = _metrics(results)
    titles = [_METRICS[name][0] for name in metrics]
    lines = [["", "parameters", "ms a picture", "train s", *titles]]
    for row in results["rows"]:
        ms = times.get(row["variant"])
        lines.append(
            [
                row["variant"],
                f"{row['parameters']:,}",
                "" if ms is None else f"{ms:.1f}",
                f"{row['train_seconds']:.0f}",
                *(_format(row["metrics"].get(name), name) for name in metrics),
            ]
        )
    return lines


def _tabulate_differences(results: Mapping[str, Any]) -> dict[str, Lines]:
    """By reference, the table of what each variant has more than it, a metric a line."""
    tables = {}
    for reference in dict.fromkeys(d["reference"] for d in results["differences"]):
        mine = {
            (d["variant"], d["metric"]): [d["difference"], d["ci95"]]
            for d in results["differences"]
            if d["reference"] == reference
        }
        known = {metric for _, metric in mine}
        metrics = [name for name in _metrics(results) if name in known]
        lines = [["", *(_METRICS[name][0] for name in metrics)]]
        for variant in dict.fromkeys(variant for variant, _ in mine):
            cells = (_format(mine.get((variant, name)), name, "+") for name in metrics)
            lines.append([variant, *cells])
        tables[reference] = _transpose(lines)
    return tables


def _transpose(lines: Lines) -> Lines:
    return [list(column) for column in zip(*lines, strict=True)]


def _metrics(results: Mapping[str, Any]) -> list[str]:
    """The metrics to show: those that any variant has."""
    known = {name for row in results["rows"] for name in row["metrics"]}
    return [name for name in _METRICS if name in known]


def _format(value: list[float | None] | None, metric: str, sign: str = "") -> str:
    """Mean and half of the interval of a metric as text."""
    if value is None:
        return ""
    mean, half = value
    return "-" if mean is None else format_estimate(mean, half, _METRICS[metric][1], sign)


def _draw_speed(points: list[dict[str, Any]]) -> Markup:
    """1-shot accuracy against milliseconds; one colour a variant."""
    figure, axes = chart("ms a picture with 3 faces", "5-way 1-shot accuracy, %")
    for i, variant in enumerate(dict.fromkeys(p["variant"] for p in points)):
        mine = [p for p in points if p["variant"] == variant and p["ms"] is not None]
        axes.plot(
            [p["ms"] for p in mine],
            [100 * p["one_shot"] for p in mine],
            "o",
            color=COLOURS[i % len(COLOURS)],
            label=plain(variant),
        )
        for p in mine:
            if rest := p["what"].removeprefix(variant).strip(":, "):
                axes.annotate(
                    plain(rest),
                    (p["ms"], 100 * p["one_shot"]),
                    xytext=(4, 3),
                    fontsize=6,
                    textcoords="offset points",
                )
    add_legend(axes)
    return svg(figure)


def _draw_cosines(rows: list[dict[str, float]]) -> Markup:
    """Between the gradients of every two tasks over the backbone, means over the training."""
    noted: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if key.startswith("cosine/"):
                _, one, other = key.split("/")
                noted.setdefault((one, other), []).append(value)
    tasks = list(dict.fromkeys(task for pair in noted for task in pair))
    grid = np.full((len(tasks), len(tasks)), np.nan)
    for (one, other), values in noted.items():
        i, j = tasks.index(one), tasks.index(other)
        grid[i, j] = grid[j, i] = np.mean(values)
    figure, axes = chart("", "")
    axes.grid(False)
    axes.imshow(grid, cmap="RdBu", vmin=-0.5, vmax=0.5)
    names = [plain(task) for task in tasks]
    axes.set_xticks(range(len(tasks)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(tasks)), names)
    for i, j in np.argwhere(~np.isnan(grid)):
        axes.text(j, i, f"{grid[i, j]:+.2f}", ha="center", va="center", fontsize=8)
    return svg(figure)
