"""What was left out of a set, and how it is said."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from metaface._text import printable

TWICE = "the same picture"  # how the reason starts why a second copy was left out
_LISTED = 10  # left-out files that a message names

log = logging.getLogger("metaface.data")


@dataclass(frozen=True)
class Skipped:
    """A photograph that was left out, and why.

    Example:
        >>> import metaface as mf
        >>> skipped = mf.data.Skipped(path="ana/3.jpg", reason="not a picture")
        >>> f"{skipped.path}: {skipped.reason}"
        'ana/3.jpg: not a picture'
    """

    path: str
    reason: str


def report_skipped(name: str, skipped: Sequence[Skipped], used: int) -> None:
    """Say which files of the set ``name`` were left out, beside ``used`` that were not; pictures
    that are there more than once apart from the others."""
    twice = [s for s in skipped if s.reason.startswith(TWICE)]
    others = [s for s in skipped if not s.reason.startswith(TWICE)]
    if others:
        listed = [printable(f"{s.path} ({s.reason})") for s in others[:_LISTED]]
        more = len(others) - len(listed)
        log.warning(
            "%s: %d skipped, %d pictures used: %s",
            printable(name),
            len(others),
            used,
            ", ".join(listed) + (f" and {more} more" if more else ""),
        )
    if twice:
        log.warning(
            "%s: %d pictures are there more than once, such as %s (%s): each counts once",
            printable(name),
            len(twice),
            printable(twice[0].path),
            printable(twice[0].reason),
        )
