"""People of several domains: one split for all of them, and tasks that cross from one to another.

A person is known by name: people of equal names in two sets are one person, but procedural people
are nobody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch

from metaface.augment import Augment
from metaface.data import FaceSet
from metaface.data.faceset import SYNTHETIC as SYNTHETIC
from metaface.data.faceset import refuse_renamed, same_photographs
from metaface.episodes import Episodes, EpisodeSampler

SIDES = ("/support", "/query")  # domains of a set of two sides


@dataclass(frozen=True)
class Parts:
    """The training, validation and test people of one domain."""

    train: FaceSet
    val: FaceSet
    test: FaceSet


def identities(faces: FaceSet) -> tuple[str, ...]:
    """What each of ``faces.people`` is called among the people of other sets."""
    if faces.name.split(":")[0] != SYNTHETIC:
        return faces.people
    mark = f"{SYNTHETIC}/"
    return tuple(name if name.startswith(mark) else mark + name for name in faces.people)


def two_sided(support: FaceSet, query: FaceSet) -> FaceSet:
    """One set of two: tasks take their support from the first, their queries from the second.

    Such as photographs and sketches of the same people. The people who are in both are kept, by
    name; what asks for tasks of a set knows such a set by :func:`sides`.

    Args:
        support, query: sets of one image shape. The pictures are copied.

    Raises:
        ValueError: fewer than two people in common, a photograph of somebody that is on both sides
            (it would be its own query), or different image shapes.
    """
    _refuse_own_queries(support, query)
    both = joined(dict(zip(SIDES, (support, query), strict=True)))
    photos = [both.of_domains(side).photos() for side in SIDES]
    common = np.flatnonzero(np.minimum(*photos))
    if len(common) < 2:
        raise ValueError(
            f"{support.name} and {query.name} have {len(common)} people of equal names, and a "
            f"domain of two sides needs 2 (the first: {_some(support)}; the second: "
            f"{_some(query)}): give two sources of the same people"
        )
    return both.of_people(common)


def _refuse_own_queries(support: FaceSet, query: FaceSet) -> None:
    pairs = same_photographs(support, query)
    if len(pairs):
        raise ValueError(
            f"{len(pairs)} photographs are on both sides ({support.name}, {query.name}), such as "
            f"one of {support.people[support.person[pairs[0, 0]]]}, which would be its own query: "
            "give sources that share none"
        )


def sides(faces: FaceSet) -> dict[str, Any]:
    """``support_domain`` and ``query_domain`` of a :func:`two_sided` set; empty for others."""
    if faces.domains != SIDES:
        return {}
    return dict(zip(("support_domain", "query_domain"), SIDES, strict=True))


def queries_there(faces: FaceSet, queries: int) -> int:
    """``queries``, or as many as everybody has on the query side of a :func:`two_sided` set."""
    if not sides(faces):
        return queries
    return min(queries, int(faces.of_domains(SIDES[1]).photos()[faces.person_ids].min()))


def none_left(train: FaceSet, val: FaceSet, photos: int) -> bool:
    """Whether nobody in training and validation has so many photographs (two or more, which a test
    takes): such people were all left for the test."""
    return photos > 1 and max(int(part.photos().max()) for part in (train, val)) < photos


def _some(faces: FaceSet) -> str:
    names = identities(faces)
    return ", ".join(names[p] for p in faces.person_ids[:3])


def split_together(
    domains: Mapping[str, FaceSet], seed: int = 0, *, shots: int = 1, queries: int = 0,
    val: float = 0.1, test: float = 0.2,
) -> dict[str, Parts]:  # fmt: skip
    """Split every domain by person, so that nobody is in two parts, whatever the domain.

    Domains are filled up one after the other: who is in an earlier one stays in the part they have
    there, the others are drawn by seed. So each domain has its shares, and a test person of one
    was never trained on in another, be they domains of one source or of several.

    Args:
        domains: photographs, by the name of the domain.
        seed: the same seed gives the same people.
        shots, queries: of a test task; people with too few photographs for them in a domain of
            theirs are tested last.
        val, test: share of each domain's people, 0..1.

    Raises:
        ValueError: a part of a domain that would have fewer than two people; or two domains with
            the same photographs under other names, whose people would be in several parts.
    """
    for (a, one), (b, other) in combinations(domains.items(), 2):
        pairs = same_photographs(one, other)
        refuse_renamed(replace(one, people=identities(one)), a,
                       replace(other, people=identities(other)), b, pairs)  # fmt: skip
    named = {name: _testable(faces, shots, queries) for name, faces in domains.items()}
    everywhere: dict[str, bool] = {}
    for testable in named.values():
        for person, able in testable.items():
            everywhere[person] = able and everywhere.get(person, True)
    part_of: dict[str, str] = {}
    found = {}
    for name, testable in named.items():
        people: list[str] = np.random.default_rng(seed).permutation(sorted(testable)).tolist()
        last = {p: (not testable[p], not everywhere[p]) for p in people}
        by_photos = sorted(people, key=last.__getitem__)  # stable
        for part, share, order in (("test", test, by_photos), ("val", val, people)):
            held = sum(part_of.get(p) == part for p in people)
            free = [p for p in order if p not in part_of]
            wanted = max(2, round(share * len(people))) - held
            part_of |= dict.fromkeys(free[: max(0, wanted)], part)
        part_of |= {p: "train" for p in people if p not in part_of}
        found[name] = _parts(name, domains[name], part_of)
    return found


def _testable(faces: FaceSet, shots: int, queries: int) -> dict[str, bool]:
    """Whether each person, by identity, has the photographs for a test task."""
    able = faces.photos() >= shots + queries
    if sides(faces):
        support, query = (faces.of_domains(side).photos() for side in SIDES)
        able = (support >= shots) & (query >= queries)
    called = identities(faces)
    return {called[p]: bool(able[p]) for p in faces.person_ids}


def _parts(name: str, faces: FaceSet, part_of: Mapping[str, str]) -> Parts:
    called = identities(faces)
    ids: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for person in faces.person_ids:
        ids[part_of[called[person]]].append(int(person))
    for part, members in ids.items():
        if len(members) < 2:
            raise ValueError(
                f"domain {name!r} ({faces.name}): {len(faces.person_ids)} people leave "
                f"{len(members)} for {part}, which needs 2: use more people, or leave it out"
            )
    return Parts(**{part: faces.of_people(members) for part, members in ids.items()})


def joined(parts: Mapping[str, FaceSet]) -> FaceSet:
    """``FaceSet.join``, procedural people called ``synthetic/0`` and so on; one part as it is.

    The sides of a :func:`two_sided` part become two domains, ``name/support`` and ``name/query``.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    flat = {
        name + side: part.of_domains(side) if side else part
        for name, part in parts.items()
        for side in sides(part).values() or ("",)
    }
    return FaceSet.join({n: replace(part, people=identities(part)) for n, part in flat.items()})


def partners(faces: FaceSet) -> dict[str, tuple[str, ...]]:
    """Of each domain that has photographs: the others that show at least two people of it."""
    people = {
        name: set(faces.person[faces.domain == d].tolist()) for d, name in enumerate(faces.domains)
    }
    return {
        a: tuple(b for b in people if b != a and len(people[a] & people[b]) > 1)
        for a in people
        if people[a]
    }


class AcrossDomains:
    """Tasks for training on many domains: support from one, query from another.

    So the outer loop asks for what the inner loop's domain did not show, as a new domain will
    (Guo et al., "Learning Meta Face Recognition in Unseen Domains", CVPR 2020, whose meta-train
    and meta-test domains differ likewise).

    All tasks of a batch are of one support and one query domain. Batch k takes the support domain
    in turns; of each, the query domain takes turns over those that show the same people. A domain
    that shares its people with no other has tasks of its own, both sides from it: nobody's
    photographs could be its query. Batch k is a pure function of (seed, stream, k).

    Args:
        faces: people of several domains.
        ways, shots, queries, seed, stream, augment, device: as of ``EpisodeSampler``; where two
            domains have fewer people in common than ``ways``, all of them are in each task.

    Attributes:
        people: int64 ``[P]``, people who are in some task.
        turns: the (support, query) domains, in turns, by support domain.

    Raises:
        ValueError: a domain without two people of enough photographs, by name.
    """

    def __init__(
        self,
        faces: FaceSet,
        ways: int | tuple[int, int] = 5,
        shots: int | tuple[int, int] = 1,
        queries: int = 5,
        *,
        seed: int = 0,
        stream: str = "train",
        augment: Augment | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.faces, self.seed, self.augment = faces, seed, augment
        most = shots if isinstance(shots, int) else shots[1]
        self._samplers: list[list[EpisodeSampler]] = []
        for support, others in partners(faces).items():
            mine = []
            for query in others or (support,):
                able = _able(faces, support, query, most, queries)
                if able < 2 and others:
                    continue
                mine.append(
                    EpisodeSampler(
                        faces, _at_most(ways, max(2, able)), shots, queries, seed=seed,
                        stream=stream, support_domain=support, query_domain=query,
                        augment=augment, device=device,
                    )
                )  # fmt: skip
            if not mine:
                raise ValueError(
                    f"domain {support!r} of {faces.name}: no two people of it have {most} "
                    f"photographs there and {queries} in one of {', '.join(others)}: use fewer "
                    "shots or queries, or leave it out"
                )
            self._samplers.append(mine)
        everybody = [sampler.people for mine in self._samplers for sampler in mine]
        self.people = np.unique(np.concatenate(everybody))
        self.turns = [[(s.support_domain, s.query_domain) for s in mine] for mine in self._samplers]

    def batch(self, k: int, size: int = 1, part: slice = slice(None)) -> Episodes:
        """Batch ``k``, or a ``part`` of it."""
        turn, which = divmod(k, len(self._samplers))
        mine = self._samplers[which]
        return mine[turn % len(mine)].batch(k, size, part)


def _able(faces: FaceSet, support: str, query: str, shots: int, queries: int) -> int:
    """How many people have the photographs for a task of these domains."""
    left = faces.of_domains(support).photos()
    if support == query:
        return int((left >= shots + queries).sum())
    return int(((left >= shots) & (faces.of_domains(query).photos() >= queries)).sum())


def _at_most(ways: int | tuple[int, int], able: int) -> tuple[int, int]:
    low, high = (ways, ways) if isinstance(ways, int) else ways
    return min(low, able), min(high, able)
