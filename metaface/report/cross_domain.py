"""The domain matrix as a table, heat maps and one self-contained page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from metaface.data import FaceSet
from metaface.report.page import inline, write_page
from metaface.report.pictures import grid
from metaface.report.plots import plain, svg
from metaface.report.text_table import measured

PHOTOS = 8  # of a domain, to see what it is
Row = Mapping[str, Any]


def write_cross_domain(
    path: str | Path, results: Mapping[str, Any], tests: Mapping[str, FaceSet]
) -> None:
    """Write the page of a domain matrix.

    Args:
        path: the HTML file; pictures are inside it, nothing is fetched.
        results: what ``results.json`` of ``metaface cross-domain`` holds.
        tests: the test people, by domain, to show some photographs of each.
    """
    rows = results["rows"]
    write_page(
        path,
        "cross_domain.html",
        results=results,
        measured=measured,
        sections=[
            (title, [(learner, heat_map(mine), _drops(mine)) for learner, mine in learners])
            for title, learners in _grouped(rows)
        ],
        fars=_fars(rows),
        faces=inline(grid([(name, _some(faces)) for name, faces in tests.items()])),
    )


def heat_map(rows: Sequence[Row]) -> Markup:
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


def matrix(rows: Sequence[Row]) -> str:
    """Accuracy in % as text: for each way, shot and learner, train domains down, test across."""
    blocks = []
    for title, learners in _grouped(rows):
        for learner, mine in learners:
            tests = _names(mine, "test")
            lines = [[f"{learner}, {title}", *tests]]
            for train in _names(mine, "train"):
                cells = {
                    r["test"]: measured(r["accuracy"], r["ci95"])
                    for r in mine
                    if r["train"] == train
                }
                lines.append([train, *(cells.get(test, "") for test in tests)])
            widths = [max(len(line[i]) for line in lines) for i in range(len(tests) + 1)]
            blocks.append(
                "\n".join(
                    "  ".join(
                        c.ljust(w) if i == 0 else c.rjust(w)
                        for i, (c, w) in enumerate(zip(line, widths, strict=True))
                    ).rstrip()
                    for line in lines
                )
            )
    return "\n\n".join(blocks)


def _drops(rows: Sequence[Row]) -> list[list[str]] | None:
    """The table of drops, header first; None where there is no training in a test domain."""
    if all(row["drop"] is None for row in rows):
        return None
    tests = _names(rows, "test")
    lines = [["trained in", *tests]]
    for train in _names(rows, "train"):
        cells = {r["test"]: r for r in rows if r["train"] == train}
        lines.append([train, *(_drop(cells.get(test), train == test) for test in tests)])
    return lines


def _drop(row: Row | None, inside: bool) -> str:
    if row is None or row["drop"] is None:
        return ""
    return "in domain" if inside else measured(row["drop"], row["drop_ci95"], sign="+")


def _grouped(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, list[Row]]]]]:
    """By way and shot, then by learner."""
    found = []
    for ways, shots in sorted({(r["ways"], r["shots"]) for r in rows}):
        mine = [r for r in rows if (r["ways"], r["shots"]) == (ways, shots)]
        learners = [(n, [r for r in mine if r["learner"] == n]) for n in _names(mine, "learner")]
        found.append((f"{ways}-way {shots}-shot", learners))
    return found


def _names(rows: Iterable[Row], key: str) -> list[str]:
    return list(dict.fromkeys(row[key] for row in rows))


def _fars(rows: Iterable[Row]) -> list[str]:
    """Those that several domains can have alike: powers of ten."""
    found = {far for row in rows for far in row["tar_at_far"] or ()}
    return sorted((f for f in found if f.strip("0.") == "1"), key=float, reverse=True)


def _some(faces: FaceSet) -> list[np.ndarray]:
    """Photographs of as many people as can be."""
    people = faces.person_ids[: PHOTOS // 2]
    found = []
    for person in people:
        rows = faces.of_people([person]).rows  # spread over them, as the first may all be alike
        count = min(len(rows), -(-PHOTOS // len(people)))
        found.append(rows[np.linspace(0, len(rows) - 1, count).round().astype(int)])
    return [faces.store[r] for r in np.concatenate(found)[:PHOTOS]]
