"""The comparison of a shared network with networks in stages: a table, plots, one page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from markupsafe import Markup
from PIL import Image

from metaface._atomic import replacing
from metaface.multitask.batch import pictures
from metaface.multitask.samples import FaceAnnotations
from metaface.report.annotated import sheet
from metaface.report.page import inline, write_page
from metaface.report.plots import COLOURS, chart, plain, svg
from metaface.report.text_table import measured

PICTURES = 8
COLUMNS = (
    ("ap50", "AP50 %", 100),
    ("nme", "NME %", 100),
    ("iou", "IoU %", 100),
    ("pose", "pose error °", 1),
    ("expression", "expression %", 100),
    ("attributes", "attributes %", 100),
    ("attributes_precision", "precision %", 100),
    ("attributes_recall", "recall %", 100),
    ("attributes_f1", "F1 %", 100),
    ("one_shot", "1-shot %", 100),
    ("one_shot_given", "1-shot, true landmarks %", 100),
    ("tar@0.01", "TAR % at FAR 0.01", 100),
    ("tar@0.001", "TAR % at FAR 0.001", 100),
    ("dir@0.01", "DIR % at FPIR 0.01", 100),
    ("dir@0.1", "DIR % at FPIR 0.1", 100),
    ("score", "mean task score %", 100),
)


def write_joint(path: str | Path, results: Mapping[str, Any], folder: Path) -> None:
    """Write the page of a comparison.

    Args:
        path: the HTML file; pictures are inside it, nothing is fetched.
        results: what ``results.json`` holds.
        folder: of the comparison, whose units' pictures are shown.
    """
    seed = results["settings"]["seed"]
    shown = [
        (row["variant"], file)
        for row in results["rows"]
        if (file := folder / f"{row['variant']}-seed{seed}" / "pictures.png").is_file()
    ]
    write_page(
        path,
        "joint.html",
        results=results,
        lines=_turned(lines(results)),
        differences=_differences(results),
        speed=_speed(results["speed"]["points"]),
        cosines=[(name, _cosines(rows)) for name, rows in results["cosines"].items()],
        pictures=[(name, _inline(file)) for name, file in shown],
    )


def _inline(file: Path) -> str:
    with Image.open(file) as picture:
        return inline(picture)


def lines(results: Mapping[str, Any]) -> list[list[str]]:
    """The table, header first."""
    times = {point["what"]: point["ms"] for point in results["speed"]["points"]}
    found = [
        ["", "parameters", "ms a picture", "train s", *(title for _, title, _ in _columns(results))]
    ]
    for row in results["rows"]:
        ms = times.get(row["variant"])
        cells = [_cell(row["metrics"].get(name), unit) for name, _, unit in _columns(results)]
        found.append(
            [
                row["variant"],
                f"{row['parameters']:,}",
                "" if ms is None else f"{ms:.1f}",
                f"{row['train_seconds']:.0f}",
                *cells,
            ]
        )
    return found


def joint_table(results: Mapping[str, Any]) -> str:
    """The table as text, a metric a line."""
    turned = _turned(lines(results))
    widths = [max(len(line[i]) for line in turned) for i in range(len(turned[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in turned
    )


def overlays(path: Path, model: Any, scenes: FaceAnnotations, device: torch.device) -> None:
    """Draw the first scenes with what is true above, and what ``model`` says below, as a PNG."""
    some = scenes.take(np.arange(min(PICTURES, len(scenes))))
    both = np.concatenate([sheet(some), sheet(predicted(model, some, device))])
    done, data = cv2.imencode(".png", both[..., ::-1])
    assert done
    with replacing(path) as file:
        file.write(data.tobytes())


def predicted(model: Any, scenes: FaceAnnotations, device: torch.device) -> FaceAnnotations:
    """What ``model`` says of the pictures of ``scenes``, as labels."""
    found = model.predict(pictures(scenes.images, device))
    height, width = scenes.images.shape[1:3]
    boxes = found.boxes.cpu().numpy()
    start = np.minimum(boxes[:, :2], np.array([width - 1, height - 1], np.float32))
    sides = np.minimum(boxes[:, 2:], np.array([width, height]) - start)
    n = len(found)
    nothing = np.full((n, 3), np.nan, np.float32)
    masks = np.zeros_like(scenes.masks)
    if "segmentation" in found.heads:
        masks = (found.heads["segmentation"] > 0).cpu().numpy().astype(np.uint8)
    return replace(
        scenes,
        image=found.image.cpu().numpy(),
        boxes=np.concatenate([start, sides], 1).astype(np.float32),
        landmarks=found.landmarks.cpu().numpy(),
        masks=masks,
        pose=found.heads["pose"].cpu().numpy() if "pose" in found.heads else nothing,
        person=np.full(n, -1),
        expression=np.full(n, -1),
        attributes=np.full((n, len(scenes.attribute_names)), np.nan, np.float32),
        complete=np.ones(len(scenes), bool),
    )


def _turned(table: list[list[str]]) -> list[tuple[str, ...]]:
    return list(zip(*table, strict=True))


def _columns(results: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    there = {name for row in results["rows"] for name in row["metrics"]}
    return [column for column in COLUMNS if column[0] in there]


def _cell(value: list[float | None] | None, unit: int, sign: str = "") -> str:
    if value is None:
        return ""
    mean, half = value
    return "-" if mean is None else measured(mean, half, unit, sign)


def _differences(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """By reference: the table, a metric a line."""
    found = []
    every = results["differences"]
    for reference in dict.fromkeys(d["reference"] for d in every):
        mine = {
            (d["variant"], d["metric"]): [d["difference"], d["ci95"]]
            for d in every
            if d["reference"] == reference
        }
        columns = [c for c in _columns(results) if any(name == c[0] for _, name in mine)]
        table = [["", *(title for _, title, _ in columns)]]
        for variant in dict.fromkeys(variant for variant, _ in mine):
            table.append([variant, *(_cell(mine.get((variant, c[0])), c[2], "+") for c in columns)])
        found.append((reference, _turned(table)))
    return found


def _speed(points: list[dict[str, Any]]) -> Markup:
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
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return svg(figure)


def _cosines(rows: list[dict[str, float]]) -> Markup:
    """Between the gradients of every two tasks over the trunk, means over the training."""
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
