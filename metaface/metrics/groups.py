"""Error rates of each group of people at one threshold that all of them share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metaface.arguments import between_0_and_1, check_given_counts
from metaface.metrics.cohort import compute_prototypes
from metaface.metrics.intervals import Estimate, bootstrap, clopper_pearson, divide
from metaface.metrics.one_to_one import FALSE_MATCHES
from metaface.metrics.pairs import pair_cosines

EACH = 10  # matched pairs of a person at most, so that nobody makes up a group
MOST = 20_000  # mismatched pairs of a group at most

DRAWS = 1000  # of people, for the intervals over them

Rate = Literal["false_positive", "false_negative"]
RATES: tuple[Rate, Rate] = ("false_positive", "false_negative")


@dataclass(frozen=True)
class Errors:
    """What was counted of one kind of error.

    Attributes:
        trials, errors: comparisons (or searches), and how many went wrong.
        over_people: the rate with the interval of the bootstrap that draws people: comparisons
            that share somebody go wrong together. Too narrow below about 20 people.
    """

    trials: int
    errors: int
    over_people: Estimate

    @property
    def exact(self) -> Estimate:
        """The rate with the Clopper-Pearson interval, which takes trials for independent: it is
        about these people, not about others. nan where nothing was counted."""
        if not self.trials:
            return Estimate(math.nan, math.nan, math.nan)
        return clopper_pearson(self.errors, self.trials)

    @property
    def rate(self) -> Estimate:
        """Errors a trial, 0..1, with the interval that decides whether groups differ: from the
        lower of both lower ends, exact and over people, to the higher of both upper ends."""
        if not self.trials:
            return self.exact
        ends = (self.exact, self.over_people)
        low, high = np.nanmin([e.low for e in ends]), np.nanmax([e.high for e in ends])
        return Estimate(self.exact.value, float(low), float(high))


@dataclass(frozen=True)
class Group:
    """Errors of one group at the shared threshold.

    Attributes:
        name: the attribute's value.
        people: how many have it.
        false_positive: FMR: pairs of two people that pass the threshold. Or FPIR: photographs of
            strangers for which somebody is named.
        false_negative: FNMR: pairs of one person that do not. Or FNIR: photographs of enrolled
            people for which they are not named.
    """

    name: str
    people: int
    false_positive: Errors
    false_negative: Errors

    def errors(self, which: Rate) -> Errors:
        return self.false_positive if which == "false_positive" else self.false_negative


@dataclass(frozen=True)
class GroupComparison:
    """A measurement split by an attribute.

    Attributes:
        kind: ``verification`` (FMR and FNMR) or ``identification`` (FPIR and FNIR).
        by: the attribute.
        asked: the false-positive rate over everybody that the threshold was chosen for.
        threshold: the one that all groups share.
        overall: everybody, whatever the attribute.
        groups: by value, in order.
    """

    kind: Literal["verification", "identification"]
    by: str
    asked: float
    threshold: float
    overall: Group
    groups: tuple[Group, ...]

    def ratio(self, which: Rate) -> float:
        """The worst group's rate over the best group's: inf if the best made no error, nan if
        nobody did, or fewer than two groups were measured."""
        rates = [e.rate.value for e in self._measured(which)]
        if len(rates) < 2 or max(rates) == 0:
            return math.nan
        return max(rates) / min(rates) if min(rates) else math.inf

    def differs(self, which: Rate) -> bool:
        """Whether some two groups lie apart: the intervals of their :attr:`Errors.rate` do not
        meet. With many groups, some will by chance."""
        ends = [e.rate for e in self._measured(which)]
        return bool(ends) and max(e.low for e in ends) > min(e.high for e in ends)

    def rows(self) -> list[dict[str, Any]]:
        """What goes to ``results.json``; everybody first, whose ``group`` is None. ``low`` and
        ``high``, and ``interval``, are of :attr:`Errors.rate`."""
        rows = []
        for i, group in enumerate((self.overall, *self.groups)):
            row: dict[str, Any] = {"kind": self.kind, "by": self.by, "people": group.people}
            row["group"] = group.name if i else None
            for which in RATES:
                errors = group.errors(which)
                row[which] = {
                    "trials": errors.trials,
                    "errors": errors.errors,
                    **(errors.rate._asdict() if errors.trials else {}),
                    "interval": errors.rate[1:] if errors.trials else None,
                    "clopper_pearson": errors.exact[1:] if errors.trials else None,
                }
            rows.append(row)
        return rows

    def _measured(self, which: Rate) -> list[Errors]:
        return [e for g in self.groups if (e := g.errors(which)).trials]


def verify_by_group(
    embeddings: np.ndarray,
    person: np.ndarray,
    group: np.ndarray,
    *,
    by: str = "group",
    fmr: float = 0.01,
    seed: int = 0,
) -> GroupComparison:
    """FMR and FNMR of every group, at the threshold where everybody's pairs have ``fmr``.

    Pairs are within a group: two people of one kind are harder to tell apart than any two, so
    groups have larger false match rates than everybody has. Pairs are drawn: at most 10 matched
    ones a person, once for everybody and all groups, and 20,000 mismatched ones a group. Where
    everyone is wholly in one group, the matched pairs and errors of groups add up to everybody's.

    Args:
        embeddings: float ``[n, D]``, unit length.
        person: int ``[n]``.
        group: text ``[n]``, of each photograph; "": unknown, in no group.
        by: what the attribute is called.
        fmr: 0..1.
        seed: names the pairs.

    Raises:
        ValueError: shapes that differ, an embedding that is not a number, no two groups, or too
            few pairs for ``fmr``.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import verify_by_group
        >>> random = np.random.default_rng(0)
        >>> person = np.repeat(np.arange(100), 3)
        >>> faces = random.normal(size=(100, 32))[person] + random.normal(size=(300, 32)) / 2
        >>> faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        >>> group = np.where(person < 50, "young", "old")
        >>> result = verify_by_group(faces, person, group, by="age", fmr=0.01)
        >>> result.overall.people, result.differs("false_negative")
        (100, False)
    """
    fmr = between_0_and_1(fmr=fmr)
    person, group = _check(embeddings, person, group, by)
    rows, same = draw_pairs_within(person, seed)
    threshold = _threshold(pair_cosines(embeddings, rows)[~same], fmr, "mismatched pairs")
    matched, everybodys, inside = draw_matched(person, group, np.random.default_rng(seed))

    def count(name: str, members: np.ndarray) -> Group:
        mine = np.flatnonzero(members)
        rows, same = draw_pairs_within(person[mine], seed)
        others = mine[rows[~same]]
        mates = matched[everybodys if members.all() else inside & members[matched].all(1)]
        return Group(
            name,
            len(np.unique(person[mine])),
            _errors(pair_cosines(embeddings, others) >= threshold, person[others]),
            _errors(pair_cosines(embeddings, mates) < threshold, person[mates[:, :1]]),
        )

    return _compare("verification", by, fmr, threshold, group, count)


def identify_by_group(
    embeddings: np.ndarray,
    person: np.ndarray,
    group: np.ndarray,
    *,
    by: str = "group",
    shots: int = 1,
    fpir: float = 0.01,
    seed: int = 0,
) -> GroupComparison:
    """FPIR and FNIR of every group, at the threshold where everybody has ``fpir``.

    Half of the people are enrolled by ``shots`` photographs, the others are strangers; then the
    halves change places. So everybody is searched for both ways, in a gallery of all groups. FPIR
    is the share of a group's photographs, as strangers', for which anybody is named; FNIR that of
    its enrolled people's other photographs for which they are not (another is nearer, or the
    score is below the threshold).

    Args:
        embeddings, person, group, by: as for :func:`verify_by_group`.
        shots: photographs that enrol a person; people with no more are strangers alone.
        fpir: 0..1.
        seed: names the halves and the photographs.

    Raises:
        ValueError: as for :func:`verify_by_group`; nobody with more than ``shots``.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import identify_by_group
        >>> random = np.random.default_rng(0)
        >>> person = np.repeat(np.arange(100), 3)
        >>> faces = random.normal(size=(100, 32))[person] + random.normal(size=(300, 32)) / 2
        >>> faces /= np.linalg.norm(faces, axis=1, keepdims=True)
        >>> group = np.where(person < 50, "young", "old")
        >>> result = identify_by_group(faces, person, group, by="age", fpir=0.1)
        >>> [one.name for one in result.groups], result.overall.people
        (['old', 'young'], 100)
    """
    fpir = between_0_and_1(fpir=fpir)
    check_given_counts(1, shots=shots)
    person, group = _check(embeddings, person, group, by)
    random = np.random.default_rng(seed)
    people, who = np.unique(person, return_inverse=True)
    half = np.empty(len(people), bool)
    half[random.permutation(len(people))] = np.arange(len(people)) % 2 == 0
    place = np.empty(len(who), dtype=np.int64)  # of a photograph among its person's
    for p in range(len(people)):
        mine = np.flatnonzero(who == p)
        place[mine] = random.permutation(len(mine))
    enough = np.bincount(who) > shots
    best, named, impostor, photograph = [], [], [], []
    for side in (True, False):
        enrolled = np.flatnonzero((half == side) & enough)
        if not len(enrolled):
            raise ValueError(
                f"{int(enough.sum())} people have more than shots={shots} photographs (the most "
                f"is {np.bincount(who).max()}): too few to enrol half of them; give fewer "
                "shots, or more photographs"
            )
        number = np.full(len(people), -1)
        number[enrolled] = np.arange(len(enrolled))
        known = number[who] >= 0
        gallery = known & (place < shots)
        means = compute_prototypes(embeddings[gallery], number[who[gallery]], len(enrolled))
        probes = np.flatnonzero((known & (place >= shots)) | (half[who] != side))
        scores = embeddings[probes] @ means.T
        best.append(scores.max(1))
        named.append(scores.argmax(1) == number[who[probes]])
        impostor.append(number[who[probes]] < 0)
        photograph.append(probes)
    score, right, other, row = map(np.concatenate, (best, named, impostor, photograph))
    threshold = _threshold(score[other], fpir, "searches of strangers")
    passed = score.astype(np.float64) >= threshold
    searched = person[row][:, None]

    def count(name: str, members: np.ndarray) -> Group:
        mine = members[row]
        return Group(
            name,
            len(np.unique(person[members])),
            _errors(passed[mine & other], searched[mine & other]),
            _errors(~(passed & right)[mine & ~other], searched[mine & ~other]),
        )

    return _compare("identification", by, fpir, threshold, group, count)


def _compare(
    kind: Literal["verification", "identification"],
    by: str,
    asked: float,
    threshold: float,
    group: np.ndarray,
    count: Callable[[str, np.ndarray], Group],
) -> GroupComparison:
    """The errors that ``count`` finds for a name and its photographs, bool ``[n]``."""
    everybody = count("everybody", np.ones(len(group), bool))
    names = np.unique(group[group != ""])
    groups = tuple(count(str(name), group == name) for name in names)
    return GroupComparison(kind, by, asked, threshold, everybody, groups)


def draw_pairs_within(person: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of photographs: at most ``EACH`` matched ones a person, ``MOST`` mismatched ones.

    Args:
        person: int ``[n]``.

    Returns:
        int64 ``[pairs, 2]``, the matched ones first, and bool ``[pairs]``, whether they match.
    """
    random = np.random.default_rng(seed)
    matched, everybodys, _ = draw_matched(person, np.zeros(len(person), "U1"), random)
    mismatched = _draw_mismatched(person, random)
    pairs = np.concatenate([matched[everybodys], mismatched])
    return pairs, np.arange(len(pairs)) < len(pairs) - len(mismatched)


def draw_matched(
    person: np.ndarray, group: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matched pairs of everybody and of each group, drawn once.

    A person's pairs are put in one random order. Everybody has the first ``EACH`` of them, a group
    the first ``EACH`` of those inside it. Of people who are wholly in one group these are the
    same, so that the errors of groups add up to everybody's.

    Args:
        person: int ``[n]``.
        group: text ``[n]``; "": in no group.

    Returns:
        int64 ``[pairs, 2]``; bool ``[pairs]``, whether a pair is everybody's; and bool ``[pairs]``,
        whether it is that of the group in which both of its photographs are.
    """
    names, number = np.unique(group, return_inverse=True)
    order = np.argsort(person, kind="stable")
    _, starts, counts = np.unique(person[order], return_index=True, return_counts=True)
    pairs = [np.empty((0, 2), dtype=np.int64)]
    everybodys, inside = [np.empty(0, bool)], [np.empty(0, bool)]
    for start, count in zip(starts, counts, strict=True):
        mine = order[start : start + count]
        left, right = np.triu_indices(count, 1)
        drawn = random.permutation(len(left))
        two = np.stack([mine[left[drawn]], mine[right[drawn]]], 1)
        first = np.arange(len(two)) < EACH
        within = np.zeros(len(two), bool)
        for k in np.unique(number[mine]):
            if names[k]:
                within[np.flatnonzero((number[two] == k).all(1))[:EACH]] = True
        kept = first | within
        pairs.append(two[kept])
        everybodys.append(first[kept])
        inside.append(within[kept])
    return np.concatenate(pairs), np.concatenate(everybodys), np.concatenate(inside)


def _draw_mismatched(person: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """At most ``MOST`` pairs of two people, int64 ``[pairs, 2]``."""
    n = len(person)
    counts = np.unique(person, return_counts=True)[1]
    possible = (n * n - int((counts**2).sum())) // 2
    if possible <= 2 * MOST:
        every = np.stack(np.nonzero(np.triu(person[:, None] != person)), 1)
        return random.permutation(every)[:MOST]
    mismatched = np.empty((0, 2), dtype=np.int64)
    while len(mismatched) < MOST:
        two = np.sort(random.integers(n, size=(2 * MOST, 2)), 1)
        two = np.concatenate([mismatched, two[person[two[:, 0]] != person[two[:, 1]]]])
        _, first = np.unique(two[:, 0] * n + two[:, 1], return_index=True)
        mismatched = two[np.sort(first)][:MOST]
    return mismatched


def check_groups(by: str, group: np.ndarray) -> None:
    """Refuse an attribute without two groups; ``group``: text ``[n]``, "" in none.

    Raises:
        ValueError: says which groups there are, and that blanks are none.
    """
    names, blank = np.unique(group[group != ""]), int((group == "").sum())
    if len(names) < 2:
        found = f"the value {str(names[0])!r} alone" if len(names) else "no value"
        blanks = f" ({blank} of {len(group)} are blank: unknown, and in no group)" if blank else ""
        raise ValueError(
            f"{by} has {found}{blanks}: to compare takes two groups, so leave {by} out, or give "
            "another value to some"
        )


def _check(
    embeddings: np.ndarray, person: np.ndarray, group: np.ndarray, by: str
) -> tuple[np.ndarray, np.ndarray]:
    person, group = np.asarray(person), np.asarray(group).astype(str)
    if embeddings.ndim != 2 or not len(embeddings) == len(person) == len(group):
        raise ValueError(
            f"embeddings {list(embeddings.shape)}, person {list(person.shape)} and group "
            f"{list(group.shape)}: need [n, D], [n] and [n]"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError("some embedding is not a number: leave such photographs out")
    check_groups(by, group)
    return person, group


def _threshold(impostor: np.ndarray, asked: float, what: str) -> float:
    """Halfway between the scores that may just pass (``score >= t``) and may just not."""
    if len(impostor) * asked < FALSE_MATCHES:
        smallest = FALSE_MATCHES / len(impostor) if len(impostor) else math.inf
        raise ValueError(
            f"a rate of {asked:g} is not measured on {len(impostor)} {what}: with fewer than "
            f"{FALSE_MATCHES} errors it is a guess; ask for {smallest:.2g} or more (below 1)"
        )
    allowed = math.floor(asked * len(impostor) + 1e-9)
    ordered = np.sort(impostor.astype(np.float64))[::-1]
    refused = ordered[allowed]
    above = ordered[ordered > refused]
    halfway = (above[-1] + refused) / 2 if len(above) else refused
    return float(halfway if halfway > refused else np.nextafter(refused, np.inf))


def _errors(wrong: np.ndarray, who: np.ndarray) -> Errors:
    """Of trials ``[n]``, and the one or two people of each ``[n, 1 or 2]``."""
    if not len(wrong):
        return Errors(0, 0, Estimate(math.nan, math.nan, math.nan))
    people, who = np.unique(who, return_inverse=True)
    who = who.reshape(len(wrong), -1)

    def pooled(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, who[:, 0]]
        if who.shape[1] == 2:
            drawn = drawn * weights[:, who[:, 1]]
        return divide(drawn @ wrong, drawn.sum(1))

    return Errors(len(wrong), int(wrong.sum()), bootstrap(pooled, len(people), draws=DRAWS))
