"""Training and validation tasks that a set has the photographs for, and what was changed for it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from metaface.data import FaceSet
from metaface.episodes.across_domains import find_partners
from metaface.learners import Recipe


def fit_recipe(
    recipe: Recipe,
    faces: FaceSet,
    fixed: Collection[str] = (),
    *,
    support_domain: str | None = None,
    query_domain: str | None = None,
    across: bool = False,
) -> tuple[Recipe, str]:
    """``recipe`` with fewer queries, then fewer shots, then fewer ways, where people have too few
    photographs: at least a fifth of the people, and two, can be in a task.

    Args:
        recipe: whose ``ways`` and ``shots`` may be (least, most) pairs where they are ``fixed``.
        faces: the training people.
        fixed: fields of the recipe that were asked for, and stay as they are; what is impossible
            is for ``EpisodeSampler`` to refuse.
        support_domain, query_domain: as in ``EpisodeSampler``.
        across: for tasks of ``AcrossDomains``: each side fits every domain.

    Returns:
        The recipe, and what was changed and why, as a sentence; "" where nothing was.

    Raises:
        ValueError: a fifth of the people have no second photograph.
    """
    if {"ways", "shots", "queries"} <= {*fixed}:
        return recipe, ""
    sides = [faces if d is None else faces.of_domains(d) for d in (support_domain, query_domain)][
        : 1 if support_domain == query_domain else 2
    ]
    found = _fit(recipe, sides, fixed)
    for name, others in find_partners(faces).items() if across else ():
        view = faces.of_domains(name)
        most = _photos_of(view.photos()[view.person_ids], 2)
        both = {"shots": most, "queries": most}  # it gives one side of a task, a partner the other
        limits = both if others else asdict(_fit(found, [view], fixed))
        found = _lowered(found, fixed, shots=limits["shots"], queries=limits["queries"])
    before, after = asdict(recipe), asdict(found)
    changed = [
        f"{name} {after[name]} instead of {before[name]}"
        for name in ("ways", "shots", "queries")
        if after[name] != before[name]
    ]
    if not changed:
        return found, ""
    return found, (
        f"{', '.join(changed)} in training: of {len(faces.person_ids)} people of {faces.name}, "
        f"{int(_able(sides, found).sum())} have the photographs that such tasks take"
    )


def _fit(recipe: Recipe, sides: list[FaceSet], fixed: Collection[str]) -> Recipe:
    """``recipe`` fitted to tasks whose support and query are of one set, or of two."""
    least = _most(recipe.ways) if "ways" in fixed else 2
    counts = [side.photos() for side in sides]
    there = np.logical_and.reduce([c > 0 for c in counts])
    support, query = counts[0][there], counts[-1][there]
    if len(sides) == 1:
        most = _photos_of(support, least)
        if most < 2 and "ways" not in fixed:
            raise ValueError(
                f"{sides[0].name}: most people have one photograph, and a training task needs two "
                "of each person: train on a set that has more of them"
            )
        recipe = _lowered(recipe, fixed, queries=most - _most(recipe.shots))
        recipe = _lowered(recipe, fixed, shots=most - recipe.queries)
    else:
        recipe = _lowered(recipe, fixed, shots=_photos_of(support, least))
        asked = np.where(support >= _most(recipe.shots), query, 0)
        recipe = _lowered(recipe, fixed, queries=_photos_of(asked, least))
    able = int(_able(sides, recipe).sum())
    return recipe if "ways" in fixed else replace(recipe, ways=max(2, min(recipe.ways, able)))


def _lowered(recipe: Recipe, fixed: Collection[str], **most: int) -> Recipe:
    """``recipe`` with at most so many ``shots`` or ``queries``, at least one, but what is fixed."""
    lower = {n: max(1, min(getattr(recipe, n), m)) for n, m in most.items() if n not in fixed}
    return replace(recipe, **lower)


def _photos_of(counts: np.ndarray, people: int) -> int:
    """How many photographs at least a fifth of the people have, and at least so many people."""
    place = min(int(0.8 * len(counts)), len(counts) - people)
    return int(np.sort(counts)[max(0, place)]) if len(counts) else 0


def _able(sides: list[FaceSet], recipe: Recipe) -> np.ndarray:
    """bool ``[P]``: who has the photographs for a task."""
    needs = [_most(recipe.shots), recipe.queries]
    needs = needs if len(sides) == 2 else [sum(needs)]
    enough = [side.photos() >= need for side, need in zip(sides, needs, strict=True)]
    return np.asarray(np.logical_and.reduce(enough))


def _most(bounds: Any) -> int:
    return int(bounds if isinstance(bounds, int | np.integer) else bounds[1])


def fit_validation(
    val: FaceSet,
    ways: int,
    shots: int,
    *,
    support_domain: str | None = None,
    query_domain: str | None = None,
) -> tuple[int, int, str]:
    """The ways of a validation task, at most ``ways``, and its queries: up to 5, but no more than
    most validation people, and those of a task, have photographs for.

    Returns:
        Ways, queries, and what was changed and why, as a sentence; "" where nothing was.

    Raises:
        ValueError: fewer than two people have the photographs for a task.
    """
    one = support_domain == query_domain
    sides = [val if d is None else val.of_domains(d) for d in (support_domain, query_domain)]
    task = Recipe(ways=ways, shots=shots, queries=1)
    able = int(_able(sides[:1] if one else sides, task).sum())
    if able < 2:
        raise ValueError(
            f"{val.name}: {able} of {len(val.person_ids)} validation people have {shots} + 1 "
            "photographs, and a validation task needs two such people: use more validation "
            "people or photographs, or none at all"
        )
    fitted = min(ways, able)
    queried, taken = sides[1], shots if one or query_domain is None else 0
    counts = np.sort(queried.photos()[queried.person_ids])[::-1]
    middle = counts[len(counts) // 2]  # of two, the lower
    spare = int(min(middle, counts[fitted - 1])) - taken
    note = (
        ""
        if fitted == ways
        else (
            f"validation is {fitted}-way instead of {ways}-way: no more of {len(val.person_ids)} "
            f"validation people of {val.name} have {shots} + 1 photographs"
        )
    )
    return fitted, max(1, min(5, spare)), note
