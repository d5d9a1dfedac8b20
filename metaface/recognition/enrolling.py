"""Embedded photographs of people into a gallery, checked against all who are in it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from metaface._text import printable
from metaface.data import Skipped
from metaface.faces.photos import Photo, Unusable, find_name
from metaface.recognition.embedded_faces import EmbeddedFaces
from metaface.recognition.embedders import Embedder
from metaface.recognition.gallery.gallery import Gallery
from metaface.recognition.gallery.names import person_name
from metaface.recognition.newcomers import Newcomers
from metaface.recognition.results import Enrolment
from metaface.recognition.state import read_cohort, read_fpir, read_version

log = logging.getLogger("metaface.recognition")


class Enroller:
    """Adds photographs of people to a gallery. Threads may share one.

    Args:
        gallery: made by ``embedder``.
        note_change: called by the thread that has added photographs.
    """

    def __init__(
        self, gallery: Gallery, embedder: Embedder, note_change: Callable[[], None]
    ) -> None:
        self.gallery, self.embedder, self._note_change = gallery, embedder, note_change
        self._turn = threading.RLock()  # held by who uses `_newcomers`
        self._newcomers: tuple[tuple[Any, ...], Newcomers] | None = None

    def enroll(
        self,
        name: str,
        photos: Sequence[Photo],
        embedded: Iterator[EmbeddedFaces | Unusable],
        strict: bool,
    ) -> Enrolment:
        """Enrol the usable ones of a person's photographs.

        Args:
            name: as :func:`person_name` gives it.
            photos: what they are called.
            embedded: the face of each, or why there is none; not read further.
            strict: enrol none of them where there are remarks.
        """
        faces, paths, skipped = [], [], []
        for number, (photo, one) in enumerate(zip(photos, embedded, strict=False), 1):
            if isinstance(one, Unusable):
                skipped.append(Skipped(find_name(photo) or "an image", str(one)))
            else:
                faces.append(one)
                paths.append(find_name(photo) or f"photograph {number}")
        outcome = Enrolment(name, 0, tuple(skipped))
        return self._add(outcome, faces, paths, strict) if faces else outcome

    def forget(self, name: str) -> int:
        """Forget a person; returns how many photographs were deleted."""
        with self._turn:
            self._newcomers = None
            return self.gallery.forget(name)

    def _add(
        self, outcome: Enrolment, faces: list[EmbeddedFaces], paths: list[str], strict: bool
    ) -> Enrolment:
        """Enrol faces, by what the photograph of each is called; completes ``outcome``."""
        name = outcome.name
        embeddings = np.concatenate([one.embeddings for one in faces])
        with self._turn, self.gallery.changing():
            newcomers = self._read_newcomers()
            new = np.flatnonzero(~newcomers.find_repeated(name, embeddings))
            outcome = replace(outcome, repeated=len(faces) - len(new))
            if not len(new):
                return outcome
            faces, paths = [faces[i] for i in new], [paths[i] for i in new]
            embeddings = embeddings[new]
            remarks = newcomers.list_remarks(name, embeddings, paths)
            for remark in remarks:
                log.warning("%s: %s", printable(name), printable(remark))
            outcome = replace(outcome, remarks=remarks)
            if remarks and strict:
                reasons = ["; ".join(remarks), *["refused with it"] * (len(paths) - 1)]
                refused = map(Skipped, paths, reasons)
                return replace(outcome, skipped=(*outcome.skipped, *refused))
            keeps = self.gallery.keep_crops
            crops = np.concatenate([one.crops for one in faces]) if keeps else None
            self.gallery.add(name, embeddings, crops)
            self._note_change()
            newcomers.add(name, embeddings)
            self._newcomers = read_version(self.gallery), newcomers
        pairs = zip(faces, paths, strict=True)
        several = tuple(one.describe_choice(path) for one, path in pairs if one.left)
        return replace(outcome, used=len(new), several=several)

    def _read_newcomers(self) -> Newcomers:
        """What new photographs are compared with; made anew where others changed the gallery."""
        version = read_version(self.gallery)
        if self._newcomers is None or self._newcomers[0] != version:
            made = Newcomers(
                self.gallery.enrolled(),
                read_cohort(self.gallery),
                read_fpir(self.gallery),
                self.embedder,
            )
            self._newcomers = version, made
        return self._newcomers[1]


def check_names(people: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The names of the people of a source, and why others' are refused; both by what they are
    called there."""
    names, refused = {}, {}
    for person in dict.fromkeys(people):
        try:
            names[person] = person_name(person)
        except ValueError as error:
            refused[person] = str(error)
    return names, refused
