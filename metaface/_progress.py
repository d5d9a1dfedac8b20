"""Progress of what takes long: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

EVERY = 30.0  # seconds between two lines of a log; what is done before the first says nothing
_LINE = "{desc}: {percentage:.0f}% after {elapsed}, {remaining} left{postfix}"


def track(items: Iterable[Any] | None = None, *, show: bool = True, **options: Any) -> tqdm:
    """A progress bar or, where standard error is no terminal and no notebook, lines of text.

    Args:
        items: what to go through; None: the progress is told by ``update``.
        show: False: say nothing.
        options: as tqdm takes them.
    """
    if not show or sys.stderr is None:
        return tqdm(items, disable=True, **options)
    if sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm(items, **options)
    return tqdm(items, **options | {"file": _Lines(), "bar_format": _LINE, "mininterval": 1.0})


class _Lines:
    """Takes what tqdm draws over and over, and writes it as a line when one is due."""

    def __init__(self) -> None:
        self._due = time.monotonic() + EVERY

    def write(self, text: str) -> None:
        line = text.strip()
        if line and time.monotonic() >= self._due:
            print(line, file=sys.stderr, flush=True)
            self._due = time.monotonic() + EVERY

    def flush(self) -> None:
        pass
