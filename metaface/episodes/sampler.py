"""Episodes: N-way K-shot tasks drawn from a FaceSet."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaface._splitmix import GOLDEN, mix_bits, scale_bits
from metaface.arguments import check_given_counts
from metaface.data import FaceSet
from metaface.episodes.augment import Augment

BLOCK = 512  # consecutive tasks drawn at once


@dataclass(frozen=True)
class Episodes:
    """A batch of B tasks of equal way N, shot K and query count Q, ordered by label.

    Attributes:
        support: float32 ``[B, N*K, C, H, W]`` in 0..1.
        support_y: int64 ``[B, N*K]`` in 0..N-1.
        query: float32 ``[B, N*Q, C, H, W]`` in 0..1.
        query_y: int64 ``[B, N*Q]`` in 0..N-1.
        people: int64 ``[B, N]``, the person (id in the FaceSet) behind each label.
        support_rows, query_rows: int64 ``[B, N*K]``, ``[B, N*Q]``, rows of ``FaceSet.store``.
        support_domain, query_domain: the domain each side was drawn from; None: any.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=8, photos=4, progress=False)
        >>> tasks = mf.EpisodeSampler(faces, ways=5, shots=2, queries=1).batch(0, size=3)
        >>> tasks.support.shape, tasks.query_y.shape, tasks.people.shape
        (torch.Size([3, 10, 3, 28, 28]), torch.Size([3, 5]), torch.Size([3, 5]))
        >>> tasks.part(0, 1).support_y.tolist()
        [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4]]
    """

    support: Tensor
    support_y: Tensor
    query: Tensor
    query_y: Tensor
    people: Tensor
    support_rows: Tensor
    query_rows: Tensor
    support_domain: str | None = None
    query_domain: str | None = None

    @property
    def ways(self) -> int:
        return self.people.shape[1]

    def __len__(self) -> int:
        return len(self.people)

    def part(self, start: int, stop: int) -> Episodes:
        """The tasks ``start`` to ``stop - 1`` of this batch."""
        tensors: dict[str, Any] = {
            n: v[start:stop] for n, v in vars(self).items() if isinstance(v, Tensor)
        }
        return replace(self, **tensors)

    def to(self, dtype: torch.dtype) -> Episodes:
        """The same tasks with images in another floating-point type."""
        return replace(self, support=self.support.to(dtype), query=self.query.to(dtype))


class EpisodeSampler:
    """Draws tasks; task i is a pure function of (seed, stream, i).

    Draws come from a counter-based hash (splitmix64), so that any batch, in any process and after
    any interruption, holds the same tasks, and a whole batch is drawn and gathered at once.

    Args:
        faces: the people to draw from.
        ways, shots, queries: N, K, Q. ``ways`` and ``shots`` may be a (least, most) pair: each
            batch draws its own from the first of its tasks.
        seed, stream: name the sequence of tasks; streams of one seed are independent.
        support_domain, query_domain: names of domains the sides are drawn from; None: any.
        augment: random changes of the photographs, drawn from the task's own key.
        device: where the photographs are kept (as uint8) and the batch is built.

    Attributes:
        people: int64 ``[P]``, people with enough photographs.
        left_out: names of the people with too few.

    Raises:
        ValueError: too few people with enough photographs, with the numbers and the remedy.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=8, photos=4, progress=False)
        >>> sampler = mf.EpisodeSampler(faces, ways=5, shots=1, queries=3, seed=0)
        >>> tasks = sampler.batch(0, size=2)
        >>> list(tasks.support.shape), list(tasks.query.shape)
        ([2, 5, 3, 28, 28], [2, 15, 3, 28, 28])
        >>> tasks.support_y.tolist()
        [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
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
        support_domain: str | None = None,
        query_domain: str | None = None,
        augment: Augment | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if not isinstance(faces, FaceSet):
            raise ValueError(
                f"faces must be one FaceSet, got a {type(faces).__name__}: load one with "
                "metaface.data.load, and take the parts of a split one by one"
            )
        self.ways = check_range("ways", ways, 2)
        self.shots = check_range("shots", shots, 1)
        check_given_counts(1, queries=queries)
        check_given_counts(0, seed=seed)
        if not (augment is None or (callable(augment) and hasattr(augment, "draws"))):
            raise ValueError(
                f"augment={augment!r}: must be a metaface.Augment, such as Augment.of(['flip']), "
                "or None"
            )
        self.queries = queries
        self.support_domain, self.query_domain = support_domain, query_domain
        self.augment = augment
        self.seed = seed
        self.faces = faces
        most_shots = self.shots[1]

        self._shared = support_domain == query_domain
        sides = [
            faces if d is None else faces.of_domains(d) for d in (support_domain, query_domain)
        ]
        needs = [most_shots + queries] if self._shared else [most_shots, queries]
        sides = sides[: len(needs)]
        enough = np.logical_and.reduce(
            [side.photos() >= need for side, need in zip(sides, needs, strict=True)]
        )
        self.people = np.flatnonzero(enough)
        self.left_out = tuple(faces.people[p] for p in faces.person_ids if not enough[p])
        if len(self.people) < self.ways[1]:
            lower = _advise_fewer(
                ways=(self.ways[1], 2), shots=(most_shots, 1), queries=(queries, 1)
            )
            raise ValueError(
                f"{faces.name}: {self.ways[1]}-way {most_shots}-shot {queries}-query tasks need "
                f"{self.ways[1]} people with at least {' + '.join(map(str, needs))} photographs "
                f"each, but only {len(self.people)} of {len(faces.person_ids)} have them"
                f"{_say_most(sides)}: use {lower}more people or photographs"
            )
        self._sides = [_ByPerson(side, self.people) for side in sides]
        self._key = _hash_stream(seed, stream)
        self._drawn_block: Any = (None, None)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self._store = torch.from_numpy(faces.store).to(device)

    def batch(self, k: int, size: int = 1, part: slice = slice(None)) -> Episodes:
        """Batch ``k``: the tasks ``k * size`` to ``(k + 1) * size - 1``.

        Args:
            part: build only these of its tasks; they are what they are in the whole batch.

        Example:
            >>> import metaface as mf
            >>> faces = mf.data.load("synthetic", people=8, photos=4, progress=False)
            >>> sampler = mf.EpisodeSampler(faces, ways=3, shots=1, queries=2)
            >>> whole, last = sampler.batch(7, size=4), sampler.batch(7, size=4, part=slice(3, 4))
            >>> whole.people.shape, last.people.shape
            (torch.Size([4, 3]), torch.Size([1, 3]))
            >>> whole.people[3].tolist() == last.people[0].tolist()
            True
        """
        return self.tasks(np.arange(k * size, (k + 1) * size), part)

    def tasks(self, indices: np.ndarray, part: slice = slice(None)) -> Episodes:
        """The tasks with these global indices (int ``[B]``), as one batch; or a ``part`` of it."""
        people, support_rows, query_rows = self.rows(indices, part)
        support_y, query_y = self.labels(support_rows, people.shape[1])
        keys = self._keys(indices[part])
        return Episodes(
            support=self._images(support_rows, keys, 6),
            support_y=support_y,
            query=self._images(query_rows, keys, 7),
            query_y=query_y,
            people=people,
            support_rows=support_rows,
            query_rows=query_rows,
            support_domain=self.support_domain,
            query_domain=self.query_domain,
        )

    def rows(self, indices: np.ndarray, part: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        """Of the tasks with these indices: people ``[B, N]``, rows of support ``[B, N*K]`` and of
        query ``[B, N*Q]``, as in :class:`Episodes`, without the photographs."""
        first = self._keys(indices[:1])  # draws for all of them
        ways, shots = self._drawn(self.ways, first, 1), self._drawn(self.shots, first, 2)
        return self._rows(indices[part], ways, shots)

    def labels(self, support_rows: Tensor, ways: int) -> tuple[Tensor, Tensor]:
        """Labels of support ``[B, N*K]`` and of query ``[B, N*Q]``."""
        labels = torch.arange(ways, device=self._store.device)
        count, shots = len(support_rows), support_rows.shape[1] // ways
        return (
            labels.repeat_interleave(shots).expand(count, -1),
            labels.repeat_interleave(self.queries).expand(count, -1),
        )

    def _keys(self, indices: np.ndarray) -> np.ndarray:
        return mix_bits(self._key ^ mix_bits(np.asarray(indices, dtype=np.uint64)))

    def _rows(self, indices: np.ndarray, ways: int, shots: int) -> tuple[Tensor, Tensor, Tensor]:
        """People ``[B, N]`` and rows of support ``[B, N*K]`` and query ``[B, N*Q]``.

        Consecutive tasks are drawn a block at a time: what a draw costs is mostly the number of
        array operations, not their length.
        """
        first, count = int(indices[0]), len(indices)
        block = first // BLOCK
        inside = (int(indices[-1]) // BLOCK == block) and count == int(indices[-1]) - first + 1
        if not inside:
            return self._draw(self._keys(indices), ways, shots)
        if self._drawn_block[0] != (block, ways, shots):
            keys = self._keys(np.arange(block * BLOCK, (block + 1) * BLOCK))
            self._drawn_block = (block, ways, shots), self._draw(keys, ways, shots)
        start = first - block * BLOCK
        people, support, query = self._drawn_block[1]
        stop = start + count
        return people[start:stop], support[start:stop], query[start:stop]

    def _draw(self, keys: np.ndarray, ways: int, shots: int) -> tuple[Tensor, Tensor, Tensor]:
        chosen = _draw_distinct(keys, 3, np.full(len(keys), len(self.people)), ways)
        person_keys = mix_bits(
            keys[:, None] ^ mix_bits(chosen.astype(np.uint64) + np.uint64(1 << 32))
        )
        if self._shared:
            rows = self._sides[0].draw(person_keys, 4, chosen, shots + self.queries)
            support, query = rows[..., :shots], rows[..., shots:]
        else:
            support = self._sides[0].draw(person_keys, 4, chosen, shots)
            query = self._sides[1].draw(person_keys, 5, chosen, self.queries)
        if self.faces.versions > 1:
            drawn = _draw_uniform(person_keys[..., None], 8, 1) * self.faces.versions
            first = drawn.astype(np.int64) * (len(self.faces.store) // self.faces.versions)
            support, query = support + first, query + first
        rows_of = [self.people[chosen], support, query]
        people, support_rows, query_rows = (
            torch.from_numpy(np.ascontiguousarray(r).reshape(len(keys), -1)) for r in rows_of
        )
        return people, support_rows, query_rows

    def images(self, rows: Tensor) -> Tensor:
        """The photographs of rows ``[n]`` of the store: float32 ``[n, C, H, W]`` in 0..1."""
        flat = self._store.index_select(0, rows.to(self._store.device))
        return scale_pixels(flat)

    def _images(self, rows: Tensor, keys: np.ndarray, purpose: int) -> Tensor:
        images = self.images(rows.flatten())
        if self.augment is not None:
            draws = _draw_uniform(keys[:, None, None], purpose, rows.shape[1], self.augment.draws)
            images = self.augment(images, torch.from_numpy(draws).flatten(0, 1).float())
        return images.unflatten(0, rows.shape)

    def _drawn(self, bounds: tuple[int, int], keys: np.ndarray, purpose: int) -> int:
        low, high = bounds
        if low == high:
            return low
        return low + int(_draw_uniform(keys[:, None], purpose, 1)[0, 0] * (high - low + 1))


def check_combinations(
    faces: FaceSet,
    ways: Sequence[int],
    shots: Sequence[int],
    queries: int,
    domains: tuple[str | None, str | None] | None = None,
) -> None:
    """Refuse a combination of ``ways`` and ``shots`` that ``faces`` has too few people or
    photographs for, so that nothing is trained or tested before it is found to be impossible.

    Raises:
        ValueError: as of ``EpisodeSampler``, of the first such combination.

    Example:
        >>> import metaface as mf
        >>> from metaface.episodes.sampler import check_combinations
        >>> faces = mf.data.load("synthetic", people=8, photos=6, progress=False)
        >>> check_combinations(faces, ways=(2, 8), shots=(1, 5), queries=1)
    """
    support_domain, query_domain = domains or (None, None)
    for n in ways:
        for k in shots:
            EpisodeSampler(
                faces, n, k, queries, support_domain=support_domain, query_domain=query_domain
            )


class _ByPerson:
    """Rows of a view, grouped by person, so that a photograph is one addition away."""

    def __init__(self, view: FaceSet, people: np.ndarray) -> None:
        self.rows = view.rows[np.argsort(view.person, kind="stable")]
        counts = view.photos()
        self.start = (np.cumsum(counts) - counts)[people]
        self.count = counts[people]

    def draw(self, keys: np.ndarray, purpose: int, chosen: np.ndarray, k: int) -> np.ndarray:
        """int64 ``[B, N, k]``: k distinct photographs of each chosen person."""
        picks = _draw_distinct(keys, purpose, self.count[chosen], k)
        return self.rows[self.start[chosen][..., None] + picks]


def _say_most(sides: list[FaceSet]) -> str:
    """The most photographs that anybody has on each side."""
    most = [str(side.photos().max(initial=0)) for side in sides]
    return f" (the most that anybody has is {' + '.join(most)})"


def _advise_fewer(**numbers: tuple[int, int]) -> str:
    """Advice to lower those numbers that are not at their least yet, and "or"; "" for none."""
    high = [name for name, (value, minimum) in numbers.items() if value > minimum]
    return f"fewer {', '.join(high)}, or " if high else ""


def check_range(name: str, value: int | tuple[int, int], minimum: int) -> tuple[int, int]:
    """``value`` as a (least, most) pair.

    Raises:
        ValueError: not whole numbers, fewer than ``least``, or the wrong way round.
    """
    pair = value if isinstance(value, tuple | list) and len(value) == 2 else (value, value)
    whole = all(isinstance(v, int | np.integer) for v in pair)
    if not whole or not minimum <= pair[0] <= pair[1]:
        raise ValueError(f"{name}={value!r}: must be at least {minimum}, or a (least, most) pair")
    low, high = pair
    return int(low), int(high)


def _hash_stream(seed: int, stream: str) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return np.frombuffer(digest, dtype=np.uint64)


def scale_pixels(stored: Tensor) -> Tensor:
    """float32 ``[n, C, H, W]`` in 0..1 of uint8 ``[n, H, W, C]``, as a FaceSet stores them."""
    # the bytes seen as [n, C, H, W]: already the layout convolutions are fastest in
    return stored.float().mul_(1 / 255).permute(0, 3, 1, 2)


def _draw_uniform(keys: np.ndarray, purpose: int, *shape: int) -> np.ndarray:
    """float64 in [0, 1): ``keys`` broadcast against a block of ``shape`` counters."""
    counters = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64).reshape(shape)
    counters += np.array(purpose << 40, dtype=np.uint64)
    return scale_bits(mix_bits(keys + counters * GOLDEN))


def _draw_distinct(keys: np.ndarray, purpose: int, n: np.ndarray, k: int) -> np.ndarray:
    """int64 ``[..., k]``: k distinct numbers of 0..n-1, shuffled, for each key (Floyd 1987)."""
    draws = _draw_uniform(keys[..., None], purpose, 2 * k)
    picks = np.empty((*keys.shape, k), dtype=np.int64)
    for j in range(k):
        top = n - k + j
        pick = (draws[..., j] * (top + 1)).astype(np.int64)
        taken = (picks[..., :j] == pick[..., None]).any(-1)
        picks[..., j] = np.where(taken, top, pick)
    return np.take_along_axis(picks, draws[..., k:].argsort(-1), -1)
