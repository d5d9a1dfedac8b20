"""The recogniser: a few photographs of each person in, names or "unknown" out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from metaface._progress import track
from metaface._text import given_path, printable
from metaface.arguments import between_0_and_1
from metaface.data import Skipped
from metaface.data._sources import open_source
from metaface.faces import choose
from metaface.faces.detect import Detector
from metaface.faces.photos import Photo, Unusable, find_name, list_photos
from metaface.metrics.cohort import clip_cosines
from metaface.metrics.thresholds import Calibration
from metaface.recognition.adaptation import Adaptation
from metaface.recognition.detectors import detector_for, load_detector
from metaface.recognition.embedded_faces import EmbeddedFaces, embed_faces
from metaface.recognition.embedders import Embedder, loading
from metaface.recognition.enrolling import Enroller, check_names
from metaface.recognition.gallery.gallery import Gallery, GalleryError
from metaface.recognition.gallery.names import person_name
from metaface.recognition.gallery.search import Exact, Search
from metaface.recognition.identifying import Identifier
from metaface.recognition.pair_threshold import calibrate_pairs
from metaface.recognition.results import Chosen, Enrolment, Identified, Verified
from metaface.recognition.state import FPIR, NOBODY, read_cohort
from metaface.recognition.strangers import embed_strangers, select_strangers

log = logging.getLogger("metaface.recognition")

DEFAULT = "mobilefacenet_casia"
FMR = 0.001


class Recognizer:
    """Names the people in photographs, or says "unknown".

    Threads may share one. After a change others go on with what there was before until one thread
    (the first that needs it) has read the gallery anew. Threads that made the change wait for that
    and, where somebody was forgotten, all do: a call that begins after ``forget`` has returned
    names them no more.

    Args:
        detector: finds faces.
        embedder: describes them.
        gallery: who is known; made by this ``embedder``. None: a new one, in memory.
        search: makes an empty search engine for D values a face; default: exact search.

    With the files of the models::

        people = Recognizer.from_pretrained(models="models/")
        people.enroll("Ana", ["a1.jpg", "a2.jpg"])
        people.calibrate("strangers/", fpir=0.01)
        for match in people.identify("party.jpg"):
            print(match.name or "unknown", match.score, match.box)
        people.save("office.gallery")
        people.close()

    or ``with Recognizer.load("office.gallery") as people:``, which closes the gallery at its end.

    Example:
        Without a model's file: the detector finds one face, the whole picture, and the embedding is
        the pixels.

        >>> import metaface as mf
        >>> import numpy as np
        >>> from metaface.faces.alignment import TEMPLATE
        >>> from metaface.recognition import Detections, Network, Preprocessing
        >>> photos = list(mf.synthetic.render(12, 6, 112, "frontal").images)  # six of each person
        >>> box, landmarks = np.float32([[0, 0, 112, 112]]), np.float32(TEMPLATE[None])
        >>> face = Detections(box, landmarks, scores=np.float32([1]))
        >>> net = mf.nets.Pixels(8)
        >>> pixels = Network(net, Preprocessing(), name="pixels", architecture="pixels")
        >>> people = mf.Recognizer(lambda picture: face, pixels)
        >>> for name, first in (("Ana", 0), ("Bo", 6)):
        ...     enrolment = people.enroll(name, photos[first : first + 5])
        >>> people.people()
        {'Ana': 5, 'Bo': 5}
    """

    def __init__(
        self,
        detector: Detector,
        embedder: Embedder,
        gallery: Gallery | None = None,
        search: Callable[[int], Search] = Exact,
    ) -> None:
        self.detector, self.embedder = detector, embedder
        if gallery is None:
            gallery = Gallery(model=embedder.digest, model_name=embedder.name, dim=embedder.dim)
        self.gallery = gallery
        self._identifier = Identifier(gallery, embedder, search)
        self._enroller = Enroller(gallery, embedder, self._identifier.note_change)

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path = DEFAULT,
        *,
        models: str | Path | None = None,
        detector: Detector | str | None = None,
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
            detector: instead of YuNet, or of a network that detects as well; or its name, see
                ``metaface.recognition.detectors.load_detector``.
            gallery: a file, which every change is written to; created where there is none.
            keep_crops: whether a new gallery keeps the aligned faces, too: needed by learners that
                adapt the whole network.
            search: see the class.

        Raises:
            metaface.recognition.ModelMissing: no such model file; says how to get it.
            metaface.recognition.GalleryError: the gallery was made by another model, or is none.
        """
        embedder = loading.load(weights, models)
        if isinstance(detector, str):
            detector = load_detector(detector, models)
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
            # a foreign file's word: no path, and no package.module:Class
            if not named and (Path(weights).name != weights or ":" in weights):
                raise GalleryError(
                    "gallery_model_mismatch",
                    f"gallery {gallery} calls its model {weights!r}, which is no plain name: "
                    "name the weights yourself (weights=..., --weights)",
                )
        return cls.from_pretrained(weights, gallery=gallery, **options)

    def save(self, path: str | Path) -> None:
        """Write the gallery to ``path``, whole or not at all, and go on with that file.

        Changes after it are in the file when the call that makes them returns; so are all changes
        of a gallery that is a file, and saving it under its own name does nothing.

        Example:
            With ``people`` and ``photos`` as in the example of :class:`Recognizer`:

            >>> people.save("office.gallery")
            >>> people.close()
            >>> with mf.recognition.Gallery.open("office.gallery") as gallery:
            ...     print(gallery.people())
            {'Ana': 5, 'Bo': 5}
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
        """Enrol a person by one photograph or more; nothing is trained.

        A person who is enrolled already keeps their photographs and gets these in addition, but no
        picture twice. Why photographs may be wrong (they look like somebody else who is enrolled,
        or like several people) is logged, and returned in ``remarks``.

        Args:
            name: of the person.
            photos: a photograph (see ``metaface.faces.photos.read_reduced``), several, or the
                folder they lie in; each of that person alone, or with others much smaller.
            strict: refuse them, all together, where there are remarks.

        Raises:
            ValueError: no photograph can be used, with the reason of each; an empty name.

        Example:
            With ``people`` and ``photos`` as in the example of :class:`Recognizer`:

            >>> enrolment = people.enroll("Cy", photos[12:14])
            >>> enrolment.used, people.people()
            (2, {'Ana': 5, 'Bo': 5, 'Cy': 2})
            >>> people.enroll("Cy", photos[13]).repeated  # the same picture is not enrolled twice
            1
        """
        name, given = person_name(name), list_photos(photos)
        outcome = self._enroller.enroll(
            name, given, self._embed(given, choose.pick_to_enrol), strict
        )
        if not outcome.used and (outcome.remarks or not outcome.repeated):
            reasons = "; ".join(f"{s.path}: {s.reason}" for s in outcome.skipped)
            raise ValueError(f"{name} cannot be enrolled: {reasons or 'no photographs'}")
        return outcome

    def enroll_all(
        self, source: str | Path, *, progress: bool = True, strict: bool = False
    ) -> Iterator[Enrolment]:
        """Enrol everyone of a folder (or zip) of identity folders, or a CSV of path,person.

        A person is in the gallery, with all photographs, when their :class:`Enrolment` is yielded,
        and stays there if the rest is interrupted. A person whose name :func:`person_name` refuses
        is yielded with all photographs skipped, and the reason. Enrolling a source again adds what
        is new.

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
        with open_source(path) as opened:
            for left in opened.skipped:
                log.warning("%s skipped: %s", printable(left.path), left.reason)
            names, refused = check_names(photo.person for photo in opened.photos)
            for person, reason in refused.items():
                paths = [photo.path for photo in opened.photos if photo.person == person]
                yield Enrolment(person, 0, tuple(Skipped(path, reason) for path in paths))
            photos = [photo for photo in opened.photos if photo.person in names]
            photos.sort(key=lambda photo: names[photo.person])
            embedded = iter(
                track(
                    self._embed((partial(opened.read, p) for p in photos), choose.pick_to_enrol),
                    total=len(photos),
                    desc="enrolling",
                    unit="photo",
                    show=progress,
                )
            )
            for name, group in groupby(photos, key=lambda photo: names[photo.person]):
                paths = [photo.path for photo in group]
                yield self._enroller.enroll(name, paths, embedded, strict)

    def people(self) -> dict[str, int]:
        """Who is known, and by how many photographs, in order of enrolment."""
        return self.gallery.people()

    def forget(self, name: str) -> int:
        """Forget a person: no trace stays in the gallery's file. Returns the photographs deleted.

        Adapted weights are never stored: they are made anew, without the person.

        Raises:
            metaface.recognition.GalleryError: ``unknown_person``.

        Example:
            With ``people`` and ``photos`` as in the example of :class:`Recognizer`:

            >>> people.forget("Bo"), people.people()
            (5, {'Ana': 5})
        """
        try:
            return self._enroller.forget(name)
        finally:  # what faces are identified by holds them, too
            self._identifier.drop_forgotten()

    # -- photographs -------------------------------------------------------------------------

    def identify(self, photos: Photo | Iterable[Photo]) -> Any:
        """Who is in a photograph, or in several.

        Args:
            photos: a photograph (see ``metaface.faces.photos.read_reduced``), a list of them, or
                the folder they lie in.

        Returns:
            :class:`Identified` of one photograph; a list of them of several or of a folder. A
            photograph that cannot be used says why in ``skipped``; none raises.

        Example:
            With ``people`` and ``photos`` as in the example of :class:`Recognizer`:

            >>> calibration = people.calibrate(photos[12::6], fpir=0.2, progress=False)
            >>> photo = people.identify(photos[11])
            >>> [(face.name, face.nearest, face.box) for face in photo]
            [('Bo', 'Bo', (0.0, 0.0, 112.0, 112.0))]
            >>> [photo[0].name or "unknown" for photo in people.identify(photos[30:33])]
            ['unknown', 'unknown', 'unknown']
        """
        given = list_photos(photos)
        results = list(self.identify_each(given))
        alone = isinstance(photos, (str, os.PathLike)) and not Path(photos).is_dir()
        single = alone or (len(given) == 1 and given[0] is photos)
        return results[0] if single else results

    def identify_each(self, photos: Iterable[Photo]) -> Iterator[Identified]:
        """:meth:`identify`, one photograph after the other."""
        given = list_photos(photos)
        for photo, faces in zip(given, self._embed(given, choose.pick_all), strict=True):
            if isinstance(faces, Unusable):
                yield Identified(find_name(photo), (), faces.reason, faces.detail)
            else:
                yield Identified(find_name(photo), tuple(self._identifier.match(faces)))

    def verify(self, first: Photo, second: Photo, fmr: float = FMR) -> Verified:
        """Whether two photographs show the same person; nobody need be enrolled.

        Args:
            first, second: photographs; see ``metaface.faces.photos.read_reduced``.
            fmr: the false match rate, 0..1, that the threshold is for.

        Raises:
            metaface.recognition.Unusable: a photograph without a face, or with several.

        Example:
            With ``people`` and ``photos`` as in the example of :class:`Recognizer`:

            >>> one = people.verify(photos[6], photos[7], fmr=0.1)
            >>> other = people.verify(photos[0], photos[6])
            >>> one.same, other.same
            (True, False)
            >>> one.score >= one.threshold, one.verified  # no strangers were given
            (True, False)
        """
        fmr = between_0_and_1(fmr=fmr)
        pair: list[np.ndarray] = []
        several: list[Chosen] = []
        for photo in (first, second):
            (faces,) = self._embed([photo], choose.pick_one)
            path = find_name(photo) or "an image"
            if isinstance(faces, Unusable):
                raise Unusable(faces.reason, f"{path}: {faces.detail}")
            pair.append(faces.embeddings)
            if faces.left:
                several.append(faces.describe_choice(path))
        a, b = pair
        cohort, threshold = calibrate_pairs(read_cohort(self.gallery), self.embedder, fmr)
        baselines = cohort.baseline(a) + cohort.baseline(b)
        score = float(clip_cosines(a @ b.T).item() - baselines.item() / 2)
        return Verified(score >= threshold, score, threshold, fmr, len(cohort) > 0, tuple(several))

    # -- "unknown" ---------------------------------------------------------------------------

    def calibrate(
        self, people: Any = None, fpir: float = FPIR, *, progress: bool = True
    ) -> Calibration:
        """Set how often a stranger may be given a name, and by which strangers that is measured.

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

        Example:
            With ``people`` and ``photos`` as in the example of :class:`Recognizer`:

            >>> calibration = people.calibrate(photos[12::6], fpir=0.2, progress=False)
            >>> calibration.strangers, calibration.verified, calibration.fpir
            (8, True, 0.2)
        """
        fpir = between_0_and_1(fpir=fpir)
        if not self.people():
            raise ValueError(NOBODY)
        if people is None:
            self.gallery.set_setting("fpir", fpir)
        else:
            embed = partial(self._embed, pick=choose.pick_one)
            faces, photos = embed_strangers(people, embed, progress)
            embeddings = np.concatenate([one.embeddings for one in faces])
            enrolled = self.gallery.enrolled()
            if not enrolled.names:
                raise ValueError(NOBODY)
            rows, person = select_strangers(embeddings, photos, enrolled, self.embedder)
            crops = None
            if self.gallery.keep_crops:
                crops = np.concatenate([faces[row].crops for row in rows])
            self.gallery.set_strangers(embeddings[rows], person, crops, {"fpir": fpir})
        self._identifier.note_change()
        return self.calibration()

    def calibration(self) -> Calibration:
        """The threshold for the gallery as it is now.

        Raises:
            ValueError: nobody is enrolled.
        """
        return self._identifier.calibration()

    def adapt(self, learner: str | None, **options: Any) -> Adaptation | None:
        """Have a meta-learner, rather than prototypes, tell the enrolled people apart.

        It is kept only if, on enrolled photographs left out one by one, it names no fewer of them
        at the same rate of false alarms; else prototypes are used. See
        ``metaface.recognition.adaptation``.

        Args:
            learner: its name, see ``metaface.learners.find``, adapted from the gallery's own
                embedding network; None: back to prototypes.
            options: of the learner, such as ``inner_lr=0.01``.

        Raises:
            ValueError: a learner that needs crops, which the gallery does not keep; an unknown one;
                nobody is enrolled, or more than fit into memory; or no strangers were given:
                nothing else says how high an adapted classifier scores them.
        """
        tried = None if learner is None else self._identifier.judge(learner, options)
        self.gallery.set_setting("adaptation", tried.as_dict() if tried and tried.kept else None)
        self._identifier.note_change()
        return tried

    def _embed(
        self, photos: Iterable[Photo], pick: choose.Pick
    ) -> Iterator[EmbeddedFaces | Unusable]:
        return embed_faces(photos, pick, self.detector, self.embedder)
