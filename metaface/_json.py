"""JSON that every reader takes: it has no NaN and no Infinity."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from metaface._atomic import replacing


def plain(value: Any) -> Any:
    """``value`` with None for every number that is not finite.

    None says that there is no such number: one episode has no interval, nothing was counted, no
    threshold is low enough.

    Args:
        value: dicts, lists and tuples of what JSON has.
    """
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dumps(value: Any) -> str:
    """:func:`plain` ``value`` as indented text."""
    return json.dumps(plain(value), indent=1, allow_nan=False)


def read_json(path: str | Path) -> dict[str, Any]:
    """What :func:`write_json` wrote.

    Raises:
        ValueError: cut short, damaged, or no dict; names the file.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove the folder it lies in, or choose another"
        ) from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} holds a {type(value).__name__}, not what MetaFace wrote there: "
            "remove the folder it lies in, or choose another"
        )
    return value


def write_json(path: str | Path, value: Any) -> None:
    """Write :func:`dumps` of ``value`` whole or not at all, in a folder that is made where it is
    missing."""
    with replacing(Path(path)) as file:
        file.write((dumps(value) + "\n").encode())
