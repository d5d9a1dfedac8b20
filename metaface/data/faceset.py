"""FaceSet: photographs of people, decoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from metaface._text import printable
from metaface.arguments import check_counts


@dataclass(frozen=True)
class Skipped:
    """A photograph that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Photographs with the person and the domain of each; views share one array.

    Attributes:
        store: uint8 ``[T, H, W, C]``, every decoded photograph of the source (often a read-only
            memory map); C is 1 (grey) or 3 (RGB).
        rows: int64 ``[M]``, the photographs of ``store`` that belong to this view.
        person: int64 ``[M]``, index into ``people``.
        domain: int64 ``[M]``, index into ``domains`` (camera, light, sketch, ...).
        people: names, one a person. Views keep the whole list, so that an id means the same
            person in every view of one set.
        domains: names, one a domain.
        name: what the set is called in reports.
        skipped: photographs that could not be read.
        truth: ground truth of each photograph of ``store`` (procedural faces only), ``[T, ...]``.
        versions: how many versions of each photograph ``store`` holds: v of the photograph
            ``rows[i]`` is at ``rows[i] + v * T / versions``. Each task shows each of its people in
            one version, drawn with the task; see :meth:`turning`.
    """

    store: np.ndarray
    rows: np.ndarray
    person: np.ndarray
    domain: np.ndarray
    people: tuple[str, ...]
    domains: tuple[str, ...] = ("all",)
    name: str = "faces"
    skipped: tuple[Skipped, ...] = ()
    truth: Mapping[str, np.ndarray] = field(default_factory=dict)
    versions: int = 1

    @classmethod
    def from_arrays(
        cls,
        images: np.ndarray,
        person: Sequence[int] | np.ndarray,
        *,
        domain: Sequence[int] | np.ndarray | None = None,
        people: Sequence[str] | None = None,
        domains: Sequence[str] = ("all",),
        name: str = "faces",
        skipped: Sequence[Skipped] = (),
        truth: Mapping[str, np.ndarray] | None = None,
    ) -> FaceSet:
        """Wrap decoded images.

        Args:
            images: uint8 ``[M, H, W, C]`` with C 1 or 3, or ``[M, H, W]`` (grey).
            person: int ``[M]``, 0..P-1.
            domain: int ``[M]``, 0..D-1; all 0 when left out.

        Raises:
            ValueError: a shape, dtype or label that does not fit, by name and value.
        """
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"images must be uint8 [M, H, W, 1 or 3], got {images.dtype} {list(images.shape)}"
            )
        count = len(images)
        try:
            persons = np.asarray(person, dtype=np.int64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"person must be whole numbers, one a photograph ({error}): number names by "
                "people, person = numpy.unique(names, return_inverse=True)"
            ) from error
        domain_ids = np.asarray(np.zeros(count) if domain is None else domain, dtype=np.int64)
        if persons.shape != (count,) or domain_ids.shape != (count,):
            raise ValueError(
                f"person and domain must be [M] = [{count}], got {list(persons.shape)} "
                f"and {list(domain_ids.shape)}"
            )
        if count == 0:
            raise ValueError("no images: a FaceSet needs at least one photograph")
        if people is None:
            people = tuple(str(p) for p in range(int(persons.max()) + 1))
        for label, ids, names in (("person", persons, people), ("domain", domain_ids, domains)):
            if ids.min() < 0 or ids.max() >= len(names):
                raise ValueError(
                    f"{label} ids run from {ids.min()} to {ids.max()}, but there are "
                    f"{len(names)} names: ids must be 0..{len(names) - 1}"
                )
        return cls(
            store=images,
            rows=np.arange(count),
            person=persons,
            domain=domain_ids,
            people=tuple(people),
            domains=tuple(domains),
            name=name,
            skipped=tuple(skipped),
            truth=dict(truth or {}),
        )

    @classmethod
    def join(cls, parts: Mapping[str, FaceSet]) -> FaceSet:
        """One set of several, each a domain; people of the same name are the same person.

        So photographs and sketches of the same people become support and query of one task:
        ``FaceSet.join({"photo": load("photos.zip"), "sketch": load("sketches.zip")})``.

        Args:
            parts: sets of equal image shape, by the name of their domain; domains that a part
                already has are replaced by it. The pictures are copied.

        Raises:
            ValueError: no part, or parts of different image shapes.
        """
        shapes = {name: part.image_shape for name, part in parts.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(f"only sets of one image shape [C, H, W] can be joined, got {shapes}")
        people: dict[str, int] = {}
        for part in parts.values():
            for person in part.person_ids:
                people.setdefault(part.people[person], len(people))
        return cls.from_arrays(
            np.concatenate([part.images for part in parts.values()]),
            np.concatenate(
                [[people[part.people[p]] for p in part.person] for part in parts.values()]
            ),
            domain=np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()]),
            people=tuple(people),
            domains=tuple(parts),
            name=" + ".join(
                dict.fromkeys(name for part in parts.values() for name in part.name.split(" + "))
            ),
            skipped=[skipped for part in parts.values() for skipped in part.skipped],
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def images(self) -> np.ndarray:
        """uint8 ``[M, H, W, C]``: this view's photographs (a copy, unless it is the whole set)."""
        return self.store if len(self.rows) == len(self.store) else self.store[self.rows]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), as the networks see one photograph."""
        height, width, channels = self.store.shape[1:]
        return channels, height, width

    @property
    def all_rows(self) -> np.ndarray:
        """int64 ``[versions, M]``: the rows of ``store`` that a task may show."""
        first = np.arange(self.versions) * (len(self.store) // self.versions)
        return first[:, None] + self.rows

    @property
    def person_ids(self) -> np.ndarray:
        """int64 ``[P]``: the people who have a photograph in this view, ascending."""
        return np.unique(self.person)

    def unseen(self, data: str, people: Iterable[str]) -> FaceSet:
        """The view without people already seen in the set called ``data``.

        Domains of one source (``synthetic`` and ``synthetic:profile``) show the same people; people
        of another source are other people, whatever their names. Either set may be a joined one,
        whose people may be called ``source/name``.

        Raises:
            ValueError: nobody is left.
        """
        mine, theirs = (
            {part.split(":")[0] for part in name.split(" + ")} for name in (self.name, data)
        )
        if not mine & theirs:
            return self

        def bare(person: str) -> str:
            return next((person[len(s) + 1 :] for s in mine if person.startswith(f"{s}/")), person)

        seen = {bare(name) for name in people}
        ids = [p for p in self.person_ids if bare(self.people[p]) not in seen]
        if not ids:
            raise ValueError(f"{self.name}: everybody in it was seen in training: test on others")
        return self.of_people(ids)

    def photos(self) -> np.ndarray:
        """int64 ``[len(people)]``: photographs of each person in this view."""
        return np.bincount(self.person, minlength=len(self.people))

    def take(self, keep: np.ndarray) -> FaceSet:
        """The view of the photographs ``keep`` selects (bool ``[M]`` or positions)."""
        return replace(
            self, rows=self.rows[keep], person=self.person[keep], domain=self.domain[keep]
        )

    def of_people(self, ids: Iterable[int]) -> FaceSet:
        """The view of these people (ids into ``people``)."""
        return self.take(np.isin(self.person, np.fromiter(ids, dtype=np.int64)))

    def of_domains(self, *names: str) -> FaceSet:
        """The view of these domains, by name.

        Raises:
            ValueError: a name this set does not have.
        """
        for name in names:
            if name not in self.domains:
                raise ValueError(f"no domain {name!r} in {self.name}: it has {self.domains}")
        return self.take(np.isin(self.domain, [self.domains.index(n) for n in names]))

    def rotated(self) -> FaceSet:
        """Four times the people: each of this view turned by 0, 90, 180 and 270 degrees.

        For pictures that mean another thing when turned, such as characters (Vinyals et al. 2016).
        Person p turned r times anticlockwise is ``p + r * len(people)``, called ``name@90`` and so
        on. The pictures are copied. Split first: turned people are people of their own.

        Raises:
            ValueError: pictures that are not square.
        """
        turns = np.arange(4)
        return FaceSet.from_arrays(
            self._quarter_turns(),
            (self.person + turns[:, None] * len(self.people)).ravel(),
            domain=np.tile(self.domain, 4),
            people=[f"{name}@{90 * r}" if r else name for r in turns for name in self.people],
            domains=self.domains,
            name=self.name,
            skipped=self.skipped,
        )

    def turning(self) -> FaceSet:
        """The same people, whom each task turns at random by 0, 90, 180 or 270 degrees.

        All photographs of a person in a task are turned alike (Santoro et al. 2016; Finn et al.
        2017). The pictures are copied, in their four ``versions``.

        Raises:
            ValueError: pictures that are not square.
        """
        return replace(
            self, store=self._quarter_turns(), rows=np.arange(len(self)), truth={}, versions=4
        )

    def _quarter_turns(self) -> np.ndarray:
        """uint8 ``[4 * M, S, S, C]``: this view's photographs turned anticlockwise 0 to 3 times."""
        _, height, width = self.image_shape
        if height != width:
            raise ValueError(
                f"{self.name}: only square pictures can be turned, got {width}x{height}"
            )
        images = self.images
        return np.concatenate([np.rot90(images, turns, (1, 2)) for turns in range(4)])

    def split(
        self,
        seed: int = 0,
        *,
        val: float = 0.1,
        test: float = 0.2,
        test_photos: int = 1,
    ) -> tuple[FaceSet, FaceSet, FaceSet]:
        """Split by person into train, validation and test: no person is in two of them.

        Args:
            seed: the same seed gives the same people.
            val, test: share of the people, 0..1, in validation and in test; 0: nobody.
            test_photos: only people with at least this many photographs can be tested (shots +
                queries of the test episodes); the others serve training and validation. Where
                too few people have that many, all of them are tested.

        Raises:
            ValueError: shares out of range, or a part that would have fewer than two people.
        """
        check_counts(seed=seed)
        numbers = isinstance(val, int | float) and isinstance(test, int | float)
        if not numbers or not (0 <= val < 1 and 0 <= test < 1 and val + test < 1):
            raise ValueError(
                f"val={val!r} and test={test!r} must be shares that leave some training"
            )
        people = np.random.default_rng(seed).permutation(self.person_ids)
        testable = people[self.photos()[people] >= test_photos]
        tested = testable[: max(2, round(test * len(people))) if test else 0]
        rest = people[~np.isin(people, tested)]
        held = max(2, round(val * len(people))) if val else 0
        parts = {"test": (tested, test), "validation": (rest[:held], val)}
        parts["training"] = (rest[held:], 1)
        for part, (ids, share) in parts.items():
            if len(ids) < 2 and share:
                fewer = ", or fewer shots and queries" if test_photos > 2 else ""
                raise ValueError(
                    f"{self.name}: {len(people)} people ({len(testable)} of them with >= "
                    f"{test_photos} photographs) leave {len(ids)} for {part}, which needs 2: "
                    f"use more people, more photographs or other shares{fewer}"
                )
        return (
            self.of_people(parts["training"][0]),
            self.of_people(parts["validation"][0]),
            self.of_people(tested),
        )

    def describe(self) -> str:
        """One line: people, photographs, size, domains, what was skipped."""
        counts = self.photos()[self.person_ids]
        height, width, channels = self.store.shape[1:]
        line = (
            f"{printable(self.name)}: {len(counts)} people, {len(self)} photographs "
            f"({counts.min()} to {counts.max()} each), {width}x{height}x{channels}"
        )
        if len(self.domains) > 1:
            line += f", domains {', '.join(map(printable, self.domains))}"
        if self.skipped:
            line += f", {len(self.skipped)} skipped"
        return line
