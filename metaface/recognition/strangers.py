"""People who are not enrolled: those the user gives, or else procedural ones."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metaface import synthetic
from metaface._progress import track
from metaface._text import given_path, printable
from metaface.data._skipped import report_skipped
from metaface.data._sources import open_source
from metaface.faces.alignment import align
from metaface.faces.exposure import brighten_dark
from metaface.faces.photos import Photo, Unusable, find_name, list_folder, list_photos
from metaface.metrics.cohort import Cohort
from metaface.recognition.alike import group_alike, merge_people, same_picture_cosine
from metaface.recognition.embedded_faces import EmbeddedFaces
from metaface.recognition.embedders import Embedder
from metaface.recognition.gallery.gallery import Enrolled
from metaface.recognition.lookalikes import compare_with_enrolled
from metaface.recognition.matching import Embeddings
from metaface.recognition.published import published_threshold

_PROCEDURAL = 128  # people, enough for a rate of 1%
_LISTED = 5  # photographs that perhaps show somebody enrolled, of more
_ONE_PERSON = 1e-5  # false match rate at which photographs are taken to be of one person

log = logging.getLogger("metaface.recognition")

EmbedPhotos = Callable[[Iterable[Photo]], Iterator[EmbeddedFaces | Unusable]]


class StrangerPhoto(NamedTuple):
    """A photograph of a stranger: what it is called, and whose it is (None: not given)."""

    path: str
    person: str | None


@contextmanager
def open_strangers(source: Any) -> Iterator[tuple[Iterator[Photo], Sequence[StrangerPhoto]]]:
    """Photographs of strangers and what is known of each.

    Args:
        source: a folder, a zip or a CSV as ``metaface.data.load`` takes them; a folder of
            photographs without folders, or a list of photographs: nobody says whose they are then.

    Raises:
        FileNotFoundError, ValueError: nothing usable there.
    """
    path: Path | None = None
    photos: Sequence[Photo] | None = None
    if isinstance(source, (str, Path)):
        path = given_path(source, "the photographs of strangers").expanduser()
        inside = list_folder(path) if path.is_dir() else []
        if path.is_dir() and all(photo.parent == path for photo in inside):
            photos = inside
    else:
        photos = list_photos(source)
    if path is None or photos is not None:
        if not photos:
            raise ValueError(f"no photographs of strangers in {source}")
        named = (find_name(photo) or f"photograph {i}" for i, photo in enumerate(photos, 1))
        yield iter(photos), [StrangerPhoto(name, None) for name in named]
        return
    if not path.exists():
        raise FileNotFoundError(f"no such folder, zip or CSV: {path}")
    with open_source(path) as opened:
        report_skipped(opened.name, opened.skipped, len(opened.photos))
        yield (
            (partial(opened.read, photo) for photo in opened.photos),
            [StrangerPhoto(photo.path, photo.person) for photo in opened.photos],
        )


def embed_strangers(
    source: Any, embed: EmbedPhotos, progress: bool
) -> tuple[list[EmbeddedFaces], list[StrangerPhoto]]:
    """The faces of the usable photographs of strangers, and what is known of each.

    Args:
        source: as :func:`open_strangers` takes it.
        embed: from photographs to the one face of each, or why there is none.

    Raises:
        ValueError: no usable photograph.
    """
    faces, usable = [], []
    reasons: Counter[str] = Counter()
    with open_strangers(source) as (photos, given):
        bar = track(
            zip(embed(photos), given, strict=True),
            total=len(given),
            desc="strangers",
            unit="photo",
            show=progress,
        )
        for one, photo in bar:
            if isinstance(one, Unusable):
                reasons[one.reason] += 1
            else:
                faces.append(one)
                usable.append(photo)
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    if not faces:
        raise ValueError(f"no usable photograph of a stranger: {why}")
    if reasons:
        log.warning("photographs of strangers skipped: %s", why)
    return faces, usable


def select_strangers(
    embeddings: np.ndarray, given: Sequence[StrangerPhoto], enrolled: Enrolled, embedder: Embedder
) -> tuple[np.ndarray, np.ndarray]:
    """Which photographs to calibrate with, and which different strangers they are of.

    Of several that are the same picture the first is taken, and who shares one is one stranger.
    Where nobody says whose they are, those that look like one person are of one. Strangers who look
    like somebody enrolled are left out with all their photographs; each is named in the log.

    Args:
        embeddings: float32 ``[n, D]``.
        given: what is known of each.

    Returns:
        Rows, int64 ``[k]`` ascending, and numbers of people, int64 ``[k]``.

    Raises:
        ValueError: all of them look like somebody enrolled.
    """
    picture = group_alike(embeddings, same_picture_cosine(embedder))
    rows = np.unique(picture, return_index=True)[1]
    person = _number_people(embeddings, picture, given, embedder)
    if len(rows) < len(given):
        log.warning(
            "%d photographs of strangers are copies of others, and count once",
            len(given) - len(rows),
        )
    likeness = compare_with_enrolled(Cohort(embeddings[rows], person[rows]), enrolled, embedder)
    for which, done, most in (
        (likeness.lookalike, "left out of the strangers", None),
        (likeness.possible, "perhaps; not left out", _LISTED),
    ):
        there = np.flatnonzero(which[picture])
        there = there[np.argsort(-likeness.score[picture[there]], kind="stable")]
        for row in there[:most].tolist():
            log.warning(
                "%s looks like %s (%.2f), who is enrolled: %s",
                printable(given[row].path),
                printable(enrolled.names[likeness.whose[picture[row]]]),
                likeness.score[picture[row]],
                done,
            )
        if most is not None and len(there) > most:
            log.warning("and %d more, less like them: %s", len(there) - most, done)
    if likeness.lookalike.all():
        raise ValueError(
            f"all {len(given)} photographs of strangers look like somebody enrolled: give some of "
            "people who are not"
        )
    rows = rows[~likeness.lookalike]
    return rows, person[rows]


def _number_people(
    embeddings: np.ndarray,
    picture: np.ndarray,
    given: Sequence[StrangerPhoto],
    embedder: Embedder,
) -> np.ndarray:
    """Whose each photograph is, int64 ``[n]``: as was given or, if it was not, by likeness."""
    if given[0].person is not None:
        _, label = np.unique([photo.person for photo in given], return_inverse=True)
        person = merge_people(label, picture)
        if (more := len(np.unique(label)) - len(np.unique(person))) > 0:
            log.warning("%d strangers share a picture with another: each is taken for one", more)
        return person
    link = published_threshold(embedder, 1, _ONE_PERSON)
    if link is None:
        log.warning(
            "every photograph of strangers is taken for another person, as nobody has measured "
            "how alike those of one are to %s: give a folder a person",
            embedder.name,
        )
        return picture
    person = group_alike(embeddings, link)
    people, pictures = len(np.unique(person)), len(np.unique(picture))
    if people < pictures:
        log.warning(
            "%d different photographs of strangers are taken for %d people by their likeness: "
            "where they are more, give a folder a person",
            pictures,
            people,
        )
    return person


def embed_procedural(embedder: Embedder) -> Embeddings:
    """Faces of people who do not exist: one photograph each of ``_PROCEDURAL``."""
    crops = _procedural_crops()
    return Embeddings(embedder(crops), crops)


@cache
def _procedural_crops() -> np.ndarray:
    made = synthetic.render(
        people=_PROCEDURAL, photos=1, image_size=112, domains="frontal", seed=7, progress=False
    )
    pairs = zip(made.images, made.landmarks, strict=True)
    return brighten_dark(np.concatenate([align(image, five[None]) for image, five in pairs]))
