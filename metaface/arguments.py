"""Numbers that can be meant; devices that there are."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
T = TypeVar("T")

HIGHEST_RATE = 1000.0  # of an outer optimiser


def checked_device(given: Any) -> torch.device:
    """A device that this machine has.

    Raises:
        ValueError: no such kind, or there are fewer of it.
    """
    import torch  # here: the command line's options are read without it

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


def check_rates(**rates: float | None) -> None:
    """Refuse rates and factors that are not finite, or negative; None is left alone."""
    for name, rate in rates.items():
        if rate is not None and not (is_number(rate) and 0 <= rate < math.inf):
            raise ValueError(f"{name}={rate!r}: must be a finite number, 0 or more")


def check_counts(least: int = 0, **counts: int | None) -> None:
    """Refuse what is no whole number from ``least`` on; None is left alone."""
    for name, count in counts.items():
        whole = isinstance(count, Integral) and not isinstance(count, bool)
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
    numpys = isinstance(value, Real) and hasattr(value, "dtype")
    return (isinstance(value, int | float) or numpys) and not isinstance(value, bool)


def refuse_moved(**places: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function that no longer has some keywords: giving one is a TypeError that names
    what to write instead.

    Args:
        places: by old keyword, what replaces it.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            if old := [name for name in kwargs if name in places]:
                raise TypeError(
                    f"{function.__qualname__} has no {old[0]}= any more: write {places[old[0]]}"
                )
            return function(*args, **kwargs)

        return call

    return decorate
