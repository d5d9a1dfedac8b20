"""Faces to names, by what a gallery holds now."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from metaface import _extensions
from metaface.metrics.cohort import Cohort
from metaface.metrics.thresholds import Calibration
from metaface.recognition import adaptation, strangers
from metaface.recognition.adaptation import Adaptation
from metaface.recognition.alike import near_picture_cosine
from metaface.recognition.calibrating import calibrate_state
from metaface.recognition.embedded_faces import EmbeddedFaces
from metaface.recognition.embedders import Embedder
from metaface.recognition.gallery.gallery import Enrolled, Gallery
from metaface.recognition.gallery.search import Search
from metaface.recognition.lookalikes import compare_with_enrolled
from metaface.recognition.matching import Embeddings, MakeMatcher, Prototypes
from metaface.recognition.results import Match
from metaface.recognition.state import NOBODY, State, read_cohort, read_fpir, read_version

log = logging.getLogger("metaface.recognition")


class Identifier:
    """Names faces by what a gallery holds now.

    After a change of the gallery the state is made anew, by one thread (the first that needs it).
    Others go on with the state before until that is done; those that made the change themselves
    (:meth:`note_change`) wait and, where somebody was forgotten, all do.

    Args:
        gallery: who is known.
        embedder: what made its embeddings.
        search: makes an empty search engine for D values a face.
    """

    def __init__(
        self, gallery: Gallery, embedder: Embedder, search: Callable[[int], Search]
    ) -> None:
        self.gallery, self.embedder, self._search = gallery, embedder, search
        self._state: State | None = None
        self._making = threading.RLock()  # held by who makes a state, or lets one go
        self._own = threading.local()  # .changed: this thread must see what it has changed
        self._procedural: Embeddings | None = None

    def match(self, faces: EmbeddedFaces) -> Iterator[Match]:
        """Who each face is."""
        state = self.state()
        calibration = state.calibration
        if state.matcher is None or calibration is None:  # nobody is enrolled
            yield from (Match(None, None, None, faces.box(i)) for i in range(len(faces.boxes)))
            return
        scores, persons = state.matcher(Embeddings(faces.embeddings, faces.crops))
        for i, (score, person) in enumerate(zip(scores.tolist(), persons.tolist(), strict=True)):
            box = faces.box(i)
            if not math.isfinite(score):
                yield Match(None, None, None, box)
                continue
            nearest = state.names[person]
            name = nearest if score >= calibration.threshold else None
            yield Match(name, nearest, score, box, calibration.probability(score))

    def calibration(self) -> Calibration:
        """The threshold for the gallery as it is now.

        Raises:
            ValueError: nobody is enrolled.
        """
        calibration = self.state().calibration
        if calibration is None:
            raise ValueError(NOBODY)
        return calibration

    def note_change(self) -> None:
        """This thread has changed the gallery: its next call waits for the new state."""
        self._own.changed = True

    def drop_forgotten(self) -> None:
        """Let the state go where it holds somebody who was forgotten, and clear the engine."""
        with self._making:
            state = self._state
            if state is not None and self._holds_forgotten(state):
                self._state = None
                if isinstance(state.matcher, Prototypes):
                    self._clear(state.matcher.engine, state.matcher.ids)

    def judge(self, learner: str, options: dict[str, Any]) -> Adaptation:
        """Compare a learner that adapts to the enrolled people with prototypes.

        Raises:
            ValueError: see :meth:`Recognizer.adapt`.
        """
        if not self.gallery.people():
            raise ValueError("nobody is enrolled: there is nothing to adapt to")
        with self.gallery.moment():
            everyone, fpir = read_cohort(self.gallery), read_fpir(self.gallery)
            if not len(everyone):
                raise ValueError(
                    "no strangers to judge an adapted classifier by: calibrate with "
                    "photographs of people who are not enrolled first"
                )
            make, crops = adaptation.prepare_adaptation(
                learner, options, self.embedder, self.gallery.keep_crops
            )
            if reason := adaptation.explain_too_large(learner, self.gallery.people(), crops):
                raise ValueError(reason)
            enrolled, faces = self._read_enrolled(crops)
            pictures = self.gallery.stranger_crops() if crops else None
        rows = self._find_true_strangers(everyone, enrolled)
        if not len(rows):
            raise ValueError(
                "all strangers look like somebody enrolled: calibrate with photographs of "
                "people who are not enrolled first"
            )
        impostors = self._select_impostors(everyone, rows, pictures)
        near = near_picture_cosine(self.embedder)
        known = (faces, enrolled.person)
        return adaptation.judge(learner, options, make, known, impostors, fpir, near)

    def state(self) -> State:
        """What the gallery holds now; made anew, by one thread at a time, where it has changed."""
        state = self._state
        if state is not None and state.version == read_version(self.gallery):
            return state
        waits = (
            state is None or getattr(self._own, "changed", False) or self._holds_forgotten(state)
        )
        if not self._making.acquire(blocking=waits):
            assert state is not None
            return state
        try:
            if self._state is None or self._state.version != read_version(self.gallery):
                self._state = self._make_state()
            self._own.changed = False
            return self._state
        finally:
            self._making.release()

    def _make_state(self) -> State:
        engine = self._search(self.embedder.dim)
        there = engine.ids()  # who was enrolled before now, since who comes is enrolled first
        with self.gallery.moment():
            version, fpir = read_version(self.gallery), read_fpir(self.gallery)
            everyone = read_cohort(self.gallery)
            adapted, crops = self._prepare_kept_learner() if len(everyone) else (None, False)
            enrolled, faces = self._read_enrolled(crops)
            pictures = self.gallery.stranger_crops() if crops else None
        rows = self._find_true_strangers(everyone, enrolled)
        if adapted is not None and not len(rows):
            log.warning("prototypes are used again: all strangers look like somebody enrolled")
            adapted = None
        cohort = Cohort(everyone.embeddings[rows], everyone.person[rows])
        state = State(
            version,
            fpir,
            enrolled.people,
            enrolled.names,
            faces,
            enrolled.person,
            cohort,
            lookalikes=len(everyone) - len(rows),
            make=adapted or partial(Prototypes, cohort=cohort),
        )
        if adapted is not None and state.names:
            state.matcher = adapted(faces, state.person)
        elif state.names:
            latest = np.zeros(len(state.names), np.int64)
            np.maximum.at(latest, enrolled.person, enrolled.ids)
            state.matcher = Prototypes(faces, state.person, cohort, engine, latest)
            there = np.union1d(there, latest)
        self._clear(engine, there)
        if state.names:
            state.impostors = self._select_impostors(everyone, rows, pictures)
            state.calibration = calibrate_state(state, self.embedder)
        # what only the calibration needed takes memory
        state.faces, state.impostors = Embeddings(np.empty_like(faces.embeddings[:0])), None
        return state

    def _prepare_kept_learner(self) -> tuple[MakeMatcher | None, bool]:
        """What adapts the learner that was kept, if any, and whether it needs crops."""
        kept = self.gallery.setting("adaptation")
        if not kept:
            return None, False
        with _extensions.reading_a_file():
            make, crops = adaptation.prepare_adaptation(
                kept["learner"], kept["options"], self.embedder, self.gallery.keep_crops
            )
        if reason := adaptation.explain_too_large(kept["learner"], self.gallery.people(), crops):
            log.warning("prototypes are used again: %s", reason)
            return None, False
        return make, crops

    def _read_enrolled(self, crops: bool) -> tuple[Enrolled, Embeddings]:
        """Everyone and their faces; with their crops, if need be."""
        enrolled = self.gallery.enrolled()
        return enrolled, Embeddings(enrolled.embeddings, self.gallery.crops() if crops else None)

    def _find_true_strangers(self, everyone: Cohort, enrolled: Enrolled) -> np.ndarray:
        """Which of the strangers look like nobody who is enrolled, int64 ``[k]``, rows."""
        if not (len(everyone) and enrolled.names):
            return np.arange(len(everyone))
        return np.flatnonzero(~compare_with_enrolled(everyone, enrolled, self.embedder).lookalike)

    def _select_impostors(
        self, everyone: Cohort, rows: np.ndarray, pictures: np.ndarray | None
    ) -> tuple[Embeddings, np.ndarray]:
        """Some ``rows`` of the strangers or, if none, procedural faces; and whose each is.

        Args:
            pictures: crops of everyone, or None.
        """
        if len(rows):
            crops = None if pictures is None else pictures[rows]
            return Embeddings(everyone.embeddings[rows], crops), everyone.person[rows]
        if self._procedural is None:
            self._procedural = strangers.embed_procedural(self.embedder)
        return self._procedural, np.arange(len(self._procedural))

    def _clear(self, engine: Search, there: np.ndarray) -> None:
        """Remove from an engine those who were ``there`` and are not enrolled any more.

        Whoever is enrolled later is not touched: another process may have entered them already.
        """
        gone = np.setdiff1d(there, self.gallery.latest())
        if len(gone):
            engine.remove(gone)

    def _holds_forgotten(self, state: State) -> bool:
        """Whether somebody was forgotten since, or the gallery is another one."""
        return state.version[0] != self.gallery.files or not self.gallery.all_there(state.people)
