"""The kinds of values that options take: how each is read from the command line, and checked."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from inspect import BoundArguments
from inspect import Parameter as Parameters
from pathlib import Path
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


# -- settings of learners ----------------------------------------------------------------------


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` texts, the values as Python literals or, failing that, as text.

    Raises:
        ValueError: a text of another form, or a name twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--option {text}: write it as name=value")
        if name in found:
            raise ValueError(f"--option {name} is given twice: {text} is the second; give one")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


# -- domains -----------------------------------------------------------------------------------


def parse_domains(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=SOURCE[:DOMAIN,...][@REGEX]`` texts, or ``NAME=`` two of these with ``>``, by name;
    a text that is a ``.toml`` file has such lines, ``name = "source"``.

    Raises:
        ValueError: a text of another form, a name twice, or a file that is no such TOML.
    """
    found: dict[str, str] = {}
    for text in texts:
        for name, source in _domains_of(text).items():
            if name in found:
                raise ValueError(f"domain {name!r} is given twice: each needs a name of its own")
            found[name] = source
    return found


def _domains_of(text: str) -> Mapping[str, str]:
    if text.endswith(".toml") and "=" not in text:
        return _read_domains(Path(text))
    name, equals, source = text.partition("=")
    if not (equals and name and source):
        raise ValueError(
            f"domain {text!r}: write it as NAME=SOURCE or NAME=SOURCE:DOMAIN,..., such as "
            "lfw=lfw.zip or profile=synthetic:profile, or give a .toml file of such lines"
        )
    return {name: source}


def _read_domains(path: Path) -> Mapping[str, str]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"domains of {path}: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise ValueError(f"domains of {path}: not TOML ({error})") from error
    if not found:
        raise ValueError(f'domains of {path}: none there: write lines such as lfw = "lfw.zip"')
    for name, source in found.items():
        if not (isinstance(source, str) and source):
            raise ValueError(
                f'domains of {path}: {name} = {source!r}: write a text, such as {name} = "lfw.zip"'
            )
    return found


# -- one source, or two ------------------------------------------------------------------------


def _one_source(arguments: ArgumentCollection) -> None:
    given = {argument.name for argument in arguments if argument.tokens}
    if "--data" in given and len(given) > 1:
        raise ValueError("--data splits one set by person; leave out --train-data and --test-data")


SOURCE = Group("Photographs", validator=_one_source)
Source = Annotated[str | None, Parameter(group=SOURCE)]
