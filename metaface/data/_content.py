"""Photographs known by what they show, wherever they lie and whatever they are called."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np

from metaface.data._skipped import TWICE, Skipped

_NAMED = 3  # people that a message names

_LOOKED_AT = 28  # pixels a side
_SHADE = 8  # levels of 256 that count as one shade
_SHOWN = 0.1  # share of the pixels that must be of another shade than most


def digest(picture: np.ndarray) -> int:
    """A signed 64-bit number for the pixels of a picture, uint8 ``[H, W, C]``."""
    hashed = blake2b(picture.tobytes(), digest_size=8).digest()
    return int.from_bytes(hashed, "little", signed=True)


def digest_all(store: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """int64 ``[M]``: :func:`digest` of the pictures ``store[rows]``."""
    return np.fromiter((digest(store[row]) for row in rows), np.int64, len(rows))


def is_distinctive(picture: np.ndarray) -> bool:
    """Whether a picture shows enough for an equal one to be the same photograph: not one that is
    black, blank, or a dot on paper."""
    step = max(1, min(picture.shape[:2]) // _LOOKED_AT)
    some = picture[::step, ::step]
    away = np.abs(some - np.median(some, axis=(0, 1)))
    return bool((away > _SHADE).any(-1).mean() >= _SHOWN)


class Distinct:
    """The pictures of one set, each once: what is there again is left out, and what is there under
    several people is nobody's.

    Equal are pictures whose pixels are; those that show next to nothing are not compared, see
    :func:`is_distinctive`.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[str, str]] = []  # path and person
        self._row: dict[int, int] = {}  # by content
        self._shared: dict[int, list[str]] = {}  # other people's names, by row

    def add(self, path: str, person: str, picture: np.ndarray) -> Skipped | None:
        """Why a picture is left out; None: it is kept, in the next row."""
        row = self._row.setdefault(digest(picture), len(self._kept))
        if row == len(self._kept) or not is_distinctive(picture):
            self._kept.append((path, person))
            return None
        first, owner = self._kept[row]
        if owner == person:
            return Skipped(path, f"{TWICE} as {first}")
        self._shared.setdefault(row, []).append(person)
        return Skipped(path, _say_several([owner, person]))

    def nobodys(self) -> dict[int, Skipped]:
        """The rows that were kept, and are nobody's."""
        return {
            row: Skipped(self._kept[row][0], _say_several([self._kept[row][1], *others]))
            for row, others in self._shared.items()
        }


def _say_several(people: list[str]) -> str:
    names = list(dict.fromkeys(people))
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    under = " and ".join([*names[:_NAMED], *more])
    return f"one picture under several people ({under}): nobody knows whose it is"
