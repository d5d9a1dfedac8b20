"""Protocols' numbers that the photographs allow: what is asked stays, defaults are lowered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metaface.metrics.one_to_many import OpenSetDesign
from metaface.metrics.pairs import count_possible

WAYS, QUERIES = (5, 20), 5
DRAWN, FOLDS = 2500, 10  # pairs of each kind


def fit_few_shot(
    person: np.ndarray, ways: Sequence[int] | None, shots: Sequence[int]
) -> tuple[tuple[int, ...], int, str]:
    """Ways and queries of episodes: fewer queries than 5 first, then fewer ways.

    Args:
        person: int ``[photographs]``, who is on each.
        ways: None: 5 and 20, or as many as there are people for.
        shots: asked for, all of them.

    Returns:
        Ways, queries, and what was changed and why, as a sentence; "" where nothing was.

    Raises:
        ValueError: too few people with enough photographs; names the options.
    """
    photos = np.unique(person, return_counts=True)[1]
    able = [int((photos >= max(shots) + n).sum()) for n in range(1, QUERIES + 1)]
    most, need = able[0], max(ways) if ways else 2
    if most < need:
        asked = f"--ways {need} and " if ways else ""
        raise ValueError(
            f"few-shot: {asked}--shots {max(shots)} need {need} people with "
            f"{max(shots)} + 1 photographs or more, and {most} of {len(photos)} have them: ask for "
            "fewer, or add people or photographs"
        )
    goal = min(max(ways or WAYS), most)
    queries = max(n for n, people in enumerate(able, 1) if people >= goal)
    found = tuple(ways) if ways else tuple(dict.fromkeys(min(n, most) for n in WAYS))
    changed = [] if queries == QUERIES else [f"{queries} of {QUERIES} queries a person"]
    if not ways and found != WAYS:
        changed.insert(0, f"ways {_list(found)} instead of {_list(WAYS)}")
    if not changed:
        return found, queries, ""
    return (
        found,
        queries,
        (
            f"few-shot: {', '.join(changed)}: of {len(photos)} people {able[-1]} have "
            f"{max(shots) + QUERIES} photographs, {able[queries - 1]} have {max(shots) + queries}"
        ),
    )


def fit_pairs(person: np.ndarray, drawn: int | None) -> tuple[int, int, str]:
    """Pairs to draw of each kind, and folds: as many as each can have pairs of both kinds in.

    Args:
        person: int ``[photographs]``, who is on each.
        drawn: None: 2500, or as many as there are.

    Returns:
        Pairs of each kind, folds, and what was changed and why; "" where nothing was.

    Raises:
        ValueError: fewer pairs than ``drawn``, or none, in two folds; names the option.
    """
    if drawn == 1:
        raise ValueError("verification: --drawn 1 pair of each kind: give 2 or more, one a fold")
    possible = {folds: count_possible(person, folds) for folds in range(FOLDS, 1, -1)}
    most = drawn or FOLDS  # folds, with a pair in each
    there = (n for n, count in possible.items() if n <= most and count >= max(n, drawn or 0))
    folds = next(there, 0)
    people = len(np.unique(person))
    if not folds:
        asked = f"--drawn {drawn} pairs" if drawn else "pairs"
        raise ValueError(
            f"verification: {asked} of each kind, in two folds or more that share nobody, one in "
            f"each at least: {people} people make {max(possible.values())} at most: "
            f"{'ask for fewer, or ' if drawn else ''}add people or photographs"
        )
    found = min(drawn or DRAWN, possible[folds])
    changed = [] if drawn or found == DRAWN else [f"{found} pairs of each kind instead of {DRAWN}"]
    changed += [] if folds == FOLDS else [f"{folds} folds instead of {FOLDS}"]
    if not changed:
        return found, folds, ""
    return (
        found,
        folds,
        (
            f"verification: {', '.join(changed)}: {people} people make {possible[folds]} pairs of "
            f"each kind in {folds} folds that share nobody"
        ),
    )


def fit_open_set(
    person: np.ndarray,
    *,
    enrolled: int | None = None,
    shots: int | None = None,
    strangers: int | None = None,
    cohort: int | None = None,
    galleries: int = 20,
    seed: int = 0,
) -> tuple[OpenSetDesign, str]:
    """A design of galleries whose people are there; see :class:`OpenSetDesign` for the defaults.

    Of fewer people than it needs a fifth are enrolled, and the others shared out as the defaults
    of ``strangers`` and ``cohort`` are. Fewer photographs are enrolled where that makes more
    people who can be.

    Args:
        person: int ``[photographs]``, who is on each.
        enrolled, shots, strangers, cohort: asked for, or None: the default or less.
        galleries, seed: of the design.

    Returns:
        The design, and what was changed and why, as a sentence; "" where nothing was.

    Raises:
        ValueError: too few people or photographs for what is asked; names the options.
    """
    usual = OpenSetDesign()
    photos = np.unique(person, return_counts=True)[1]
    able = {n: int((photos > n).sum()) for n in ([shots] if shots else range(1, usual.shots + 1))}
    others = {"strangers": strangers, "cohort": cohort}
    free = {name: getattr(usual, name) for name, given in others.items() if given is None}
    left = len(photos) - sum(given or 0 for given in others.values())  # also for those enrolled

    goal = enrolled or usual.enrolled
    if not enrolled and goal + sum(free.values()) > left:
        goal = min(goal, max(1, left // 5 if free else left))
    photographs = max(able, key=lambda n: (min(able[n], goal), n))
    goal = enrolled or min(goal, able[photographs])
    left -= goal
    whose = f"{able[photographs]} of them with more than {photographs} photograph"
    whose += "s" if photographs > 1 else ""
    if left < len(free) or not 1 <= goal <= able[photographs]:
        flags = {
            "--enrolled": enrolled,
            "--enrolled-photos": shots,
            "--stranger-count": strangers,
            "--cohort": cohort,
        }
        asked = " ".join(f"{flag} {given}" for flag, given in flags.items() if given)
        raise ValueError(
            f"open-set: {asked or 'galleries'} cannot be drawn of {len(photos)} people, {whose}: "
            "enrolled, strangers and cohort are different people, one each at least, and who is "
            "enrolled has a photograph more to search for: "
            f"{'ask for fewer, or ' if asked else ''}add people or photographs"
        )
    if sum(free.values()) > left:
        whole = sum(free.values())
        first, *last = free
        free = {first: min(free[first], max(1, left * free[first] // whole))}
        free |= {name: left - free[first] for name in last}
    design = OpenSetDesign(
        goal,
        photographs,
        strangers or free["strangers"],
        cohort or free["cohort"],
        galleries,
        seed,
    )
    names = {
        "enrolled": (enrolled, "enrolled"),
        "shots": (shots, "photographs enrolled of each"),
        "strangers": (strangers, "strangers"),
        "cohort": (cohort, "people in the cohort"),
    }
    changed = [
        f"{getattr(design, name)} {what} instead of {getattr(usual, name)}"
        for name, (given, what) in names.items()
        if given is None and getattr(design, name) != getattr(usual, name)
    ]
    if not changed:
        return design, ""
    return design, (f"open-set: {', '.join(changed)}: there are {len(photos)} people, {whose}")


def _list(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))
