"""Texts that stand for several settings: ``NAME=VALUE`` of learners, ``NAME=SOURCE`` of domains."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """``name=value`` texts, the values as Python literals or, failing that, as text.

    Raises:
        ValueError: a text of another form, or a name twice.

    Example:
        >>> from metaface.options import parse_options
        >>> parse_options(["inner_lr=0.1", "head_lr=None", "distance=cosine"])
        {'inner_lr': 0.1, 'head_lr': None, 'distance': 'cosine'}
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


def parse_domains(texts: Sequence[str]) -> dict[str, str]:
    """``NAME=SOURCE[:DOMAIN,...][@REGEX]`` texts, or ``NAME=`` two of these with ``>``, by name;
    a text that is a ``.toml`` file has such lines, ``name = "source"``.

    Raises:
        ValueError: a text of another form, a name twice, or a file that is no such TOML.

    Example:
        >>> from metaface.options import parse_domains
        >>> parse_domains(["lfw=lfw.zip", "profile=synthetic:profile"])
        {'lfw': 'lfw.zip', 'profile': 'synthetic:profile'}
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
