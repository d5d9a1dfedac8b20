"""Tasks whose support and query photographs come from different domains."""

from __future__ import annotations

from typing import Any

import numpy as np

from metaface.data import FaceSet
from metaface.episodes.sampler import Episodes, EpisodeSampler


def find_partners(faces: FaceSet) -> dict[str, tuple[str, ...]]:
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

    The pairs of domains have different people, and so a sampler each, which takes the draws of any
    ``EpisodeSampler``; this class only decides whose turn it is.

    Args:
        faces: people of several domains.
        ways, shots, queries: as of ``EpisodeSampler``; where two domains have fewer people in
            common than ``ways``, all of them are in each task.
        options: ``seed``, ``stream``, ``augment`` and ``device`` of ``EpisodeSampler``.

    Attributes:
        people: int64 ``[P]``, people who are in some task.
        turns: the (support, query) domains, in turns, by support domain.

    Raises:
        ValueError: a domain without two people of enough photographs, by name.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic:frontal,profile", people=6, photos=4, progress=False)
        >>> sampler = mf.episodes.AcrossDomains(faces, ways=3, shots=1, queries=2)
        >>> for k in range(2):
        ...     tasks = sampler.batch(k, size=4)
        ...     print(tasks.support_domain, tasks.query_domain, list(tasks.query.shape))
        frontal profile [4, 6, 3, 28, 28]
        profile frontal [4, 6, 3, 28, 28]
    """

    def __init__(
        self,
        faces: FaceSet,
        ways: int | tuple[int, int] = 5,
        shots: int | tuple[int, int] = 1,
        queries: int = 5,
        **options: Any,
    ) -> None:
        self.faces = faces
        most = shots if isinstance(shots, int) else shots[1]
        self._samplers: list[list[EpisodeSampler]] = []
        for support, others in find_partners(faces).items():
            mine = []
            for query in others or (support,):
                able = _count_able(faces, support, query, most, queries)
                if able < 2 and others:
                    continue
                size = (_limit_ways(ways, max(2, able)), shots, queries)
                options |= {"support_domain": support, "query_domain": query}
                mine.append(EpisodeSampler(faces, *size, **options))
            if not mine:
                raise ValueError(
                    f"domain {support!r} of {faces.name}: no two people of it have {most} "
                    f"photographs there and {queries} in one of {', '.join(others)}: use fewer "
                    "shots or queries, or leave it out"
                )
            self._samplers.append(mine)
        first = self._samplers[0][0]
        self.seed, self.augment = first.seed, first.augment
        everybody = [sampler.people for mine in self._samplers for sampler in mine]
        self.people = np.unique(np.concatenate(everybody))
        self.turns = [[(s.support_domain, s.query_domain) for s in mine] for mine in self._samplers]

    def batch(self, k: int, size: int = 1, part: slice = slice(None)) -> Episodes:
        """Batch ``k``, or a ``part`` of it."""
        turn, which = divmod(k, len(self._samplers))
        mine = self._samplers[which]
        return mine[turn % len(mine)].batch(k, size, part)


def _count_able(faces: FaceSet, support: str, query: str, shots: int, queries: int) -> int:
    """How many people have the photographs for a task of these domains."""
    left = faces.of_domains(support).photos()
    if support == query:
        return int((left >= shots + queries).sum())
    return int(((left >= shots) & (faces.of_domains(query).photos() >= queries)).sum())


def _limit_ways(ways: int | tuple[int, int], able: int) -> tuple[int, int]:
    low, high = (ways, ways) if isinstance(ways, int) else ways
    return min(low, able), min(high, able)
