"""JSON that every reader takes: it has no NaN and no Infinity."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from metaface._atomic import replacing
from metaface._digest import content_digest

_CHECKSUM = "sha256"
_REMEDY = "remove the folder it lies in, or choose another"


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


def write_json(path: str | Path, value: Any) -> None:
    """Write :func:`dumps` of ``value`` whole or not at all, in a folder that is made where it is
    missing."""
    with replacing(Path(path)) as file:
        file.write((dumps(value) + "\n").encode())


def write_record(path: str | Path, value: dict[str, Any]) -> None:
    """:func:`write_json` for what MetaFace reads again: with a checksum of its content as last
    entry, ``sha256``."""
    write_json(path, value | {_CHECKSUM: content_digest(json.loads(dumps(value)))})


def read_record(path: str | Path) -> dict[str, Any]:
    """What :func:`write_record` wrote; its layout may have changed, its content not. A record
    without a checksum is taken as it is: versions before 0.2 wrote none.

    Raises:
        ValueError: cut short, damaged or changed, or no dict; names the file.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {_REMEDY}") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} holds a {type(value).__name__}, not what MetaFace wrote there: {_REMEDY}"
        )
    checksum = value.pop(_CHECKSUM, None)
    if checksum is not None and checksum != content_digest(value):
        raise ValueError(
            f"{path} is damaged or was changed: its content does not fit its checksum: {_REMEDY}, "
            "or put a copy of yours in its place"
        )
    return value
