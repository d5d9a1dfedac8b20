"""Identification of people in scenes, by the embeddings of the faces that are found there."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch

from metaface.metrics.one_to_many import OpenSetDesign, open_set
from metaface.metrics.one_to_one import verification
from metaface.metrics.pairs import draw_pairs
from metaface.multitask.batch import Batch
from metaface.multitask.metrics import matched, parts_of
from metaface.multitask.model import MultiTask
from metaface.multitask.samples import FaceAnnotations

WAYS, QUERIES = 5, 5  # of the episodes, with one photograph to know each person by
_GROUPS = (0.3, 0.5, 0.2)  # shares of people enrolled, strangers and the cohort
_FPIRS = (0.01, 0.1)
_GALLERIES, _FOLDS = 20, 2


def embedded(
    model: Any,
    scenes: FaceAnnotations,
    *,
    given: bool = False,
    least: float = 0.3,
    batch: int = 32,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Unit embeddings, float32 ``[F, D]``, of all faces of ``scenes``, by what ``model`` finds;
    zero for a face that it does not find.

    Args:
        model: a :class:`MultiTask`, or what has its ``predict`` and ``describe``.
        given: read the faces at their true boxes and landmarks instead.
        least: the smallest score that counts as a face.
        batch: pictures at once.
    """
    model.eval()
    found: list[np.ndarray] = []
    if given:
        for start in range(0, len(scenes), batch):
            part = scenes.take(np.arange(start, min(start + batch, len(scenes))))
            there = Batch.of(part, device)
            said = model.describe(there.images, there.image, there.places, there.marks)
            found.append(said.heads["recognition"].cpu().numpy())
        return np.concatenate(found)
    for part, said in parts_of(cast(MultiTask, model), scenes, False, batch, device):
        true, rows = matched(part, said, least)
        vectors = said.heads["recognition"].cpu().numpy()
        mine = np.zeros((len(part.image), vectors.shape[1]), np.float32)
        mine[true] = vectors[rows]
        found.append(mine)
    return np.concatenate(found)


def one_shot(
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


def figures(embeddings: np.ndarray, person: np.ndarray, seed: int = 0) -> dict[str, float]:
    """``tar@FAR`` of pairs and ``dir@FPIR`` (1-shot galleries; 3 of 10 people are enrolled, 5 are
    strangers, 2 the cohort), at the rates that there are faces enough for.

    A face that was not found (zero) matches nobody: it is missed, and names no stranger.
    """
    found = {}
    pairs = _pairs(person, seed)
    checked = verification(pairs.scores(embeddings), pairs.same, pairs.fold)
    for at in checked.at:
        if math.log10(at.far).is_integer():
            found[f"tar@{at.far:g}"] = at.tar.value
    people = len(np.unique(person))
    enrolled, strangers, cohort = (max(1, int(share * people)) for share in _GROUPS)
    design = OpenSetDesign(enrolled, 1, strangers, cohort, _GALLERIES, seed)
    result = open_set(embeddings, person, design, fpirs=_FPIRS, ask=0.1)
    return found | {f"dir@{at.fpir:g}": at.dir.value for at in result.at}


def _pairs(person: np.ndarray, seed: int) -> Any:
    """Pairs in two folds, as many as half of the least fold can give: at most 20000 of each."""
    counts = np.sort(np.unique(person, return_counts=True)[1])
    half = counts[: len(counts) // 2]  # no fold has less than these people make
    same = int((half * (half - 1) // 2).sum())
    other = int((half.sum() ** 2 - (half**2).sum()) // 2)
    return draw_pairs(person, min(20_000, same), min(20_000, other), _FOLDS, seed)
