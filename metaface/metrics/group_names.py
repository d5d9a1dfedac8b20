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
    ranges = enumerate(pairwise(_write_apart(edges)), 1)
    names = np.array([f"{k}: {low} to {high}" for k, (low, high) in ranges])
    return np.where(known, names[number], "")


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


def _write_apart(numbers: np.ndarray) -> list[str]:
    """Different numbers as different texts that people read, no longer than they must be: of
    three digits or more, and never rounded beyond the point."""
    texts: list[str] = []
    for digits in range(3, 18):
        texts = [_write(number, digits) for number in numbers.tolist()]
        if len(set(texts)) == len(texts):
            break
    return texts


def _write(number: float, digits: int) -> str:
    if number and not 1e-4 <= abs(number) < 1e15:
        return f"{number:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(number)))) if number else 0
    return str(np.format_float_positional(round(number, decimals), trim="-"))
