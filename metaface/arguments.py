"""Numbers that can be meant, on the command line and in Python; devices that there are."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from typing import Any

import numpy as np
import torch

MOST = 2**31 - 1  # of a count
HIGHEST_RATE = 1000.0  # of an outer optimiser


def count(text: str) -> int:
    """A whole number, 1 or more."""
    return _whole(text, 1)


def count_or_none(text: str) -> int:
    """A whole number, 0 or more."""
    return _whole(text, 0)


def positive(text: str) -> float:
    """A finite number above 0."""
    return _number(text, "a finite number above 0", 0, math.inf)


def rate(text: str) -> float:
    """A learning rate."""
    return _number(text, f"a number above 0, {HIGHEST_RATE:g} at most", 0, HIGHEST_RATE, ends=True)


def share(text: str) -> float:
    """A share: 0 to 1, both included."""
    return _number(text, "a number of 0 to 1", -math.ulp(0), 1, ends=True)


def device(text: str) -> str:
    """The name of a device that this machine has, for torch."""
    try:
        asked = torch.device(text)
    except RuntimeError as error:
        raise ArgumentTypeError(f"{text!r}: no kind of device; cpu, cuda and cuda:0 are") from error
    kind: Any = getattr(torch, asked.type, None)
    here: int = kind.device_count() if hasattr(kind, "device_count") else 0
    if (asked.index or 0) >= here:
        raise ArgumentTypeError(
            f"{text!r}: this machine has {here} of it; leave it out, and the best there is is used"
        )
    return text


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not least <= number <= MOST:
        raise ArgumentTypeError(f"{text!r}: give a whole number, {least} or more")
    return number


def _number(text: str, what: str, above: float, most: float, ends: bool = False) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (above < number < most or (ends and number == most)):  # false of nan, too
        raise ArgumentTypeError(f"{text!r}: give {what}")
    return number


def check_rates(**rates: float | None) -> None:
    """Refuse rates and factors that are not finite, or negative; None is left alone."""
    for name, rate in rates.items():
        if rate is not None and not (_is_number(rate) and 0 <= rate < math.inf):
            raise ValueError(f"{name}={rate!r}: must be a finite number, 0 or more")


def check_counts(least: int = 0, **counts: int | None) -> None:
    """Refuse what is no whole number from ``least`` on; None is left alone."""
    for name, count in counts.items():
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if count is not None and not (whole and count >= least):
            raise ValueError(f"{name}={count!r}: must be at least {least}, a whole number")


def check_flags(**flags: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{name}={flag!r}: must be True or False")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
