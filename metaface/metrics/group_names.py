"""Values of an attribute -> names of groups of people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from metaface.arguments import check_given_counts


def bin_numbers(values: np.ndarray, bins: int = 3) -> np.ndarray:
    """Numbers as groups of about equal size, named by their range: text ``[n]``.

    Ranges do not overlap: whole numbers are in "21 to 33" or "34 to 46", others in "1.5 to below
    2.5" or, the last, "2.5 to 4".

    Args:
        values: float ``[n]``; nan: "".
        bins: at least 2.

    Raises:
        ValueError: fewer than two bins, numbers that make no two, or infinite ones.
    """
    check_given_counts(1, bins=bins)
    values = np.asarray(values, np.float64)
    _refuse_infinite("values", values)
    known = ~np.isnan(values)
    if bins < 2 or len(np.unique(values[known])) < 2:
        raise ValueError(
            f"bins={bins} of {len(np.unique(values[known]))} different numbers: need two of each"
        )
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, bins + 1)))
    number = np.searchsorted(edges[1:-1], values, side="right")
    names = np.array([f"{k}: {ends}" for k, ends in enumerate(_ranges(values[known], edges), 1)])
    return np.where(known, names[number], "")


def _ranges(values: np.ndarray, edges: np.ndarray) -> list[str]:
    """Bins as text: each from its edge to below the next one, the last with both ends."""
    if np.abs(values).max() < 2**53 and (values == np.floor(values)).all():
        lowest = np.ceil(edges).astype(np.int64)
        highest = [*(lowest[1:-1] - 1), lowest[-1]]
        whole = zip(lowest[:-1], highest, strict=True)
        return [f"{low} to {high}" if low < high else f"{low}" for low, high in whole]
    texts = [f"{low} to below {high}" for low, high in pairwise(_write_apart(edges, values))]
    return [*texts[:-1], texts[-1].replace("below ", "")]


def name_groups(name: str, values: Sequence[Any] | np.ndarray, bins: int = 3) -> np.ndarray:
    """An attribute's values as names of groups, text ``[n]``.

    Args:
        name: of the attribute: true is ``name``, false ``not name``.
        values: bool, numbers (more than 10 different ones become bins of :func:`bin_numbers`) or
            text, where "" is unknown, and so is nan among numbers.

    Raises:
        ValueError: infinite numbers; or as :func:`bin_numbers`.
    """
    array = np.asarray(values)
    if array.dtype == bool:
        return np.where(array, name, f"not {name}")
    if array.dtype.kind in "US":
        try:
            numbers = np.array([float(v) if v else math.nan for v in array.tolist()])
        except ValueError:
            return array
        if not np.isfinite(numbers).any():  # words such as Nan
            return array
    else:
        numbers = array.astype(np.float64)
    _refuse_infinite(name, numbers)
    known, number = np.unique(numbers[~np.isnan(numbers)], return_inverse=True)
    if len(known) > 10:
        return bin_numbers(numbers, bins)
    if array.dtype.kind in "US":
        return np.where(np.isnan(numbers), "", array)
    names = np.full(len(numbers), "", dtype=object)
    names[~np.isnan(numbers)] = np.array(_write_apart(known), dtype=object)[number]
    return names.astype(str)


def _refuse_infinite(name: str, numbers: np.ndarray) -> None:
    infinite = np.flatnonzero(np.isinf(numbers))
    if len(infinite):
        raise ValueError(
            f"{name}: {len(infinite)} of {len(numbers)} values are infinite (the first is number "
            f"{infinite[0]}, counted from 0): leave empty, or nan, what is not known"
        )


def _write_apart(numbers: np.ndarray, values: np.ndarray | None = None) -> list[str]:
    """Different numbers, in order, as different texts that people read, no longer than they must
    be: of three digits or more, and never rounded beyond the point. Rounding moves none but the
    first and the last past one of the ``values``."""
    texts: list[str] = []
    inside = np.empty(0) if values is None else values
    for digits in range(3, 18):
        texts = [_write(number, digits) for number in numbers.tolist()]
        read = np.array([float(text) for text in texts])
        said, true = (np.searchsorted(e[1:-1], inside, side="right") for e in (read, numbers))
        if len(set(texts)) == len(texts) and np.array_equal(said, true):
            break
    return texts


def _write(number: float, digits: int) -> str:
    if number and not 1e-4 <= abs(number) < 1e15:
        return f"{number:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(number)))) if number else 0
    return str(np.format_float_positional(round(number, decimals), trim="-"))
