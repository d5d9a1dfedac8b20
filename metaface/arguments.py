"""Numbers that can be meant, on the command line and in Python; devices that there are."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np
import torch

MOST = 2**31 - 1  # of a count
HIGHEST_RATE = 1000.0  # of an outer optimiser

F = TypeVar("F", bound=Callable[..., Any])


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
        checked_device(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error).removeprefix("device=")) from error
    return text


def checked_device(given: Any) -> torch.device:
    """A device that this machine has.

    Raises:
        ValueError: no such kind, or there are fewer of it.
    """
    try:
        if not isinstance(given, str | torch.device):
            raise TypeError
        asked = torch.device(given)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={given!r}: no kind of device; cpu, cuda and cuda:0 are"
        ) from error
    kind: Any = getattr(torch, asked.type, None)
    here: int = kind.device_count() if hasattr(kind, "device_count") else 0
    if (asked.index or 0) >= here:
        raise ValueError(
            f"device={str(given)!r}: this machine has {here} of it; leave it out, and the best "
            "there is is used"
        )
    return asked


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r}: give a whole number, {least} or more") from None
    if not least <= number <= MOST:
        raise ArgumentTypeError(f"{text!r}: give a whole number from {least} to {MOST}")
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
        if rate is not None and not (is_number(rate) and 0 <= rate < math.inf):
            raise ValueError(f"{name}={rate!r}: must be a finite number, 0 or more")


def check_counts(least: int = 0, **counts: int | None) -> None:
    """Refuse what is no whole number from ``least`` on; None is left alone."""
    for name, count in counts.items():
        whole = isinstance(count, int | np.integer) and not isinstance(count, bool)
        if count is not None and not (whole and count >= least):
            raise ValueError(f"{name}={count!r}: must be at least {least}, a whole number")


def check_given_counts(least: int = 0, **counts: int) -> None:
    """:func:`check_counts`, where None is refused, too."""
    for name, count in counts.items():
        if count is None:
            raise ValueError(f"{name}=None: must be at least {least}, a whole number")
    check_counts(least, **counts)


def between_0_and_1(**shares: float) -> float:
    """The one share given, as a float.

    Raises:
        ValueError: no number strictly between 0 and 1.
    """
    ((name, value),) = shares.items()
    if not (is_number(value) and 0 < value < 1):
        raise ValueError(f"{name}={value!r}: a rate between 0 and 1, such as 0.01 for 1%")
    return float(value)


def check_once(**lists: Any) -> None:
    """Refuse what is no list or tuple, and one that has something twice."""
    for name, values in lists.items():
        if not isinstance(values, list | tuple):
            raise ValueError(f"{name}={values!r}: must be a list or tuple")
        if (twice := first_twice(values)) is not None:
            raise ValueError(f"{name} has {twice!r} twice: give each once")


def first_twice(values: list[Any] | tuple[Any, ...]) -> Any:
    """The first of ``values`` that is there twice; None: there is none."""
    return next((v for i, v in enumerate(values) if v in values[:i]), None)


def check_flags(**flags: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"{name}={flag!r}: must be True or False")


def is_number(value: Any) -> bool:
    """Whether it is a number, of Python or numpy; True and False are none."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def refuse_moved(**places: str) -> Callable[[F], F]:
    """A decorator: keywords that a function no longer takes raise a TypeError with the new place.

    Args:
        places: what to write instead, by the old keyword.
    """

    def decorate(function: F) -> F:
        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for name in places.keys() & kwargs.keys():
                raise TypeError(
                    f"{function.__qualname__}() takes no {name} any more: write {places[name]}"
                )
            return function(*args, **kwargs)

        return checked  # type: ignore[return-value]

    return decorate
