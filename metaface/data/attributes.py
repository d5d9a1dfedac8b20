"""Attributes of people or photographs, from a CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

KEYS = ("person", "path")
Attributes = dict[str, dict[str, str]]


def read_attributes(path: str | Path) -> tuple[str, Attributes]:
    """Read a CSV of one row a person (column ``person``) or a photograph (column ``path``).

    Args:
        path: UTF-8, its first line the names of the columns. ``path`` is that inside the data
            set. With both columns, rows are photographs'.

    Returns:
        Which of the two names the rows, and ``{name: {column: value}}`` of the other columns; ""
        where a cell is empty.

    Raises:
        ValueError: no such column, no other one, a name twice, a row without one (file and line).
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, strict=True)
            header = [name.strip() for name in next(lines, [])]
            key = next((k for k in reversed(KEYS) if k in header), None)
            if key is None or len(header) < 2:
                raise ValueError(
                    f"{path}: the columns are {header}: give person (or path) and at least one "
                    "attribute in the first line"
                )
            if len(set(header)) < len(header):
                raise ValueError(f"{path}: a column is there twice in {header}: rename one")
            attributes: Attributes = {}
            for row in lines:
                if not any(cell.strip() for cell in row):
                    continue
                cells = dict(zip(header, (c.strip() for c in row), strict=False))
                name = cells.pop(key, "")
                if not name:
                    raise ValueError(f"{path}: line {lines.line_num} names no {key}")
                if name in attributes:
                    raise ValueError(
                        f"{path}: line {lines.line_num}: {key} {name!r} is there twice: keep one"
                    )
                attributes[name] = {c: cells.get(c, "") for c in header if c != key}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV in UTF-8 ({error}): save it as one") from error
    if not attributes:
        raise ValueError(f"{path}: no row below the names of the columns")
    return key, attributes


def read_column(
    attributes: Mapping[str, Mapping[str, str]], by: str, names: Sequence[str]
) -> np.ndarray:
    """One attribute of each of ``names`` (people or paths, one a photograph): text ``[n]``.

    Rows about others are passed over.

    Raises:
        ValueError: no such column; somebody without a row (an empty cell says "unknown").
    """
    columns = next(iter(attributes.values()), {})
    if by not in columns:
        raise ValueError(f"no column {by!r}: there are {', '.join(columns) or 'none'}")
    missing = sorted({name for name in names if name not in attributes})
    if missing:
        listed = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if missing[3:] else "")
        raise ValueError(
            f"no attributes of {listed}: of {len(set(names))} names in the data "
            f"{len(set(names)) - len(missing)} have a row (such as "
            f"{next(iter(attributes), 'none')!r}); add rows, with an empty cell where a value is "
            "unknown"
        )
    return np.array([attributes[name][by] for name in names])
