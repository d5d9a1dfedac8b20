"""People of several domains: one split for all of them, and sets of paired domains.

A person is known by name: people of equal names in two sets are one person, but procedural people
are nobody else's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from metaface.data import FaceSet
from metaface.data.faceset import SYNTHETIC, find_same_photographs, refuse_renamed

SIDES = ("/support", "/query")  # domains of a set of two sides


@dataclass(frozen=True)
class Parts:
    """The training, validation and test people of one domain."""

    train: FaceSet
    val: FaceSet
    test: FaceSet


def name_people(faces: FaceSet) -> tuple[str, ...]:
    """What each of ``faces.people`` is called among the people of other sets."""
    if faces.name.split(":")[0] != SYNTHETIC:
        return faces.people
    mark = f"{SYNTHETIC}/"
    return tuple(name if name.startswith(mark) else mark + name for name in faces.people)


def paired_domains(support: FaceSet, query: FaceSet) -> FaceSet:
    """One set of two: tasks take their support from the first, their queries from the second.

    Such as photographs and sketches of the same people. The people who are in both are kept, by
    name; what asks for tasks of a set knows such a set by :func:`list_sides`.

    Args:
        support, query: sets of one image shape. The pictures are copied.

    Raises:
        ValueError: fewer than two people in common, a photograph of somebody that is on both sides
            (it would be its own query), or different image shapes.
    """
    _refuse_own_queries(support, query)
    both = join_domains(dict(zip(SIDES, (support, query), strict=True)))
    photos = [both.of_domains(side).photos() for side in SIDES]
    common = np.flatnonzero(np.minimum(*photos))
    if len(common) < 2:
        raise ValueError(
            f"{support.name} and {query.name} have {len(common)} people of equal names, and a "
            f"domain of two sides needs 2 (the first: {_list_some(support)}; the second: "
            f"{_list_some(query)}): give two sources of the same people"
        )
    return both.of_people(common)


def _refuse_own_queries(support: FaceSet, query: FaceSet) -> None:
    pairs = find_same_photographs(support, query)
    if len(pairs):
        raise ValueError(
            f"{len(pairs)} photographs are on both sides ({support.name}, {query.name}), such as "
            f"one of {support.people[support.person[pairs[0, 0]]]}, which would be its own query: "
            "give sources that share none"
        )


def list_sides(faces: FaceSet) -> dict[str, Any]:
    """``support_domain`` and ``query_domain`` of a :func:`paired_domains` set; empty for others."""
    if faces.domains != SIDES:
        return {}
    return dict(zip(("support_domain", "query_domain"), SIDES, strict=True))


def limit_queries(faces: FaceSet, queries: int) -> int:
    """``queries``, or as many as everybody has on the query side of :func:`paired_domains`."""
    if not list_sides(faces):
        return queries
    return min(queries, int(faces.of_domains(SIDES[1]).photos()[faces.person_ids].min()))


def are_all_left_for_test(train: FaceSet, val: FaceSet, photos: int) -> bool:
    """Whether nobody in training and validation has so many photographs (two or more, which a test
    takes): such people were all left for the test."""
    return photos > 1 and max(int(part.photos().max()) for part in (train, val)) < photos


def _list_some(faces: FaceSet) -> str:
    names = name_people(faces)
    return ", ".join(names[p] for p in faces.person_ids[:3])


def split_together(
    domains: Mapping[str, FaceSet],
    seed: int = 0,
    *,
    shots: int = 1,
    queries: int = 0,
    val: float = 0.1,
    test: float = 0.2,
) -> dict[str, Parts]:
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
    for (a, first), (b, second) in combinations(domains.items(), 2):
        pairs = find_same_photographs(first, second)
        first, second = (replace(f, people=name_people(f)) for f in (first, second))
        refuse_renamed(first, a, second, b, pairs)
    named = {name: _find_testable(faces, shots, queries) for name, faces in domains.items()}
    everywhere: dict[str, bool] = {}
    for testable in named.values():
        for person, able in testable.items():
            everywhere[person] = able and everywhere.get(person, True)
    part_of: dict[str, str] = {}
    split = {}
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
        split[name] = _take_parts(name, domains[name], part_of)
    return split


def _find_testable(faces: FaceSet, shots: int, queries: int) -> dict[str, bool]:
    """Whether each person, by identity, has the photographs for a test task."""
    able = faces.photos() >= shots + queries
    if list_sides(faces):
        support, query = (faces.of_domains(side).photos() for side in SIDES)
        able = (support >= shots) & (query >= queries)
    called = name_people(faces)
    return {called[p]: bool(able[p]) for p in faces.person_ids}


def _take_parts(name: str, faces: FaceSet, part_of: Mapping[str, str]) -> Parts:
    called = name_people(faces)
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


def join_domains(parts: Mapping[str, FaceSet]) -> FaceSet:
    """``FaceSet.join``, procedural people called ``synthetic/0`` and so on; one part as it is.

    The sides of :func:`paired_domains` become two domains, ``name/support`` and ``name/query``.
    """
    if len(parts) == 1:
        return next(iter(parts.values()))
    flat = {
        name + side: part.of_domains(side) if side else part
        for name, part in parts.items()
        for side in list_sides(part).values() or ("",)
    }
    return FaceSet.join({n: replace(part, people=name_people(part)) for n, part in flat.items()})
