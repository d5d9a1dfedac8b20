"""The kinds of values that options take: how each is read from the command line, and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from inspect import BoundArguments
from inspect import Parameter as Parameters
from typing import Annotated, Any

from cyclopts import ArgumentCollection, Group, Parameter, Token
from cyclopts.validators import MutuallyExclusive

from metaface.arguments import HIGHEST_RATE, checked_device, first_twice

MOST = 2**31 - 1  # of a count


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
        raise ValueError(str(error).removeprefix("device=")) from error
    return text


def _whole(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{text!r}: give a whole number, {least} or more") from None
    if not least <= number <= MOST:
        raise ValueError(f"{text!r}: give a whole number from {least} to {MOST}")
    return number


def _number(text: str, what: str, above: float, most: float, ends: bool = False) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (above < number < most or (ends and number == most)):  # false of nan, too
        raise ValueError(f"{text!r}: give {what}")
    return number


def check_values(given: BoundArguments) -> None:
    """Refuse an empty text (as a path, it is the current folder), and options that have something
    twice.

    Raises:
        ValueError: either; names the option.
    """
    for name, value in given.arguments.items():
        place = given.signature.parameters[name].kind
        positional = place in (Parameters.POSITIONAL_ONLY, Parameters.VAR_POSITIONAL)
        for option, one in vars(value).items() if is_dataclass(value) else ((name, value),):
            flag = option if positional else f"--{option.replace('_', '-')}"
            if "" in (one if isinstance(one, list | tuple) else (one,)):
                raise ValueError(f"{flag} is empty: leave it out, or give a value")
            twice = first_twice(one) if isinstance(one, list | tuple) else None
            if twice is not None and not positional:
                raise ValueError(f"{flag} has {twice} twice: give each once")


# -- types -------------------------------------------------------------------------------------


def _one(read: Callable[[str], Any], **more: Any) -> Parameter:
    """How one value is read."""

    def convert(kind: Any, tokens: Sequence[Token]) -> Any:
        return read(tokens[0].value)

    return Parameter(converter=convert, **more)


def _several(read: Callable[[str], Any]) -> Parameter:
    """How the values are read that follow one flag, one at least."""

    def convert(kind: Any, tokens: Sequence[Token]) -> Any:
        return tuple(read(token.value) for token in tokens)

    return Parameter(converter=convert, consume_multiple=(1, None))


BUDGET = Group("Training budget (one of these)", validator=MutuallyExclusive())

Count = Annotated[int, _one(count)]
Counts = Annotated[tuple[int, ...], _several(count)]
CountOrNone = Annotated[int, _one(count_or_none)]
MaybeCount = Annotated[int | None, _one(count)]
MaybeCounts = Annotated[tuple[int, ...] | None, _several(count)]
MaybePositive = Annotated[float | None, _one(positive)]
MaybeRate = Annotated[float | None, _one(rate)]
MaybeShare = Annotated[float | None, _one(share)]
Rate = Annotated[float, _one(rate)]
Share = Annotated[float, _one(share)]
Device = Annotated[str | None, _one(device)]
BudgetCount = Annotated[int | None, _one(count, group=BUDGET)]
BudgetMinutes = Annotated[float | None, _one(positive, group=BUDGET)]
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=(1, None))]
NamesOrNone = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]
MaybeNames = Annotated[tuple[str, ...] | None, Parameter(consume_multiple=(1, None))]
Repeated = Annotated[tuple[str, ...], Parameter(consume_multiple=False)]
Paths = Annotated[tuple[str, ...], Parameter(consume_multiple=True, required=True)]


# -- one source, or two ------------------------------------------------------------------------


def _one_source(arguments: ArgumentCollection) -> None:
    given = {argument.name for argument in arguments if argument.tokens}
    if "--data" in given and len(given) > 1:
        raise ValueError("--data splits one set by person; leave out --train-data and --test-data")


SOURCE = Group("Photographs", validator=_one_source)
Source = Annotated[str | None, Parameter(group=SOURCE)]
