"""Recognition measured on whole photographs of a data set, by the protocols of papers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from metaface import evaluation, metrics
from metaface._progress import track
from metaface._text import given_path
from metaface.data import FaceSet, Skipped
from metaface.data._content import Distinct
from metaface.data._skipped import TWICE, report_skipped
from metaface.data._sources import open_source
from metaface.data.wider import read_wider
from metaface.faces import choose
from metaface.faces.alignment import shrink
from metaface.faces.detect import Detector
from metaface.faces.photos import Unusable, read
from metaface.learners import Prototypical
from metaface.metrics.cohort import Cohort
from metaface.metrics.detection import Detection
from metaface.metrics.one_to_many import OpenSet
from metaface.metrics.one_to_one import Verification
from metaface.metrics.pairs import Pairs
from metaface.multitask.wider import open_photos
from metaface.recognition.embedded_faces import embed_faces
from metaface.recognition.embedders.loading import Embedder

MIN_SCORE = 0.02  # score of a box when average precision is measured: the curve needs unsure ones
Results = Verification | OpenSet | Detection


@dataclass(frozen=True, eq=False)
class AlignedFaces:
    """The most prominent face of every photograph of a data set.

    Attributes:
        name: of the set.
        crops: uint8 ``[n, 112, 112, 3]``.
        embeddings: float32 ``[n, D]``, unit length.
        person: int64 ``[n]``, an index into ``people``.
        people: names.
        paths: of the photographs, inside the source.
        skipped: photographs that could not be used, and why.
        several: how many photographs show other faces, too.
    """

    name: str
    crops: np.ndarray
    embeddings: np.ndarray
    person: np.ndarray
    people: tuple[str, ...]
    paths: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    several: int = 0

    def faces(self, size: int = 112) -> FaceSet:
        """The crops as a data set of MetaFace, reduced to ``size`` pixels."""
        crops = self.crops if size == self.crops.shape[1] else shrink(self.crops, size)
        return FaceSet.from_arrays(crops, self.person, people=self.people, name=self.name)


def unread_faces(person: Sequence[str], name: str) -> FaceSet:
    """People whose photographs were not looked at, a black pixel each: for what can be refused
    before they are; ``person``: names, one a photograph."""
    people, number = np.unique(np.array(person), return_inverse=True)
    pixels = np.zeros((len(number), 1, 1, 1), np.uint8)
    return FaceSet.from_arrays(pixels, number, people=people.tolist(), name=name)


def align_people(
    source: str | Path,
    detector: Detector,
    embedder: Embedder,
    *,
    progress: bool = True,
    check: Callable[[FaceSet, tuple[str, ...]], None] | None = None,
) -> AlignedFaces:
    """Find, align and embed the faces of a folder, zip or CSV of people.

    A photograph that is there twice counts once, and one of two people is left out.

    Args:
        check: is called before any photograph is read, with :func:`unread_faces` of all that are
            listed, and their paths, and raises what is wrong with them.

    Raises:
        FileNotFoundError, ValueError: nothing usable there.
    """
    path = given_path(source, "the photographs").expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no such folder, zip or CSV: {path}")
    with open_source(path) as listing:
        if check and listing.photos:
            listed = unread_faces([photo.person for photo in listing.photos], listing.name)
            check(listed, tuple(photo.path for photo in listing.photos))
        seen = embed_faces(
            (partial(listing.read, photo) for photo in listing.photos),
            choose.pick_most_prominent,
            detector,
            embedder,
        )
        bar = track(seen, total=len(listing.photos), desc=listing.name, unit="photo", show=progress)
        good, skipped, distinct = [], [], Distinct()
        for photo, faces in zip(listing.photos, bar, strict=True):
            if isinstance(faces, Unusable):
                skipped.append(Skipped(photo.path, str(faces)))
            elif again := distinct.add(photo.path, photo.person, faces.crops[0]):
                skipped.append(again)
            else:
                good.append((photo, faces))
        nobodys = distinct.nobodys()
        good = [pair for row, pair in enumerate(good) if row not in nobodys]
        not_new = [s for s in skipped if s.reason.startswith(TWICE)]
        report_skipped(listing.name, [*listing.skipped, *not_new, *nobodys.values()], len(good))
        skipped += nobodys.values()
    if not good:
        raise ValueError(f"no face in any of the {len(skipped)} photographs of {path}")
    people = tuple(sorted({photo.person for photo, _ in good}))
    number = {name: i for i, name in enumerate(people)}
    return AlignedFaces(
        name=listing.name,
        crops=np.concatenate([faces.crops for _, faces in good]),
        embeddings=np.concatenate([faces.embeddings for _, faces in good]),
        person=np.array([number[photo.person] for photo, _ in good]),
        people=people,
        paths=tuple(photo.path for photo, _ in good),
        skipped=tuple(skipped),
        several=sum(faces.left > 0 for _, faces in good),
    )


class EmbedderNetwork(nn.Module):
    """An embedder as an embedding network, so that learners and episodes take it.

    Shape:
        float ``[n, 3, 112, 112]`` in 0..1, aligned -> ``[n, D]``.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: Tensor) -> Tensor:
        crops = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
        return torch.from_numpy(self.embedder(crops.contiguous().numpy()))


def measure_few_shot(
    people: AlignedFaces,
    embedder: Embedder,
    ways: int,
    shots: int,
    episodes: int,
    seed: int,
    *,
    queries: int = 5,
) -> evaluation.Result:
    """Episodes of the nearest prototype by cosine; see :func:`metaface.evaluate`."""
    learner = Prototypical(EmbedderNetwork(embedder), "cosine")
    enough = np.flatnonzero(np.bincount(people.person) >= shots + queries)
    if len(enough) < ways:
        raise ValueError(
            f"{len(enough)} people of {people.name} have the {shots + queries} photographs that "
            f"{shots}-shot episodes with {queries} queries need, fewer than {ways}: choose fewer "
            "ways"
        )
    return evaluation.evaluate(
        learner,
        people.faces().of_people(enough),
        ways=ways,
        shots=shots,
        queries=queries,
        episodes=episodes,
        seed=seed,
        progress=False,
    )


def find_pairs(people: AlignedFaces, listed: str | Path) -> tuple[Pairs, int]:
    """The pairs of an official list whose photographs are both there; and how many are not.

    A photograph may be of another format than the list says, as those of ``metaface align`` are.

    Raises:
        ValueError: a photograph is there in several formats, none of them the list's; or no pair
            is there.
    """
    files, pairs = metrics.read_pairs(listed)
    place = {"/".join(Path(path).parts[-2:]): row for row, path in enumerate(people.paths)}
    formats: dict[str, list[str]] = {}
    for name in place:
        formats.setdefault(os.path.splitext(name)[0], []).append(name)

    def row_of(file: str) -> int:
        same = [file] if file in place else formats.get(os.path.splitext(file)[0], [])
        if len(same) > 1:
            raise ValueError(
                f"{listed} names {file}, and {people.name} has {' and '.join(sorted(same))}: leave "
                "one of them there"
            )
        return place[same[0]] if same else -1

    rows = np.array([row_of(file) for file in files])[pairs.rows]
    there = (rows >= 0).all(1)
    if not there.any():
        raise ValueError(
            f"{people.name} has the photographs of none of the {len(pairs)} pairs of {listed}, "
            f"such as {files[0]}; it has such as {people.paths[0]}"
        )
    return Pairs(rows[there], pairs.same[there], pairs.fold[there]), int((~there).sum())


def score_against_cohort(pairs: Pairs, people: AlignedFaces) -> np.ndarray:
    """The scores of ``Recognizer.verify``: cosines less how similar both photographs are to the
    people of the other folds, who serve as strangers; float64 ``[n]``."""
    scores = pairs.scores(people.embeddings)
    for fold in np.unique(pairs.fold):
        here = pairs.fold == fold
        mine = np.unique(people.person[pairs.rows[here]])
        others = np.setdiff1d(people.person[pairs.rows[~here]], mine)
        rows = np.flatnonzero(np.isin(people.person, others))
        cohort = Cohort(people.embeddings[rows], people.person[rows])
        for side in pairs.rows[here].T:
            scores[here] -= cohort.baseline(people.embeddings[side]) / 2
    return scores


def measure_detection(
    source: str | Path, detector: Detector, *, progress: bool = True
) -> Detection:
    """Average precision on photographs with the boxes of their faces, as WIDER FACE has them.

    Args:
        source: a folder or zip; see :func:`metaface.read_wider`.
        detector: one that reports unsure boxes, too.
    """
    annotated = read_wider(source)
    bar = track(annotated, desc="detecting", unit="photo", show=progress)
    with open_photos(given_path(source, "the photographs")) as read_file:
        detections = [detector(read(partial(read_file, photo.path))) for photo in bar]
    return metrics.average_precision(
        [(faces.boxes, faces.scores) for faces in detections],
        [photo.boxes for photo in annotated],
        [photo.ignore for photo in annotated],
    )
