"""Many searches at once, or one change alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Lets any number of threads search, or one of them change what they search.

    A change waits for the searches that have begun; what begins meanwhile waits for the change.
    """

    def __init__(self) -> None:
        self._turn = threading.Condition()
        self._searching = 0
        self._changing = False

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Nothing is changed in the block."""
        with self._turn:
            while self._changing:
                self._turn.wait()
            self._searching += 1
        try:
            yield
        finally:
            with self._turn:
                self._searching -= 1
                self._turn.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else searches or changes anything in the block; do not enter it twice."""
        with self._turn:
            while self._changing:
                self._turn.wait()
            self._changing = True
        try:
            with self._turn:
                while self._searching:
                    self._turn.wait()
            yield
        finally:
            with self._turn:
                self._changing = False
                self._turn.notify_all()
