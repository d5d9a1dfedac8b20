"""The recogniser: a few photographs of each person in, names or "unknown" out."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np

from metaface._progress import track
from metaface._text import given_path, printable
from metaface.arguments import between_0_and_1
from metaface.data import Skipped
from metaface.data._sources import open_source
from metaface.faces import choose
from metaface.faces.detect import Detector, YuNet
from metaface.faces.photos import Photo, Unusable, find_name, list_photos
from metaface.metrics.cohort import Cohort, prototypes, within
from metaface.metrics.thresholds import Calibration, calibrate, with_genuine
from metaface.recognition import adaptation, alike, models, strangers
from metaface.recognition.adaptation import Adaptation
from metaface.recognition.embedded_faces import EmbeddedFaces, embed_faces
from metaface.recognition.embedders import loading
from metaface.recognition.embedders.loading import Embedder
from metaface.recognition.gallery.gallery import Enrolled, Gallery, GalleryError
from metaface.recognition.gallery.names import person_name
from metaface.recognition.gallery.search import Exact, Search
from metaface.recognition.matching import Embeddings, Make, Matcher, Prototypes, left_out
from metaface.recognition.newcomers import Newcomers
from metaface.recognition.results import Chosen, Enrolment, Identified, Match, Verified

log = logging.getLogger("metaface.recognition")

DEFAULT = "mobilefacenet_casia"
FPIR = 0.01
FMR = 0.001
_NOBODY = "nobody is enrolled: enrol people first, and then calibrate"
_COMPARED = 2000  # enrolled photographs whose similarity to other people is looked at


@dataclass(eq=False)
class _Known:
    """What is derived from one version of the gallery and its settings.

    It is made by one thread and, once others see it, not changed any more: names, ids and vectors
    belong together whatever becomes of the gallery.
    """

    version: tuple[Any, ...]
    people: np.ndarray  # their ids, as in `Enrolled`
    names: tuple[str, ...]
    faces: Embeddings
    person: np.ndarray
    cohort: Cohort  # the strangers, without those who look like somebody enrolled
    lookalikes: int  # how many of those the user gave do
    make: Make  # of the same kind as `matcher`, of fewer faces
    matcher: Matcher
    strange: tuple[Embeddings, np.ndarray] | None = None  # by whom it is calibrated
    calibration: Calibration | None = None


class Recognizer:
    """Names the people in photographs, or says "unknown".

    Threads may share one. After a change, one thread makes what names are found by anew (the first
    that needs it). Others go on with what there was before until that is done; those that made the
    change themselves wait and, where somebody was forgotten, all do: a call that begins after
    ``forget`` has returned names them no more.

    Args:
        detector: finds faces.
        embedder: describes them.
        gallery: who is known; made by this ``embedder``. None: a new one, in memory.
        search: makes an empty search engine for D values a face; default: exact search.

    Example::

        people = Recognizer.from_pretrained(models="models/")
        people.enroll("Ana", ["a1.jpg", "a2.jpg"])
        people.calibrate("strangers/", fpir=0.01)
        for match in people.identify("party.jpg"):
            print(match.name or "unknown", match.score, match.box)
        people.save("office.gallery")
        people.close()

    or ``with Recognizer.load("office.gallery") as people:``, which closes the gallery at its end.
    """

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        gallery: Gallery | None = None,
        search: Callable[[int], Search] = Exact,
    ) -> None:
        self.detector, self.embedder, self._search = detector, embedder, search
        if gallery is None:
            gallery = Gallery(model=embedder.digest, model_name=embedder.name, dim=embedder.dim)
        self.gallery = gallery
        self._state: _Known | None = None
        self._making = threading.RLock()  # held by who makes a state, or lets one go
        self._own = threading.local()  # .changed: this thread must see what it has changed
        self._enrolling = threading.RLock()  # held by who uses `_newcomers`; before `_making`
        self._newcomers: tuple[tuple[Any, ...], Newcomers] | None = None
        self._procedural: Embeddings | None = None

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path = DEFAULT,
        *,
        models: str | Path | None = None,
        detector: Detector | None = None,
        gallery: str | Path = ":memory:",
        keep_crops: bool | None = None,
        search: Callable[[int], Search] = Exact,
    ) -> Recognizer:
        """A recogniser from model files; see docs/models.md for where they come from.

        Args:
            weights: a name of the registry, or the path of a checkpoint (of ``metaface train``,
                too), a safetensors (of ``metaface multitask``, too) or an ONNX file.
            models: the folder of the model files; else METAFACE_MODELS, else
                ~/.cache/metaface/models.
            detector: instead of YuNet, or of a network that detects as well.
            gallery: a file, which every change is written to; created where there is none.
            keep_crops: whether a new gallery keeps the aligned faces, too: needed by learners that
                adapt the whole network.
            search: see the class.

        Raises:
            metaface.recognition.ModelMissing: no such model file; says how to get it.
            metaface.recognition.GalleryError: the gallery was made by another model, or is none.
        """
        embedder = loading.load(weights, models)
        return cls(
            detector or detector_for(embedder, models),
            embedder,
            Gallery(
                gallery,
                model=embedder.digest,
                model_name=embedder.name,
                dim=embedder.dim,
                keep_crops=keep_crops,
            ),
            search,
        )

    @classmethod
    def load(
        cls, gallery: str | Path, weights: str | Path | None = None, **options: Any
    ) -> Recognizer:
        """The recogniser of a gallery that exists.

        Args:
            gallery: the file.
            weights: of the model that made it; None: by the name the gallery has of it.
            options: as :meth:`from_pretrained` takes them.

        Raises:
            FileNotFoundError: no such gallery.
            metaface.recognition.GalleryError: it calls its model by a path; or as
                :meth:`from_pretrained`.
        """
        if weights is None:
            with Gallery.open(gallery) as there:
                weights = there.model_name
            named = weights.startswith(("torchvision:", "timm:"))
            if not named and Path(weights).name != weights:  # a foreign file's word
                raise GalleryError(
                    "gallery_model_mismatch",
                    f"gallery {gallery} calls its model {weights!r}, which is a path and no name: "
                    "name the weights yourself (weights=..., --weights)",
                )
        return cls.from_pretrained(weights, gallery=gallery, **options)

    def save(self, path: str | Path) -> None:
        """Write the gallery to ``path``, whole or not at all, and go on with that file.

        Changes after it are in the file when the call that makes them returns; so are all changes
        of a gallery that is a file, and saving it under its own name does nothing.
        """
        path = given_path(path, "the gallery")
        if os.path.realpath(path.expanduser()) == self.gallery.path:
            return
        self.gallery.move_to(path)

    def close(self) -> None:
        """Close the gallery; the recogniser cannot be used any more. Closing twice is fine."""
        self.gallery.close()

    def __enter__(self) -> Recognizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- people ------------------------------------------------------------------------------

    def enroll(
        self, name: str, photos: Photo | Iterable[Photo], *, strict: bool = False
    ) -> Enrolment:
        """Learn a person from one photograph or more; retrains nothing.

        A person who is known gets the photographs in addition, but no picture twice. What speaks
        against them (they look like somebody else who is enrolled, or like several people) is
        logged, and in ``remarks``.

        Args:
            name: of the person.
            photos: a photograph (see ``metaface.faces.photos.read_reduced``), several, or the
                folder they lie in; each of that person alone, or with others much smaller.
            strict: refuse them, all together, where there are remarks.

        Raises:
            ValueError: no photograph can be used, with the reason of each; an empty name.
        """
        name, given = person_name(name), list_photos(photos)
        seen = self._seen(given, choose.pick_to_enrol)
        outcome = self._enrolled(name, given, seen, strict)
        if not outcome.used and (outcome.remarks or not outcome.repeated):
            reasons = "; ".join(f"{s.path}: {s.reason}" for s in outcome.skipped)
            raise ValueError(f"{name} cannot be enrolled: {reasons or 'no photographs'}")
        return outcome

    def enroll_all(
        self, source: str | Path, *, progress: bool = True, strict: bool = False
    ) -> Iterator[Enrolment]:
        """Learn everyone of a folder (or zip) of identity folders, or a CSV of path,person.

        Each person is in the gallery, whole, when they are yielded; interrupted, those stay. Who
        has a name that :func:`person_name` refuses is yielded with all
        photographs skipped, and the reason. Enrolling a source again adds what is new.

        Args:
            source: the folder, zip or CSV.
            progress: show a bar.
            strict: as :meth:`enroll` has it, person by person.

        Raises:
            FileNotFoundError, ValueError: nothing usable there.
        """
        path = given_path(source, "the photographs").expanduser()
        if not path.exists():
            raise FileNotFoundError(f"no such folder, zip or CSV: {path}")
        with open_source(path) as found:
            for left in found.skipped:
                log.warning("%s skipped: %s", printable(left.path), left.reason)
            names, refused = _names(photo.person for photo in found.photos)
            for person, reason in refused.items():
                paths = [photo.path for photo in found.photos if photo.person == person]
                yield Enrolment(person, 0, tuple(Skipped(path, reason) for path in paths))
            photos = [photo for photo in found.photos if photo.person in names]
            photos.sort(key=lambda photo: names[photo.person])
            bar = track(
                self._seen((partial(found.read, p) for p in photos), choose.pick_to_enrol),
                total=len(photos),
                desc="enrolling",
                unit="photo",
                show=progress,
            )
            seen = iter(bar)
            for name, group in groupby(photos, key=lambda photo: names[photo.person]):
                yield self._enrolled(name, [photo.path for photo in group], seen, strict)

    def _enrolled(
        self,
        name: str,
        photos: Sequence[Photo],
        seen: Iterator[EmbeddedFaces | Unusable],
        strict: bool,
    ) -> Enrolment:
        good, paths, skipped = [], [], []
        for number, (photo, one) in enumerate(zip(photos, seen, strict=False), 1):
            if isinstance(one, Unusable):
                skipped.append(Skipped(find_name(photo) or "an image", str(one)))
            else:
                good.append(one)
                paths.append(find_name(photo) or f"photograph {number}")
        if not good:
            return Enrolment(name, 0, tuple(skipped))
        return self._added(name, good, paths, skipped, strict)

    def _added(
        self,
        name: str,
        good: list[EmbeddedFaces],
        paths: list[str],
        skipped: list[Skipped],
        strict: bool,
    ) -> Enrolment:
        """Enrol photographs, by what each is called, of a person; others were ``skipped``."""
        embeddings = np.concatenate([one.embeddings for one in good])
        with self._enrolling, self.gallery.changing():
            newcomers = self._held_against()
            new = np.flatnonzero(~newcomers.repeated(name, embeddings))
            repeated = len(good) - len(new)
            if not len(new):
                return Enrolment(name, 0, tuple(skipped), repeated)
            good, paths = [good[i] for i in new], [paths[i] for i in new]
            embeddings = embeddings[new]
            remarks = newcomers.remarks(name, embeddings, paths)
            for remark in remarks:
                log.warning("%s: %s", printable(name), printable(remark))
            if remarks and strict:
                reasons = ["; ".join(remarks), *["refused with it"] * (len(paths) - 1)]
                skipped = skipped + list(map(Skipped, paths, reasons))
                return Enrolment(name, 0, tuple(skipped), repeated, remarks)
            keeps = self.gallery.keep_crops
            crops = np.concatenate([one.crops for one in good]) if keeps else None
            self.gallery.add(name, embeddings, crops)
            self._own.changed = True
            newcomers.add(name, embeddings)
            self._newcomers = self._version(), newcomers
        several = tuple(_chosen(*pair) for pair in zip(paths, good, strict=True) if pair[1].left)
        return Enrolment(name, len(new), tuple(skipped), repeated, remarks, several)

    def _held_against(self) -> Newcomers:
        """What new photographs are held against; made anew where others changed the gallery."""
        version = self._version()
        if self._newcomers is None or self._newcomers[0] != version:
            everyone = self.gallery.enrolled()
            made = Newcomers(everyone, self._cohort(), self._fpir(), self.embedder)
            self._newcomers = version, made
        return self._newcomers[1]

    def people(self) -> dict[str, int]:
        """Who is known, and by how many photographs, in order of enrolment."""
        return self.gallery.people()

    def forget(self, name: str) -> int:
        """Forget a person: no trace stays in the gallery's file. Returns the photographs deleted.

        Adapted weights are never stored: they are made anew, without the person.

        Raises:
            metaface.recognition.GalleryError: ``unknown_person``.
        """
        try:
            with self._enrolling:
                self._newcomers = None
                return self.gallery.forget(name)
        finally:  # adapted weights and prototypes hold them, too
            with self._making:
                known = self._state
                if known is not None and self._holds_forgotten(known):
                    self._state = None
                    if isinstance(known.matcher, Prototypes):
                        self._clear(known.matcher.engine, known.matcher.ids)

    # -- photographs -------------------------------------------------------------------------

    def identify(self, photos: Photo | Iterable[Photo]) -> Any:
        """Who is in a photograph, or in several.

        Args:
            photos: a photograph (see ``metaface.faces.photos.read_reduced``), a list of them, or
                the folder they lie in.

        Returns:
            :class:`Identified` of one photograph; a list of them of several or of a folder. A
            photograph that cannot be used says why in ``skipped``; none raises.
        """
        given = list_photos(photos)
        found = list(self.identify_each(given))
        alone = isinstance(photos, (str, os.PathLike)) and not Path(photos).is_dir()
        single = alone or (len(given) == 1 and given[0] is photos)
        return found[0] if single else found

    def identify_each(self, photos: Iterable[Photo]) -> Iterator[Identified]:
        """:meth:`identify`, one photograph after the other."""
        given = list_photos(photos)
        for photo, seen in zip(given, self._seen(given, choose.pick_all), strict=True):
            if isinstance(seen, Unusable):
                yield Identified(find_name(photo), (), seen.reason, seen.detail)
            else:
                yield Identified(find_name(photo), tuple(self._matches(seen)))

    def _matches(self, seen: EmbeddedFaces) -> Iterator[Match]:
        known = self._known()
        boxes = [tuple(round(float(v), 1) for v in box) for box in seen.boxes]
        if not known.names:
            yield from (Match(None, None, None, box) for box in boxes)  # type: ignore[arg-type]
            return
        calibration = self._calibrated(known)
        scores, persons = known.matcher(Embeddings(seen.embeddings, seen.crops))
        for box, score, person in zip(boxes, scores.tolist(), persons.tolist(), strict=True):
            if not math.isfinite(score):
                yield Match(None, None, None, box)  # type: ignore[arg-type]
                continue
            nearest = known.names[person]
            yield Match(
                nearest if score >= calibration.threshold else None,
                nearest,
                score,
                box,  # type: ignore[arg-type]
                calibration.probability(score),
            )

    def verify(self, first: Photo, second: Photo, fmr: float = FMR) -> Verified:
        """Whether two photographs show the same person; nobody need be enrolled.

        Args:
            first, second: photographs; see ``metaface.faces.photos.read_reduced``.
            fmr: the false match rate, 0..1, that the threshold is for.

        Raises:
            metaface.recognition.Unusable: a photograph without a face, or with several.
        """
        fmr = between_0_and_1(fmr=fmr)
        pair: list[np.ndarray] = []
        several: list[Chosen] = []
        for photo in (first, second):
            (seen,) = self._seen([photo], choose.pick_one)
            if isinstance(seen, Unusable):
                raise Unusable(seen.reason, f"{find_name(photo) or 'an image'}: {seen.detail}")
            pair.append(seen.embeddings)
            if seen.left:
                several.append(_chosen(find_name(photo) or "an image", seen))
        a, b = pair
        cohort, threshold = strangers.for_pairs(self._cohort(), self.embedder, fmr)
        score = float(within(a @ b.T).item() - (cohort.baseline(a) + cohort.baseline(b)).item() / 2)
        same, given = score >= threshold, len(cohort) > 0
        return Verified(same, score, threshold, fmr, given, tuple(several))

    # -- "unknown" ---------------------------------------------------------------------------

    def calibrate(
        self, people: Any = None, fpir: float = FPIR, *, progress: bool = True
    ) -> Calibration:
        """Set how often a stranger may be given a name, and learn what strangers look like.

        The threshold follows the gallery as it grows; nothing need be called again.

        Args:
            people: photographs of people who are not in the gallery: a folder, a zip or a CSV (see
                :meth:`enroll_all`), or a list of photographs; in a list, or a folder without
                folders, photographs that look like one person are taken for one. A picture that
                is there twice counts once, and who looks like somebody enrolled is left out, by
                name in the log. Their embeddings are kept in the gallery. None: those given
                before or, failing that, procedural faces: the rate is then unverified.
            fpir: the false-positive identification rate, 0..1.

        Raises:
            ValueError: a rate out of range, nobody enrolled, no usable photograph, or all of them
                look like somebody enrolled.
        """
        fpir = between_0_and_1(fpir=fpir)
        if not self.people():
            raise ValueError(_NOBODY)
        if people is not None:
            embeddings, crops, person = self._strangers(people, progress)
            self.gallery.set_strangers(embeddings, person, crops, {"fpir": fpir})
        else:
            self.gallery.set_setting("fpir", fpir)
        self._own.changed = True
        return self.calibration()

    def calibration(self) -> Calibration:
        """The threshold for the gallery as it is now.

        Raises:
            ValueError: nobody is enrolled.
        """
        known = self._known()
        if not known.names:
            raise ValueError(_NOBODY)
        return self._calibrated(known)

    def adapt(self, learner: str | None, **options: Any) -> Adaptation | None:
        """Have a meta-learner, rather than prototypes, tell the enrolled people apart.

        It is kept only if, on enrolled photographs left out one by one, it names no fewer of them
        at the same rate of false alarms; else prototypes are used. See
        ``metaface.recognition.adaptation``.

        Args:
            learner: one of ``metaface.learners.LEARNERS``, adapted from the gallery's own embedding
                network; None: back to prototypes.
            options: of the learner, such as ``inner_lr=0.01``.

        Raises:
            ValueError: a learner that needs crops, which the gallery does not keep; an unknown one;
                nobody is enrolled, or more than fit into memory; or no strangers were given:
                nothing else says how high an adapted classifier scores them.
        """
        tried = None
        if learner is not None:
            if not self.people():
                raise ValueError("nobody is enrolled: there is nothing to adapt to")
            with self.gallery.moment():
                everyone, fpir = self._cohort(), self._fpir()
                if not len(everyone):
                    raise ValueError(
                        "no strangers to judge an adapted classifier by: calibrate with "
                        "photographs of people who are not enrolled first"
                    )
                keeps = self.gallery.keep_crops
                make, crops = adaptation.maker(learner, options, self.embedder, keeps)
                if reason := adaptation.too_large(learner, self.people(), crops):
                    raise ValueError(reason)
                enrolled, held = self._enrolled_faces(crops)
                pictures = self.gallery.stranger_crops() if crops else None
            rows = self._apart(everyone, enrolled)
            if not len(rows):
                raise ValueError(
                    "all strangers look like somebody enrolled: calibrate with photographs of "
                    "people who are not enrolled first"
                )
            strange = self._strange_faces(everyone, rows, pictures)
            near = alike.near_picture(self.embedder)
            known = (held, enrolled.person)
            tried = adaptation.judged(learner, options, make, known, strange, fpir, near)
        self.gallery.set_setting("adaptation", tried.as_dict() if tried and tried.kept else None)
        self._own.changed = True
        return tried

    # -- from one to the other ---------------------------------------------------------------

    def _seen(
        self, photos: Iterable[Photo], pick: choose.Pick
    ) -> Iterator[EmbeddedFaces | Unusable]:
        return embed_faces(photos, pick, self.detector, self.embedder)

    def _known(self) -> _Known:
        """What the gallery holds now; made anew, by one thread at a time, where it has changed."""
        known = self._state
        if known is not None and known.version == self._version():
            return known
        waits = (
            known is None or getattr(self._own, "changed", False) or self._holds_forgotten(known)
        )
        if not self._making.acquire(blocking=waits):
            assert known is not None
            return known
        try:
            if self._state is None or self._state.version != self._version():
                self._state = self._made()
            self._own.changed = False
            return self._state
        finally:
            self._making.release()

    def _made(self) -> _Known:
        engine = self._search(self.embedder.dim)
        there = engine.ids()  # who was enrolled before now, since who comes is enrolled first
        with self.gallery.moment():
            version = self._version()
            everyone = self._cohort()
            adapted = self.gallery.setting("adaptation") if len(everyone) else None
            learnt: Make | None = None
            crops = False
            if adapted:
                learnt, crops = adaptation.maker(
                    adapted["learner"], adapted["options"], self.embedder, self.gallery.keep_crops
                )
                if reason := adaptation.too_large(adapted["learner"], self.people(), crops):
                    log.warning("prototypes are used again: %s", reason)
                    learnt, crops = None, False
            enrolled, held = self._enrolled_faces(crops)
            pictures = self.gallery.stranger_crops() if crops else None
        rows = self._apart(everyone, enrolled)
        if learnt is not None and not len(rows):
            log.warning("prototypes are used again: all strangers look like somebody enrolled")
            learnt = None
        cohort = Cohort(everyone.embeddings[rows], everyone.person[rows])
        known = _Known(
            version,
            enrolled.people,
            enrolled.names,
            held,
            enrolled.person,
            cohort,
            len(everyone) - len(rows),
            learnt or partial(Prototypes, cohort=cohort),
            _nobody,
        )
        if learnt is not None and known.names:
            known.matcher = learnt(held, known.person)
        elif known.names:
            latest = np.zeros(len(known.names), np.int64)
            np.maximum.at(latest, enrolled.person, enrolled.ids)
            known.matcher = Prototypes(held, known.person, cohort, engine, latest)
            there = np.union1d(there, latest)
        self._clear(engine, there)
        if known.names:
            known.strange = self._strange_faces(everyone, rows, pictures)
            self._calibrated(known)
        known.faces, known.strange = (
            Embeddings(np.empty_like(held.embeddings[:0])),
            None,
        )  # their memory
        return known

    def _apart(self, everyone: Cohort, enrolled: Enrolled) -> np.ndarray:
        """Which of the strangers look like nobody who is enrolled, int64 ``[k]``, rows."""
        if not (len(everyone) and enrolled.names):
            return np.arange(len(everyone))
        found = strangers.held_against(
            everyone.embeddings,
            everyone.person,
            everyone,
            enrolled.embeddings,
            enrolled.person,
            self.embedder,
        )
        return np.flatnonzero(~found.does)

    def _clear(self, engine: Search, there: np.ndarray) -> None:
        """Remove from an engine those who were ``there`` and are not enrolled any more.

        Whoever is enrolled later is not touched: another process may have entered them already.
        """
        gone = np.setdiff1d(there, self.gallery.latest())
        if len(gone):
            engine.remove(gone)

    def _holds_forgotten(self, known: _Known) -> bool:
        """Whether somebody was forgotten since, or the gallery is another one."""
        return known.version[0] != self.gallery.files or not self.gallery.all_there(known.people)

    def _version(self) -> tuple[Any, ...]:
        """Another one after every change, also by another process."""
        with self.gallery.moment():
            revision, adapted = self.gallery.revision, self.gallery.setting("adaptation")
            return self.gallery.files, revision, self._fpir(), adapted

    def _enrolled_faces(self, crops: bool) -> tuple[Enrolled, Embeddings]:
        """Everyone and their faces; with their crops, if need be."""
        enrolled = self.gallery.enrolled()
        return enrolled, Embeddings(enrolled.embeddings, self.gallery.crops() if crops else None)

    def _calibrated(self, known: _Known) -> Calibration:
        if known.calibration is not None:
            return known.calibration
        assert known.strange is not None  # there is somebody
        held, person = known.strange
        best, _ = known.matcher(held, person)
        calibration = calibrate(best, person, known.version[2])
        given = len(known.cohort) > 0
        if not given:
            calibration = replace(calibration, strangers=0, stranger_photos=0, verified=False)
        people = prototypes(known.faces.embeddings, known.person, len(known.names))
        pairs = strangers.look_like_one(people, known.cohort, self.embedder)
        if not calibration.verified:
            twice = np.isin(known.person, [person for pair in pairs for person in pair[:2]])
            least = self._cautious(known, np.flatnonzero(~twice), calibration.fpir)
            calibration = replace(calibration, threshold=max(calibration.threshold, least))
        near = alike.near_picture(self.embedder)
        picture = alike.groups_within(known.faces.embeddings, known.person, near)
        genuine = left_out(known.make, known.faces, known.person, picture)
        calibration = with_genuine(calibration, *genuine, best if given else best[:0])
        known.calibration = replace(
            calibration,
            lookalikes=known.lookalikes,
            alike=tuple((known.names[a], known.names[b], c) for a, b, c in pairs),
        )
        return known.calibration

    def _cautious(self, known: _Known, rows: np.ndarray, fpir: float) -> float:
        """A threshold for want of strangers: where the model's published false match rates put it,
        and above what the enrolled people take each other for, in some rows of their faces."""
        if not isinstance(known.matcher, Prototypes):
            return -np.inf
        least = -np.inf
        published = strangers.published_threshold(self.embedder, len(known.names), fpir)
        if published is not None:
            cohort = known.cohort
            shift = cohort.baseline(cohort.embeddings, cohort.person)
            least = published - float(shift.mean() if len(shift) else 0)
        some = np.random.default_rng(0).permutation(rows)[:_COMPARED]
        others = known.matcher.others(known.faces[some], known.person[some])
        if len(others):
            least = max(least, calibrate(others, known.person[some], fpir).threshold)
        return least

    def _fpir(self) -> float:
        return float(self.gallery.setting("fpir") or FPIR)

    def _cohort(self) -> Cohort:
        return Cohort(*self.gallery.strangers())

    def _strange_faces(
        self, everyone: Cohort, rows: np.ndarray, pictures: np.ndarray | None
    ) -> tuple[Embeddings, np.ndarray]:
        """Some of the strangers given or, failing those, procedural ones; and who is who.

        Args:
            pictures: crops of everyone, or None.
        """
        if len(rows):
            crops = None if pictures is None else pictures[rows]
            return Embeddings(everyone.embeddings[rows], crops), everyone.person[rows]
        if self._procedural is None:
            self._procedural = strangers.procedural(self.embedder)
        return self._procedural, np.arange(len(self._procedural))

    def _strangers(self, source: Any, progress: bool) -> tuple[np.ndarray, Any, np.ndarray]:
        """Embeddings, crops (None: not kept) and people of the photographs of strangers."""
        good, photographs = [], []
        reasons: Counter[str] = Counter()
        with strangers.opened(source) as (photos, given):
            seen = self._seen(photos, choose.pick_one)
            bar = track(
                zip(seen, given, strict=True),
                total=len(given),
                desc="strangers",
                unit="photo",
                show=progress,
            )
            for one, photograph in bar:
                if isinstance(one, Unusable):
                    reasons[one.reason] += 1
                else:
                    good.append(one)
                    photographs.append(photograph)
        found = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        if not good:
            raise ValueError(f"no usable photograph of a stranger: {found}")
        if reasons:
            log.warning("photographs of strangers skipped: %s", found)
        embeddings = np.concatenate([one.embeddings for one in good])
        enrolled = self.gallery.enrolled()
        if not enrolled.names:
            raise ValueError(_NOBODY)
        rows, person = strangers.different(embeddings, photographs, enrolled, self.embedder)
        crops = None
        if self.gallery.keep_crops:
            crops = np.concatenate([good[row].crops for row in rows])
        return embeddings[rows], crops, person


def _chosen(path: str, seen: EmbeddedFaces) -> Chosen:
    """Which face was taken."""
    left, top, width, height = (round(float(v), 1) for v in seen.boxes[0])
    return Chosen(path, (left, top, width, height), seen.left)


def _names(people: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The names of the people of a source, and why others' are refused; both by what they are
    called there."""
    names, refused = {}, {}
    for person in dict.fromkeys(people):
        try:
            names[person] = person_name(person)
        except ValueError as error:
            refused[person] = str(error)
    return names, refused


def detector_for(embedder: Embedder, given: str | Path | None = None) -> Detector:
    """The embedder itself where it detects as well, else :func:`default_detector`."""
    from metaface.recognition.embedders.shared import JointFace  # which needs this package

    one: object = embedder
    return cast(Detector, one) if isinstance(one, JointFace) else default_detector(given)


def default_detector(given: str | Path | None = None) -> YuNet:
    """YuNet from the folder of models; see :meth:`Recognizer.from_pretrained`.

    Raises:
        metaface.recognition.ModelMissing: it is not there; says how to get it, and of
            :class:`Cascade`, which needs no model.
    """
    try:
        return YuNet(models.find("yunet", given))
    except models.ModelMissing as missing:
        with suppress(models.ModelMissing):  # the other export will do, too, from OpenCV 5 on
            return YuNet(models.find("yunet_dynamic", given))
        raise models.ModelMissing(
            f"{missing}. Without it: --detector cascade, OpenCV 4's bundled cascade, which finds "
            "fewer faces and no landmarks (docs/recognition.md)"
        ) from missing


def _nobody(
    probes: Embeddings, cohort_person: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    raise ValueError("nobody is enrolled")
