"""``report.html``: one self-contained page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from metaface._atomic import replacing
from metaface._text import given_path, printable
from metaface.data import FaceSet
from metaface.episodes.sampler import EpisodeSampler
from metaface.report import plots
from metaface.report.pictures import episode_picture, grid
from metaface.report.text_table import COLUMNS, cells, measured


def write(path: str | Path, results: Mapping[str, Any], test: FaceSet) -> None:
    """Write the page of a benchmark.

    Args:
        path: the HTML file; pictures are inside it, nothing is fetched.
        results: what ``results.json`` holds.
        test: the test photographs, for a sample episode and the hardest confusions.
    """
    settings, rows = results["settings"], results["rows"]
    ways, shots = settings["ways"][0], settings["shots"][0]
    sampler = EpisodeSampler(
        test, ways, shots, settings["queries"], seed=settings["seed"], stream="test"
    )
    first = [r for r in rows if (r["ways"], r["shots"]) == (ways, shots)]
    best = max((r for r in first if r["train_images"]), key=lambda r: r["accuracy"], default=None)
    confusions = results["confusions"].get(best["learner"], []) if best else []
    write_page(
        path,
        "page.html",
        results=results,
        columns=[title for _, title, _ in COLUMNS],
        groups=_groups(rows),
        names=[r["learner"] for r in sorted(first, key=lambda r: -r["accuracy"])],
        differences=_matrix(results["differences"], ways, shots),
        ways=ways,
        shots=shots,
        plots=[
            (f"Learning curves ({_validation(results)})", plots.curves(results["curves"])),
            ("Accuracy by shot", plots.by_shot(rows)),
            ("Accuracy against cost", plots.cost(first)),
        ],
        episode=inline(episode_picture(sampler.batch(0), test)),
        best=best,
        confusions=[(c, inline(_pair(c, test))) for c in confusions[:6]],
    )


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Write a page, whole or not at all.

    Args:
        path: the HTML file.
        template: the name of one beside this file.
        values: for the template, which escapes every one, for HTML and as ``printable`` does.

    Raises:
        OSError: the file cannot be written; what was there is as it was.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metaface", "report"),
        autoescape=True,
        trim_blocks=True,
        finalize=_shown,
    )
    page = environment.get_template(template).render(**values)
    with replacing(given_path(path, "the page")) as file:
        file.write(page.encode())


def _shown(value: Any) -> Any:
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value, keep="\n") if plain else value


def _groups(rows: list[dict[str, Any]]) -> list[tuple[str, list[list[str]]]]:
    keys = sorted({(r["ways"], r["shots"]) for r in rows})
    return [
        (
            f"{ways}-way {shots}-shot",
            [
                cells(r)
                for r in sorted(rows, key=lambda r: -r["accuracy"])
                if (r["ways"], r["shots"]) == (ways, shots)
            ],
        )
        for ways, shots in keys
    ]


def _validation(results: Mapping[str, Any]) -> str:
    """Of what tasks the learning curves are."""
    rows = (row for curve in results["curves"].values() for row in curve)
    tasks = {(r["val_ways"], r["val_shots"]) for r in rows if "val_ways" in r}
    told = ", ".join(f"{ways}-way {shots}-shot" for ways, shots in sorted(tasks))
    return f"validation people, {told}" if told else "validation people"


def _matrix(differences: list[dict[str, Any]], ways: int, shots: int) -> dict[str, dict[str, str]]:
    """Row minus column, in points, as text."""
    cells: dict[str, dict[str, str]] = {}
    for d in differences:
        if (d["ways"], d["shots"]) == (ways, shots):
            for row, column, sign in ((d["a"], d["b"], 1), (d["b"], d["a"], -1)):
                difference = measured(sign * d["difference"], d["ci95"], sign="+")
                cells.setdefault(row, {})[column] = difference
    return cells


def _pair(confusion: Mapping[str, Any], faces: FaceSet) -> Image.Image:
    rows = []
    for name in (confusion["person"], confusion["taken_for"]):
        view = faces.of_people([faces.people.index(name)])
        rows.append((name, [faces.store[r] for r in view.rows[:4]]))
    return grid(rows)


def inline(picture: Image.Image) -> str:
    """A picture as the address of itself."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
