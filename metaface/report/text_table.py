"""The table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = (
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


def measured(value: float, half: float | None, unit: float = 100, sign: str = "") -> str:
    """A value times ``unit`` and half of its interval; without the latter where there is none."""
    return f"{unit * value:{sign}.1f}" + ("" if half is None else f" ± {unit * half:.1f}")


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row of results as text, in the order of ``COLUMNS``."""
    shown = dict(row)
    shown["accuracy"] = measured(row["accuracy"], row["ci95"])
    shown["f1"] = 100 * row["f1"]
    if row["transductive"]:
        shown["norm"] = f"{row['norm']} (transductive)"
    return [
        "" if shown[key] is None else template.format(shown[key]) for key, _, template in COLUMNS
    ]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of ``results.json``, best first within each way and shot."""
    ordered = sorted(rows, key=lambda r: (r["ways"], r["shots"], -r["accuracy"]))
    lines = [[title for _, title, _ in COLUMNS], *(cells(row) for row in ordered)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    text = []
    for number, line in enumerate(lines):
        text.append(
            "  ".join(
                c.ljust(w) if i == 0 else c.rjust(w)
                for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
        )
        group = ordered[number - 1]["ways"], ordered[number - 1]["shots"]
        last = number in (0, len(ordered)) or group == (
            ordered[number]["ways"],
            ordered[number]["shots"],
        )
        if number == 0:
            text.append("  ".join("-" * w for w in widths))
        elif not last:
            text.append("")
    return "\n".join(text)
