"""New photographs of a person, compared with everybody who is enrolled and the strangers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metaface._text import folded
from metaface.metrics.cohort import Cohort, compute_prototypes, normalise
from metaface.metrics.thresholds import calibrate
from metaface.recognition.alike import group_alike, same_picture_cosine
from metaface.recognition.embedders import Embedder
from metaface.recognition.gallery.gallery import Enrolled
from metaface.recognition.lookalikes import find_enrolled_lookalikes, find_nearest, usual_cosine
from metaface.recognition.published import published_threshold

_LISTED = 5  # photographs in a remark
_UNUSUAL = 0.01  # false match rate of a cosine that links photographs of one person


class Newcomers:
    """Who is enrolled, growing person by person; finds photographs that may have been mixed up.

    Args:
        enrolled: everyone in the gallery.
        strangers: those the user gave; none: an empty cohort.
        fpir: the rate at which they may look like somebody; with enough of them, the threshold of
            that rate says who looks like whom.
        embedder: what made the embeddings. Without enough strangers, and with nothing published of
            it, nothing is said of who looks like whom.
    """

    def __init__(
        self,
        enrolled: Enrolled,
        strangers: Cohort,
        fpir: float,
        embedder: Embedder,
    ) -> None:
        self._embedder, self._fpir, self._strangers = embedder, fpir, strangers
        self._same = same_picture_cosine(embedder)
        self._names = {name: i for i, name in enumerate(enrolled.names)}
        self._folded: dict[str, str] = {}
        for name in reversed(enrolled.names):
            self._folded[folded(name)] = name
        self._faces, self._person = enrolled.embeddings, enrolled.person
        self._count = len(self._person)
        order = np.argsort(self._person, kind="stable")
        ends = np.cumsum(np.bincount(self._person, minlength=len(self._names)))[:-1]
        self._rows = dict(enumerate(np.split(order, ends))) if self._names else {}
        self._people = enrolled.embeddings[:0]
        if self._names:
            self._people = compute_prototypes(self._faces, self._person, len(self._names))
        self._base = strangers.baseline(strangers.embeddings, strangers.person)
        self._usual = usual_cosine(self._faces, self._person, len(self._names))
        self._best, _ = find_nearest(strangers.embeddings, self._people)

    def find_repeated(self, name: str, embeddings: np.ndarray) -> np.ndarray:
        """Which photographs of a person are enrolled already, or are there twice.

        Args:
            embeddings: float32 ``[k, D]``.

        Returns:
            bool ``[k]``: of several that are the same picture, the first is not.
        """
        group = group_alike(embeddings, self._same)
        again = np.ones(len(embeddings), bool)
        again[np.unique(group, return_index=True)[1]] = False
        mine = self._rows_of(name)
        return again | (self._nearest(embeddings, mine)[0] >= self._same)

    def list_remarks(
        self, name: str, embeddings: np.ndarray, photos: Sequence[str]
    ) -> tuple[str, ...]:
        """Why new photographs of a person may be wrong, in words.

        Args:
            embeddings: float32 ``[k, D]``, k at least 1.
            photos: what each is called.
        """
        return tuple(
            remark
            for remark in (
                self._same_name(name),
                self._same_pictures(name, embeddings, photos),
                self._strange_pictures(embeddings, photos),
                self._look_alike(name, embeddings),
                self._inconsistent(name, embeddings, photos),
            )
            if remark
        )

    def add(self, name: str, embeddings: np.ndarray) -> None:
        """Note that these photographs of a person, float32 ``[k, D]``, are enrolled."""
        number = self._names.setdefault(name, len(self._names))
        self._folded.setdefault(folded(name), name)
        stop = self._count + len(embeddings)
        if stop > len(self._faces):
            self._faces = _grow(self._faces, stop)
            self._person = _grow(self._person, stop)
        self._faces[self._count : stop] = embeddings
        self._person[self._count : stop] = number
        self._rows[number] = np.concatenate([self._rows_of(name), np.arange(self._count, stop)])
        self._count = stop
        if number >= len(self._people):
            self._people = _grow(self._people, len(self._names))
        mine = normalise(self._faces[self._rows_of(name)].sum(0))
        self._people[number] = mine
        np.maximum(self._best, self._strangers.embeddings @ mine, out=self._best)

    def _rows_of(self, name: str) -> np.ndarray:
        return self._rows.get(self._names.get(name, -1), np.empty(0, np.int64))

    def _nearest(self, embeddings: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The largest cosine of each with the faces of some rows, and which that is."""
        if not len(rows):
            return np.full(len(embeddings), -1, np.float32), np.zeros(len(embeddings), np.int64)
        cosines = embeddings @ self._faces[rows].T
        return cosines.max(1), rows[cosines.argmax(1)]

    def _same_name(self, name: str) -> str | None:
        other = self._folded.get(folded(name))
        if name in self._names or other is None:
            return None
        return f"{other} is enrolled, a name that differs in case, width or accents only"

    def _same_pictures(
        self, name: str, embeddings: np.ndarray, photos: Sequence[str]
    ) -> str | None:
        everyone = self._faces[: self._count]
        if not len(everyone):
            return None
        cosines = embeddings @ everyone.T
        cosines[:, self._rows_of(name)] = -1
        there = np.flatnonzero(cosines.max(1) >= self._same)
        if not len(there):
            return None
        names = list(self._names)
        whose = sorted({names[p] for p in self._person[cosines[there].argmax(1)]})
        return (
            f"{len(there)} of {len(photos)} photographs are enrolled as {', '.join(whose)}, too: "
            f"{_join(photos, there)}"
        )

    def _strange_pictures(self, embeddings: np.ndarray, photos: Sequence[str]) -> str | None:
        if not len(self._strangers):
            return None
        cosines = embeddings @ self._strangers.embeddings.T
        there = np.flatnonzero(cosines.max(1) >= self._same)
        if not len(there):
            return None
        return (
            f"{len(there)} of {len(photos)} photographs were given as strangers', too: "
            f"{_join(photos, there)}"
        )

    def _look_alike(self, name: str, embeddings: np.ndarray) -> str | None:
        if name in self._names:
            return None
        other = self._find_similar(name, embeddings)
        return other and f"looks like {other}"

    def _find_similar(self, name: str, embeddings: np.ndarray) -> str | None:
        """Whom these photographs, taken together, look like, other than ``name``; and how much."""
        people = len(self._names)
        if people - (name in self._names) < 1:
            return None
        probe = normalise(embeddings.sum(0))
        scores = self._people[:people] @ probe
        threshold, normalised = self._threshold(people)
        if normalised:
            scores = scores - self._strangers.baseline(probe[None])
        if name in self._names:
            scores[self._names[name]] = -np.inf
        best = int(scores.argmax())
        if threshold is None or scores[best] < threshold:
            return None
        return f"{list(self._names)[best]} ({scores[best]:.2f})"

    def _threshold(self, people: int) -> tuple[float | None, bool]:
        """The score from which somebody looks like one of so many people, and whether it is
        normalised by the strangers."""
        person = self._strangers.person
        lookalike, _ = find_enrolled_lookalikes(
            self._best, self._base, person, people, self._usual, self._embedder
        )
        rows = ~lookalike
        if rows.any():
            calibration = calibrate((self._best - self._base)[rows], person[rows], self._fpir)
            if calibration.verified:
                return calibration.threshold, True
        return published_threshold(self._embedder, people, self._fpir), False

    def _inconsistent(self, name: str, embeddings: np.ndarray, photos: Sequence[str]) -> str | None:
        """Photographs that are not linked to the others of the name by a cosine that is unusual
        between two people."""
        min_cosine = published_threshold(self._embedder, 1, _UNUSUAL)
        if min_cosine is None:
            return None
        group = group_alike(embeddings, min_cosine)
        mine = self._rows_of(name)
        if len(mine):
            own = np.unique(group[self._nearest(embeddings, mine)[0] >= min_cosine])
        else:
            own = np.array([np.bincount(group).argmax()])
        out = np.flatnonzero(~np.isin(group, own))
        if not len(out):
            return None
        other = self._find_similar(name, embeddings[out])
        return (
            f"{len(out)} of {len(photos)} photographs look like somebody else"
            f"{f', {other}' if other else ''}: {_join(photos, out)}"
        )


def _grow(array: np.ndarray, rows: int) -> np.ndarray:
    """A copy with room for ``rows`` rows, and as many again."""
    room = np.empty((2 * rows, *array.shape[1:]), array.dtype)
    room[: len(array)] = array
    return room


def _join(texts: Sequence[str], rows: np.ndarray) -> str:
    more = len(rows) - _LISTED
    some = ", ".join(texts[row] for row in rows[:_LISTED].tolist())
    return some + (f" and {more} more" if more > 0 else "")
