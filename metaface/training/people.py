"""Whom training and validation have seen, so that nobody is tested on them."""

from __future__ import annotations

from typing import Any

import torch

from metaface.data import FaceSet
from metaface.data.faceset import join_names


def refuse_shared_people(faces: FaceSet, val: FaceSet) -> None:
    if faces.store is val.store and faces.people == val.people:
        both = {p: faces.people[p] for p in set(faces.person_ids) & set(val.person_ids)}
    else:
        both = val.known(**faces.seen())
    if both:
        names = ", ".join(
            name if val.people[p] == name else f"{name} (in validation {val.people[p]})"
            for p, name in sorted(both.items())[:5]
        )
        raise ValueError(
            f"{len(both)} people are in both training and validation ({names}, ...): split with "
            "FaceSet.split"
        )


def seen_people(faces: FaceSet, val: FaceSet | None) -> dict[str, Any]:
    """Whom training has seen, as ``FaceSet.unseen`` takes it: nobody is tested on them later.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=10, photos=3, progress=False)
        >>> train, val, test = faces.split(val=0.2, test=0.2)
        >>> seen = mf.training.seen_people(train, val)
        >>> len(seen["people"])
        8
        >>> faces.unseen(**seen).person_ids.tolist() == test.person_ids.tolist()
        True
    """
    seen = faces.seen()
    if val is None:
        return seen
    more, first = val.seen(), len(seen["people"])
    photos = {
        "shape": seen["photos"]["shape"],
        "digests": torch.cat([seen["photos"]["digests"], more["photos"]["digests"]]),
        "whose": torch.cat([seen["photos"]["whose"], more["photos"]["whose"] + first]),
    }
    return {
        "data": join_names((seen["data"], more["data"])),
        "source": join_names((seen["source"], more["source"])),
        "people": seen["people"] + more["people"],
        "photos": photos,
    }
