"""Tables of results: cells of text, and a terminal's columns of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""A row of ``results.json``."""


def format_estimate(value: float, half: float | None, unit: float = 100, sign: str = "") -> str:
    """A value and half of its interval, both times ``unit``, such as ``87.4 ± 0.6``.

    Args:
        half: None: there is no interval, and the value stands alone.
        sign: ``+``: positive values have their sign, too.
    """
    return f"{unit * value:{sign}.1f}" + ("" if half is None else f" ± {unit * half:.1f}")


def format_table(lines: Sequence[Sequence[str]], *, rule: bool = False) -> str:
    """Lines of cells, the header first, as text: the first column to the left, others to the right.

    Args:
        rule: underline the header.

    Example::

        print(format_table([["", "accuracy %"], ["maml", "87.4"]]))
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines = [*lines[:1], ["-" * width for width in widths], *lines[1:]] if rule else lines
    return "\n".join(
        "  ".join([first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]).rstrip()
        for first, *others in lines
    )


def group_by_task(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """The rows of each way and shot, under a title such as ``5-way 1-shot``."""
    tasks = sorted({(row["ways"], row["shots"]) for row in rows})
    return [
        (f"{ways}-way {shots}-shot", [r for r in rows if (r["ways"], r["shots"]) == (ways, shots)])
        for ways, shots in tasks
    ]
