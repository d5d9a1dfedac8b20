"""Pairs of photographs for verification: the official LFW lists, or drawn by seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metaface._text import given_path
from metaface.metrics.cohort import clip_cosines


@dataclass(frozen=True, eq=False)
class Pairs:
    """Comparisons to be made.

    Attributes:
        rows: int64 ``[n, 2]``, which two photographs.
        same: bool ``[n]``, whether they show one person.
        fold: int64 ``[n]``, 0..folds - 1.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import draw_pairs
        >>> person = np.repeat(np.arange(6), 4)  # six people of four photographs
        >>> pairs = draw_pairs(person, matched=6, mismatched=6, folds=2)
        >>> pairs.rows.shape, int(pairs.same.sum())
        ((12, 2), 6)
        >>> pairs.scores(np.eye(24, 8)).shape
        (12,)
    """

    rows: np.ndarray
    same: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Cosine of every pair, float64 ``[n]``, from unit embeddings ``[photographs, D]``."""
        return pair_cosines(embeddings, self.rows)


def pair_cosines(embeddings: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Cosine of pairs ``[n, 2]`` of rows, float64 ``[n]``, from unit embeddings."""
    left, right = rows.T
    return clip_cosines(
        np.einsum("nd,nd->n", embeddings[left], embeddings[right], dtype=np.float64)
    )


def read_pairs(path: str | Path) -> tuple[tuple[str, ...], Pairs]:
    """Read ``pairs.txt``, ``pairsDevTrain.txt`` or ``pairsDevTest.txt`` as LFW publishes them.

    The first line is ``folds<TAB>count``, or ``count`` for one fold. Each fold is ``count``
    matched lines (``name i j``), then ``count`` mismatched ones (``name1 i name2 j``).

    Returns:
        The photographs named, such as ``Abel_Pacheco/Abel_Pacheco_0001.jpg``, each once, sorted;
        and the pairs, whose rows index them.

    Raises:
        ValueError: a line is not what it must be (file, line and what was expected), or lines are
            missing or left over.

    Example:
        >>> from pathlib import Path
        >>> from metaface.metrics import read_pairs
        >>> size = Path("pairs.txt").write_text("1\\nAna 1 2\\nAna 1 Bo 3\\n")
        >>> photographs, pairs = read_pairs("pairs.txt")
        >>> photographs[0], pairs.rows.tolist(), pairs.same.tolist()
        ('Ana/Ana_0001.jpg', [[0, 1], [0, 2]], [True, False])
    """
    lines = given_path(path, "the pairs").read_text(encoding="utf-8-sig").splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    header = lines[0].split() if lines else []
    if len(header) not in (1, 2) or not all(map(_counts, header)):
        raise ValueError(
            f"{path}: line 1: expected the number of folds and of pairs in a half fold, such as "
            f"'10 300', or one number, found {lines[0][:80] if lines else ''!r}"
        )
    folds, count = (1, int(header[0])) if len(header) == 1 else map(int, header)
    if len(lines) - 1 != 2 * folds * count:
        raise ValueError(
            f"{path}: its first line announces {folds} folds of {count} matched and {count} "
            f"mismatched pairs, {2 * folds * count} lines, but {len(lines) - 1} follow: "
            "download it again"
        )
    same = np.tile(np.repeat([True, False], count), folds)
    named = [_line(path, i + 2, text, bool(same[i])) for i, text in enumerate(lines[1:])]
    files, rows = np.unique(np.array(named), return_inverse=True)
    fold = np.repeat(np.arange(folds), 2 * count)
    return tuple(files.tolist()), Pairs(rows.reshape(-1, 2), same, fold)


def _counts(word: str) -> bool:
    """Whether it is a positive whole number, of a size that a file can have."""
    return word.isascii() and word.isdigit() and len(word) < 10 and int(word) > 0


def _line(path: str | Path, number: int, text: str, same: bool) -> tuple[str, str]:
    words = text.split("\t") if "\t" in text else text.split()
    words = [w.strip() for w in words]
    if same and len(words) == 3:
        words.insert(2, words[0])
    elif same or len(words) != 4:
        words = []
    if not (words and words[0] and words[2] and _counts(words[1]) and _counts(words[3])):
        expected = "a matched pair 'name i j'" if same else "a mismatched pair 'name1 i name2 j'"
        raise ValueError(f"{path}: line {number}: expected {expected}, found {text[:80]!r}")
    first, second = ((n, int(i)) for n, i in (words[:2], words[2:]))
    if same and first == second:
        raise ValueError(f"{path}: line {number}: {text[:80]!r} pairs a photograph with itself")
    if not same and first[0] == second[0]:
        raise ValueError(f"{path}: line {number}: a mismatched pair of one person: {text[:80]!r}")
    return _file(*first), _file(*second)


def _file(name: str, number: int) -> str:
    return f"{name}/{name}_{number:04d}.jpg"


def draw_pairs(
    person: np.ndarray, matched: int = 2500, mismatched: int = 2500, folds: int = 10, seed: int = 0
) -> Pairs:
    """Pairs drawn by seed, in folds that share nobody.

    People are shared out to the folds, those with many photographs evenly; both photographs of
    every pair, also of a mismatched one, are of people of its fold. Inside a fold it is done as
    for LFW (Huang et al. 2007, section II): a person, then two photographs of theirs, or two
    people, then one photograph of each, all uniformly; a pair drawn before is drawn again.

    Args:
        person: int ``[photographs]``, who is on each.
        matched, mismatched: how many pairs of each kind, over all folds.
        folds: at least 1.
        seed: names the pairs.

    Returns:
        Pairs by fold, the matched ones of a fold first.

    Raises:
        ValueError: more pairs asked than there are; says how many are possible.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics import draw_pairs
        >>> person = np.repeat(np.arange(20), 5)  # 20 people of five photographs
        >>> pairs = draw_pairs(person, matched=100, mismatched=100, folds=10, seed=0)
        >>> first, second = person[pairs.rows].T
        >>> pairs.rows.shape, bool(((first == second) == pairs.same).all())
        ((200, 2), True)
    """
    if folds < 1 or matched < 0 or mismatched < 0:
        raise ValueError(
            f"folds={folds}, matched={matched}, mismatched={mismatched}: need at least one fold, "
            "and no negative number of pairs"
        )
    random = np.random.default_rng(seed)
    _, person, counts = np.unique(person, return_inverse=True, return_counts=True)
    groups = _share_out(person, counts, folds, random)
    quotas = {
        "matched": _quota("matched", matched, [g.matched for g in groups]),
        "mismatched": _quota("mismatched", mismatched, [g.mismatched for g in groups]),
    }
    rows, same, fold = [], [], []
    for k, group in enumerate(groups):
        for kind, draw in (("matched", group.draw_matched), ("mismatched", group.draw_mismatched)):
            count = int(quotas[kind][k])
            rows.append(_distinct(draw, count, random, len(person)))
            same.append(np.full(count, kind == "matched"))
            fold.append(np.full(count, k))
    return Pairs(np.concatenate(rows), np.concatenate(same), np.concatenate(fold))


def count_possible(person: np.ndarray, folds: int) -> int:
    """How many pairs of each kind :func:`draw_pairs` can draw of these people, whatever the seed.

    Args:
        person: int ``[photographs]``, who is on each.
        folds: at least 1.

    Example:
        >>> import numpy as np
        >>> from metaface.metrics.pairs import count_possible
        >>> person = np.repeat(np.arange(40), 8)  # 40 people of eight photographs
        >>> count_possible(person, folds=10)
        1120
    """
    _, person, counts = np.unique(person, return_inverse=True, return_counts=True)
    groups = _share_out(person, counts, folds, np.random.default_rng(0))
    kinds = ([g.matched for g in groups], [g.mismatched for g in groups])
    return min(_most(np.array(capacity)) for capacity in kinds)


def _share_out(
    person: np.ndarray, counts: np.ndarray, folds: int, random: np.random.Generator
) -> list[_Group]:
    """The people ``0..len(counts) - 1`` by fold; those with many photographs evenly."""
    by_photos = random.permutation(len(counts))
    by_photos = by_photos[np.argsort(-counts[by_photos], kind="stable")]
    around = np.concatenate([np.arange(folds), np.arange(folds)[::-1]])  # there and back again
    fold_of = np.empty(len(counts), dtype=np.int64)
    fold_of[by_photos] = np.resize(around, len(counts))
    return [_Group(person, np.flatnonzero(fold_of == fold)) for fold in range(folds)]


class _Group:
    """The photographs of some people, and how many pairs they make."""

    def __init__(self, person: np.ndarray, people: np.ndarray) -> None:
        mine = np.flatnonzero(np.isin(person, people))
        self.rows = mine[np.argsort(person[mine], kind="stable")]
        _, self.start, self.count = np.unique(
            person[self.rows], return_index=True, return_counts=True
        )
        self.several = np.flatnonzero(self.count > 1)
        self.matched = int((self.count * (self.count - 1) // 2).sum())
        self.mismatched = len(self.rows) * (len(self.rows) - 1) // 2 - self.matched

    def draw_matched(self, size: int, random: np.random.Generator) -> np.ndarray:
        p = random.choice(self.several, size)
        i = random.integers(self.count[p])
        j = random.integers(self.count[p] - 1)
        j += j >= i
        return self._rows(p, i, p, j)

    def draw_mismatched(self, size: int, random: np.random.Generator) -> np.ndarray:
        p = random.integers(len(self.count), size=size)
        q = random.integers(len(self.count) - 1, size=size)
        q += q >= p
        return self._rows(p, random.integers(self.count[p]), q, random.integers(self.count[q]))

    def _rows(self, p: np.ndarray, i: np.ndarray, q: np.ndarray, j: np.ndarray) -> np.ndarray:
        return np.sort(np.stack([self.rows[self.start[p] + i], self.rows[self.start[q] + j]], 1))


def _quota(kind: str, asked: int, capacity: list[int]) -> np.ndarray:
    """int64 ``[folds]``: ``asked`` pairs shared out evenly, the odd ones where there are most."""
    most = np.array(capacity)
    each, odd = divmod(asked, len(most))
    quota = np.full(len(most), each)
    quota[np.argsort(-most, kind="stable")[:odd]] += 1
    if (quota > most).any():
        raise ValueError(
            f"{kind}={asked} pairs in {len(most)} folds that share nobody: these people make "
            f"{_most(most)} at most; ask for fewer, use fewer folds, or add people or photographs"
        )
    return quota


def _most(capacity: np.ndarray) -> int:
    """How many pairs can be shared out evenly to folds that have so many."""
    return int(len(capacity) * capacity.min() + (capacity > capacity.min()).sum())


def _distinct(
    draw: Callable[[int, np.random.Generator], np.ndarray],
    count: int,
    random: np.random.Generator,
    photographs: int,
) -> np.ndarray:
    """The first ``count`` different pairs that ``draw`` gives, in the order they came."""
    rows = np.empty((0, 2), dtype=np.int64)
    while len(rows) < count:
        rows = np.concatenate([rows, draw(2 * count, random)])
        _, first = np.unique(rows[:, 0] * photographs + rows[:, 1], return_index=True)
        rows = rows[np.sort(first)]
    return rows[:count]
