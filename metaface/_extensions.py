"""Learners, networks, embedders, detectors and data sources of other packages, found by name.

A package registers what it adds in its ``pyproject.toml``, under a name of its choice::

    [project.entry-points."metaface.learners"]
    ridge = "my_package.ridge:Ridge"

What is not registered is named ``my_package.ridge:Ridge``. Nothing is imported before it is named.

A checkpoint or a gallery may come from a stranger. It may name what is registered, which the user
has installed, but no other module: see :func:`reading_a_file`.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

ALLOWED = "METAFACE_EXTENSIONS"  # environment variable: what files may name, separated by spaces
_ARGUMENT = ("embedders", "detectors", "sources")  # kinds whose names may go on with :ARGUMENT
_PATH = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)(?::(.+))?", re.DOTALL)

_named: set[tuple[str, str]] = set()  # kind and module:name, of what was imported in this process
_from_file: ContextVar[bool] = ContextVar("from_file", default=False)


class NotNamedError(ImportError):
    """A file names a module that the user has not."""


def find(kind: str, text: str, *paths: str | Path) -> Callable[..., Any] | None:
    """The class or function that ``text`` names, imported.

    Args:
        kind: ``learners``, ``nets``, ``embedders``, ``detectors`` or ``sources``; the group of
            entry points is ``metaface.<kind>``.
        text: a registered name, or ``package.module:Class``. An embedder, detector or source may
            go on with ``:ARGUMENT``, which is bound as the first argument.
        paths: files and folders that ``text`` may mean as well; one that exists goes before
            ``package.module:Class``.

    Returns:
        None: ``text`` is neither.

    Raises:
        ImportError: it is one of them, and cannot be imported.
        ValueError: two packages have registered the name, or it is that of a file, too.
    """
    name, colon, argument = text.partition(":")
    match = _PATH.fullmatch(text)
    if (entry := _entry(kind, name)) and (not colon or kind in _ARGUMENT):
        if there := [path for path in paths if os.path.lexists(path)]:
            raise ValueError(
                f"{text!r} is a file or folder ({there[0]}), and what {_from(entry)} has "
                f"registered in metaface.{kind}: write {os.path.abspath(there[0])} or {entry.value}"
            )
        found = _imported(f"{name}, which {_from(entry)} has registered,", *_parts(entry.value))
    elif match and (match[3] is None or kind in _ARGUMENT):
        if any(os.path.lexists(path) for path in paths):
            return None
        name, argument = f"{match[1]}:{match[2]}", match[3] or ""
        if _from_file.get():
            _check_named(kind, name)
        found = _imported(name, match[1], match[2])
        _named.add((kind, name))
    else:
        return None
    if not callable(found):
        raise ValueError(f"{text} is a {type(found).__name__}: name a class or a function")
    return partial(found, argument) if argument else found


def registered(kind: str) -> list[str]:
    """The names that other packages have registered."""
    return sorted({entry.name for entry in entry_points(group=f"metaface.{kind}")})


def choices(kind: str, *built_in: str) -> str:
    """What can be named, for messages."""
    names = ", ".join(dict.fromkeys((*built_in, *registered(kind))))
    return f"{names}; or package.module:Class, or what a package registers in metaface.{kind}"


@contextmanager
def reading_a_file() -> Iterator[None]:
    """Names come from a file: no module is imported that the user has neither installed with an
    entry point, nor named.

    Raises:
        NotNamedError: the file names ``package.module:Class``, which was not named in this process
            before; the message says how.
    """
    token = _from_file.set(True)
    try:
        yield
    finally:
        _from_file.reset(token)


def _check_named(kind: str, name: str) -> None:
    if (kind, name) in _named or name in os.environ.get(ALLOWED, "").split():
        return
    raise NotNamedError(
        f"the file names {name}, and a file does not decide which code is imported. If you trust "
        f"that code, name it first: metaface.{kind}.find({name!r}) in Python, or "
        f"{ALLOWED}={name} in the environment; what a package has registered in metaface.{kind} "
        "needs neither"
    )


def _entry(kind: str, name: str) -> EntryPoint | None:
    found = list(entry_points(group=f"metaface.{kind}", name=name))
    if len({entry.value for entry in found}) > 1:
        packages = " and ".join(f"{_from(entry)} ({entry.value})" for entry in found)
        raise ValueError(
            f"{name!r} is registered in metaface.{kind} twice, by {packages}: write "
            "what is meant as package.module:Class"
        )
    return found[0] if found else None


def _from(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else "a package"


def _parts(value: str) -> tuple[str, str]:
    """Module and attribute of an entry point's value."""
    module, _, attribute = value.partition(":")
    return module.strip(), attribute.split("[")[0].strip()


def _imported(what: str, module: str, attribute: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever that code does when it is imported
        raise ImportError(
            f"{what} cannot be imported from {module} ({type(error).__name__}: {error}): install "
            "its package, or put the folder that it lies in into PYTHONPATH"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ImportError(f"{what} cannot be imported: {found.__name__} has no {part!r}")
        found = getattr(found, part)
    return found
