"""Identification of people in scenes, by the embeddings of the faces found there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from metaface.metrics.one_to_many import OpenSetDesign, open_set
from metaface.metrics.one_to_one import verification
from metaface.metrics.pairs import Pairs, draw_pairs
from metaface.multitask.batch import Batch
from metaface.multitask.metrics import match_faces, predict_in_batches
from metaface.multitask.samples import FaceAnnotations

WAYS, QUERIES = 5, 5  # of the episodes, with one photograph to know each person by
_GROUPS = (0.3, 0.5, 0.2)  # shares of people enrolled, strangers and the cohort
_FPIRS = (0.01, 0.1)
_GALLERIES, _FOLDS = 20, 2


def embed_scenes(
    model: Any,
    scenes: FaceAnnotations,
    *,
    given: bool = False,
    min_score: float = 0.3,
    batch: int = 32,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Unit embeddings, float32 ``[F, D]``, of all faces of ``scenes``, as ``model`` finds them;
    zero for a face that it does not find.

    Args:
        model: a :class:`MultiTask`, or what has its ``predict`` and ``describe``.
        given: read the faces at their true boxes and landmarks instead.
        min_score: the smallest score that counts as a face.
        batch: pictures at once.
    """
    model.eval()
    embeddings = []
    if given:
        for start in range(0, len(scenes), batch):
            part = scenes.take(np.arange(start, min(start + batch, len(scenes))))
            b = Batch.of(part, device)
            faces = model.describe(b.images, b.image, b.filled_boxes, b.filled_landmarks)
            embeddings.append(faces.heads["recognition"].cpu().numpy())
        return np.concatenate(embeddings)
    for part, predictions in predict_in_batches(model, scenes, False, batch, device):
        known, rows = match_faces(part, predictions, min_score)
        vectors = predictions.heads["recognition"].cpu().numpy()
        mine = np.zeros((len(part.image), vectors.shape[1]), np.float32)
        mine[known] = vectors[rows]
        embeddings.append(mine)
    return np.concatenate(embeddings)


def measure_one_shot(
    embeddings: np.ndarray, person: np.ndarray, episodes: int = 1000, seed: int = 0
) -> np.ndarray:
    """Accuracy of each of ``episodes`` 5-way 1-shot tasks with 5 queries a person, by cosine.

    Equal people and seed give equal episodes, whatever the embeddings. A query whose embedding is
    zero (of a face that was not found) is wrong.

    Raises:
        ValueError: fewer than five people with six faces.
    """
    people, counts = np.unique(person, return_counts=True)
    rows = [np.flatnonzero(person == p) for p in people[counts > QUERIES]]
    if len(rows) < WAYS:
        raise ValueError(
            f"{len(rows)} people with {QUERIES + 1} photographs, of {len(people)}: episodes need "
            f"{WAYS}; give more people or photographs"
        )
    random = np.random.default_rng([seed, 51])
    drawn = np.array(
        [
            [random.choice(rows[p], QUERIES + 1, replace=False) for p in who]
            for who in (random.choice(len(rows), WAYS, replace=False) for _ in range(episodes))
        ]
    )
    faces = embeddings[drawn]  # [episodes, ways, 1 + queries, D]
    scores = np.einsum("epqd,ewd->epqw", faces[:, :, 1:], faces[:, :, 0])
    right = scores.argmax(-1) == np.arange(WAYS)[:, None]
    accuracy: np.ndarray = (right & faces[:, :, 1:].any(-1)).mean((1, 2))
    return accuracy


def measure_open_set(embeddings: np.ndarray, person: np.ndarray, seed: int = 0) -> dict[str, float]:
    """``tar@FAR`` of pairs and ``dir@FPIR`` (1-shot galleries; 3 of 10 people are enrolled, 5 are
    strangers, 2 the cohort), at the rates that there are faces enough for.

    A face that was not found (zero) matches nobody: it is missed, and accepts no impostor.
    """
    pairs = _draw_pairs(person, seed)
    verified = verification(pairs.scores(embeddings), pairs.same, pairs.fold)
    figures = {
        f"tar@{at.far:g}": at.tar.value for at in verified.at if math.log10(at.far).is_integer()
    }
    people = len(np.unique(person))
    enrolled, strangers, cohort = (max(1, int(share * people)) for share in _GROUPS)
    design = OpenSetDesign(enrolled, 1, strangers, cohort, _GALLERIES, seed)
    result = open_set(embeddings, person, design, fpirs=_FPIRS, ask=0.1)
    return figures | {f"dir@{at.fpir:g}": at.dir.value for at in result.at}


def _draw_pairs(person: np.ndarray, seed: int) -> Pairs:
    """Pairs in two folds, as many as half of the least fold can give: at most 20000 of each."""
    counts = np.sort(np.unique(person, return_counts=True)[1])
    half = counts[: len(counts) // 2]  # no fold has less than these people make
    same = int((half * (half - 1) // 2).sum())
    other = int((half.sum() ** 2 - (half**2).sum()) // 2)
    return draw_pairs(person, min(20_000, same), min(20_000, other), _FOLDS, seed)
