"""Across domains: learners trained in some, tested in others, as one table of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from metaface import nets
from metaface.arguments import refuse_moved
from metaface.data import FaceSet
from metaface.data.domain_split import SIDES, limit_queries, list_sides
from metaface.episodes.sampler import check_combinations, scale_pixels
from metaface.evaluation.episodic import device_of, embed, evaluate
from metaface.learners import FeatureLearner, MetaLearner
from metaface.metrics.intervals import ci95_over_seeds
from metaface.metrics.one_to_one import verification
from metaface.metrics.pairs import draw_pairs

MATCHED, MISMATCHED = 2500, 10_000  # pairs, at most half of those there are
GALLERIES = 10


@refuse_moved(device="learner.to(device) before the call")
def cross_domain(
    learners: Mapping[str, Mapping[str, MetaLearner | Callable[[], MetaLearner]]],
    tests: Mapping[str, FaceSet],
    *,
    ways: Sequence[int] = (5,),
    shots: Sequence[int] = (1,),
    queries: int = 5,
    episodes: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Test every learner in every domain.

    All learners meet the same episodes of a domain, so that differences are paired.

    Args:
        learners: by the domain each was trained in, then by name; or what returns one, called
            when it is its turn.
        tests: people that no learner was trained on, by the name of their domain; of two sides
            or not, see ``metaface.data.domain_split.paired_domains``.
        ways, shots, queries, episodes, seed, progress: as of ``evaluate``; every
            combination of ways and shots.

    Returns:
        Rows as :func:`make_rows` makes them.

    Raises:
        ValueError: too few people with enough photographs in a domain.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic:frontal,sketch", people=8, photos=6, progress=False)
        >>> tests = {name: faces.of_domains(name) for name in faces.domains}
        >>> learners = {"frontal": {"prototypical": mf.learners.Prototypical(mf.nets.Conv4())}}
        >>> rows = mf.evaluation.cross_domain(learners, tests, episodes=10, progress=False)
        >>> [(row["train"], row["test"]) for row in rows]
        [('frontal', 'frontal'), ('frontal', 'sketch')]
    """
    for faces in tests.values():  # before the first learner is made and tested
        sides = SIDES if list_sides(faces) else None
        check_combinations(faces, ways, shots, limit_queries(faces, queries), sides)
    measured = []
    for train, named in learners.items():
        for name, given in named.items():
            learner = given if isinstance(given, MetaLearner) else given()
            results = {
                domain: measure(
                    learner,
                    faces,
                    ways=ways,
                    shots=shots,
                    queries=queries,
                    episodes=episodes,
                    seed=seed,
                    progress=progress,
                )
                for domain, faces in tests.items()
            }
            measured.append({"train": train, "learner": name, "seed": seed, "tests": results})
            measured[-1]["trainable_parameters"] = nets.count_trainable(learner)
    return list(make_rows(measured))


def measure(
    learner: MetaLearner,
    faces: FaceSet,
    *,
    ways: Sequence[int] = (5,),
    shots: Sequence[int] = (1,),
    queries: int = 5,
    episodes: int = 1000,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """One learner in one domain.

    Of a set of two sides (see ``metaface.data.domain_split``), galleries are of the support side
    and probes of the query side, in tasks and outside of them; queries are as many as everybody
    has.

    Returns:
        ``episodes``, a list of ``ways``, ``shots``, ``queries``, ``norm``, ``transductive`` and
        ``accuracies`` (of each episode); ``rank1`` and ``tar_at_far``, None unless a photograph
        has an embedding that no task changes; ``seconds``, what testing took.
    """
    began = time.perf_counter()
    queries = limit_queries(faces, queries)
    tested = []
    for n in ways:
        for k in shots:
            result = evaluate(
                learner,
                faces,
                ways=n,
                shots=k,
                queries=queries,
                episodes=episodes,
                seed=seed,
                domains=SIDES if list_sides(faces) else None,
                progress=progress,
            )
            accuracies = [round(float(a), 6) for a in result.accuracies]
            tested.append({"ways": n, "shots": k, "queries": queries, "norm": result.norm})
            tested[-1] |= {"transductive": result.transductive, "accuracies": accuracies}
    measured: dict[str, Any] = {"episodes": tested, "rank1": None, "tar_at_far": None}
    if isinstance(learner, FeatureLearner) and learner.sees_single_images:
        features = embed_faceset(learner, faces)
        known = faces.domain == faces.domains.index(SIDES[0]) if list_sides(faces) else None
        measured["rank1"] = rank1(features, faces.person, known, seed=seed)
        measured["tar_at_far"] = tar_at_far(features, faces.person, known, seed=seed)
    return measured | {"seconds": time.perf_counter() - began}


@torch.no_grad()
def embed_faceset(learner: MetaLearner, faces: FaceSet) -> np.ndarray:
    """Embeddings of all photographs of ``faces``: float32 ``[M, D]``, unit length."""
    device = device_of(learner)
    with learner.predicting():
        features = embed(
            learner,
            lambda rows: scale_pixels(torch.from_numpy(faces.store[rows.numpy()]).to(device)),
            torch.from_numpy(faces.rows),
        ).cpu()
    return torch.nn.functional.normalize(features, dim=-1).numpy()


def rank1(
    features: np.ndarray,
    person: np.ndarray,
    known: np.ndarray | None = None,
    *,
    galleries: int = GALLERIES,
    seed: int = 0,
) -> float | None:
    """Closed-set identification: the share of probes whose nearest person is their own.

    A gallery holds one photograph of each person, drawn by seed (a prototype of one); the probes
    are all others. By cosine, over ``galleries`` galleries.

    Args:
        features: float ``[M, D]``, unit length.
        person: int ``[M]``.
        known: bool ``[M]``: the photographs that galleries are drawn from, at least one of each
            person; the probes are those that are not. None: drawn from all.

    Returns:
        0..1; None where nobody has a second photograph.
    """
    random = np.random.default_rng(seed)
    people, who = np.unique(person, return_inverse=True)
    candidates = np.arange(len(who)) if known is None else np.flatnonzero(known)
    right = probes = 0
    for _ in range(galleries):
        order = random.permutation(candidates)
        gallery = order[np.unique(who[order], return_index=True)[1]]  # row n: person n's
        probe = np.setdiff1d(order, gallery) if known is None else np.flatnonzero(~known)
        nearest = (features[probe] @ features[gallery].T).argmax(1)
        right += int((nearest == who[probe]).sum())
        probes += len(probe)
    return right / probes if probes and len(people) > 1 else None


def tar_at_far(
    features: np.ndarray, person: np.ndarray, known: np.ndarray | None = None, *, seed: int = 0
) -> dict[str, float] | None:
    """The true accept rate (1 - FNMR) by false accept rate (FMR), on pairs drawn by seed.

    At FAR 0.1, 0.01, ... down to the smallest that the mismatched pairs support; see
    :class:`Verification`. 2500 matched and 10,000 mismatched pairs where there are twice as many
    (with ``known``: as many).

    Args:
        features: float ``[M, D]``, unit length.
        person: int ``[M]``.
        known: bool ``[M]``: a pair is of one photograph that is and one that is not; all such
            pairs are equally likely. None: pairs of any two, as :func:`draw_pairs` draws them.

    Returns:
        By the FAR as text, such as ``"0.01"``; None where there are fewer than 2 pairs of a kind.
    """
    if known is not None:
        return _tar_between(features[known], person[known], features[~known], person[~known], seed)
    counts = np.unique(person, return_counts=True)[1]
    matched = int((counts * (counts - 1) // 2).sum())
    mismatched = len(person) * (len(person) - 1) // 2 - matched
    if min(matched, mismatched) < 2:
        return None
    pairs = draw_pairs(
        person, min(MATCHED, matched // 2), min(MISMATCHED, mismatched // 2), folds=1, seed=seed
    )
    return _tar(pairs.scores(features), pairs.same)


def _tar_between(
    first: np.ndarray, whose: np.ndarray, second: np.ndarray, whose_second: np.ndarray, seed: int
) -> dict[str, float] | None:
    """:func:`tar_at_far` of pairs of one photograph of each of two sets."""
    random = np.random.default_rng(seed)
    same = (whose[:, None] == whose_second).ravel()
    drawn = []
    for kind, most in ((same, MATCHED), (~same, MISMATCHED)):
        there = np.flatnonzero(kind)
        if len(there) < 2:
            return None
        drawn.append(random.choice(there, min(most, len(there)), replace=False))
    left, right = np.divmod(np.concatenate(drawn), len(second))
    scores = np.einsum("nd,nd->n", first[left], second[right], dtype=np.float64)
    return _tar(scores, np.repeat([True, False], [len(d) for d in drawn]))


def _tar(scores: np.ndarray, same: np.ndarray) -> dict[str, float]:
    halves = np.arange(len(same)) % 2  # thresholds by fold are not asked for
    return {f"{p.far:.2g}": p.tar.value for p in verification(scores, same, halves).at}


def make_rows(measured: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row for each train domain, learner, test domain, way and shot.

    Args:
        measured: ``train``, ``learner``, ``seed``, ``tests`` (of :func:`measure`, by domain),
            ``trainable_parameters`` and, where trained, ``train_seconds``; one for each seed.

    Yields:
        ``train``, ``test``, ``learner``, ``ways``, ``shots``, ``queries`` (a person, which may be
        fewer than were asked for), ``episodes``, ``seeds``;
        ``accuracy`` and ``ci95``, half its 95% interval over the episodes (and training seeds,
        where there are several; not over people); ``rank1`` and ``tar_at_far``, or None;
        ``drop`` and ``drop_ci95``: the accuracy of the same learner trained in the test domain
        itself, less this one, on the same episodes, None where no such was trained; ``seconds`` of
        training, ``test_seconds``, ``trainable_parameters``, ``norm`` and ``transductive``.
    """
    units: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for unit in measured:
        units.setdefault((unit["train"], unit["learner"]), []).append(unit)
    for (train, learner), group in units.items():
        for test in group[0]["tests"]:
            results = [unit["tests"][test] for unit in group]
            inside = [u["tests"][test] for u in units.get((test, learner), [])]
            for index, task in enumerate(results[0]["episodes"]):
                values = _accuracies(results, index)
                row = {
                    "train": train,
                    "test": test,
                    "learner": learner,
                    "ways": task["ways"],
                    "shots": task["shots"],
                    "queries": task["queries"],
                    "episodes": values.shape[1],
                    "seeds": len(group),
                    "accuracy": float(values.mean()),
                    "ci95": ci95_over_seeds(values),
                    "rank1": _mean([f["rank1"] for f in results]),
                    "tar_at_far": _means([f["tar_at_far"] for f in results]),
                    "drop": None,
                    "drop_ci95": None,
                }
                if inside:
                    lost = _accuracies(inside, index) - values
                    row |= {"drop": float(lost.mean()), "drop_ci95": ci95_over_seeds(lost)}
                yield row | {
                    "seconds": float(np.mean([u.get("train_seconds", 0.0) for u in group])),
                    "test_seconds": float(np.mean([f["seconds"] for f in results])),
                    "trainable_parameters": group[0]["trainable_parameters"],
                    "norm": task["norm"],
                    "transductive": task["transductive"],
                }


def _accuracies(results: Sequence[Mapping[str, Any]], index: int) -> np.ndarray:
    """float64 ``[seeds, episodes]``."""
    return np.array([f["episodes"][index]["accuracies"] for f in results])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _means(values: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    known = [v for v in values if v is not None]
    return {far: float(np.mean([v[far] for v in known])) for far in known[0]} if known else None
