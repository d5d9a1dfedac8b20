"""Pillow without its warnings: of odd metadata, and of bombs, which are refused anyway."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_turn = Lock()
_inside = 0
_filters = warnings.catch_warnings()


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore what modules of Pillow warn of. Any number of threads may be inside at once.

    ``warnings.catch_warnings`` alone is not made for that: the filters are the process's, and a
    thread that leaves restores what another has just set.
    """
    global _inside, _filters
    with _turn:
        if not _inside:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _inside += 1
    try:
        yield
    finally:
        with _turn:
            _inside -= 1
            if not _inside:
                _filters.__exit__(None, None, None)
