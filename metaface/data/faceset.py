"""FaceSet: photographs of people, decoded once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from metaface._text import printable, same_name
from metaface.arguments import check_given_counts
from metaface.data._content import digest_all, is_distinctive
from metaface.data._skipped import Skipped

SYNTHETIC = "synthetic"
SPLITS = frozenset(
    part + end
    for part in (
        *("train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"),
        *("gallery", "probe", "query", "enrol", "enroll", "support"),
    )
    for end in ("", "set", "_set", "-set", " set")
)
"""names, in small letters, of folders that are parts of one set, not people or groups of them"""
_NAMED = 5  # people that a message names

log = logging.getLogger("metaface.data")


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Photographs with the person and the domain of each; views share one array.

    Attributes:
        store: uint8 ``[T, H, W, C]``, every decoded photograph of the source (often a read-only
            memory map); C is 1 (grey) or 3 (RGB).
        rows: int64 ``[M]``, the photographs of ``store`` that belong to this view.
        person: int64 ``[M]``, index into ``people``.
        domain: int64 ``[M]``, index into ``domains`` (camera, light, sketch, ...).
        people: names, one a person, each as ``metaface._text.same_name`` has it. Views keep the
            whole list, so that an id means the same person in every view of one set.
        domains: names, one a domain.
        name: what the set is called in reports.
        source: a digest of what the set was loaded from, all of it: sets of one source have one,
            wherever it lies, and whatever part of it they are. Empty: not known.
        crop: the centre crop the photographs were given (1.0: the largest square); None: not known.
        skipped: photographs that could not be read.
        truth: ground truth of each photograph of ``store`` (procedural faces only), ``[T, ...]``.
        versions: how many versions of each photograph ``store`` holds: v of the photograph
            ``rows[i]`` is at ``rows[i] + v * T / versions``. Each task shows each of its people in
            one version, drawn with the task; see :meth:`turning`.

    Example:
        >>> import metaface as mf
        >>> import numpy as np
        >>> images = np.zeros((4, 28, 28, 3), np.uint8)
        >>> faces = mf.FaceSet.from_arrays(images, [0, 0, 1, 1], people=["Ana", "Bo"])
        >>> len(faces), faces.image_shape, faces.photos().tolist()
        (4, (3, 28, 28), [2, 2])
        >>> faces.of_people([1]).rows.tolist()
        [2, 3]
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
    source: str = ""
    crop: float | None = None

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
        source: str = "",
    ) -> FaceSet:
        """Wrap decoded images.

        Args:
            images: uint8 ``[M, H, W, C]`` with C 1 or 3, or ``[M, H, W]`` (grey).
            person: int ``[M]``, 0..P-1.
            domain: int ``[M]``, 0..D-1; all 0 when left out.
            people: names, one a person. People whose names are written in two ways, such as an
                accent in one character and in two, are one: the first.

        Raises:
            ValueError: a shape, dtype or label that does not fit, by name and value.

        Example:
            >>> import metaface as mf
            >>> import numpy as np
            >>> people, person = np.unique(["Bo", "Ana", "Bo"], return_inverse=True)
            >>> grey = np.zeros((3, 28, 28), np.uint8)
            >>> mf.FaceSet.from_arrays(grey, person, people=people).describe()
            'faces: 2 people, 3 photographs (1 to 2 each), 28x28x1'
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
        names = [same_name(str(name)) for name in people]
        number = {name: i for i, name in reversed(list(enumerate(names)))}
        if len(number) < len(names):
            persons = np.array([number[name] for name in names])[persons]
        return cls(
            store=images,
            rows=np.arange(count),
            person=persons,
            domain=domain_ids,
            people=tuple(names),
            domains=tuple(domains),
            name=name,
            skipped=tuple(skipped),
            truth=dict(truth or {}),
            source=source,
        )

    @classmethod
    def join(cls, parts: Mapping[str, FaceSet]) -> FaceSet:
        """One set of several, each a domain; people of the same name are the same person.

        So photographs and sketches of the same people become support and query of one task:
        ``FaceSet.join({"photo": load("photos.zip"), "sketch": load("sketches.zip")})``.

        A photograph that several parts have is in the first of them alone, which a warning says: it
        would be its own query.

        Args:
            parts: sets of equal image shape, by the name of their domain; domains that a part
                already has are replaced by it. The pictures are copied.

        Raises:
            ValueError: no part, parts of different image shapes, or a photograph that is one
                person's in a part, and another's in another.

        Example:
            >>> import metaface as mf
            >>> photos, sketches = (
            ...     mf.data.load(f"synthetic:{kind}", people=5, photos=3, progress=False)
            ...     for kind in ("default", "sketch")
            ... )
            >>> both = mf.FaceSet.join({"photo": photos, "sketch": sketches})
            >>> both.domains, len(both.person_ids), len(both)
            (('photo', 'sketch'), 5, 30)
        """
        shapes = {name: part.image_shape for name, part in parts.items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(f"only sets of one image shape [C, H, W] can be joined, got {shapes}")
        people: dict[str, int] = {}
        for part in parts.values():
            for person in part.person_ids:
                people.setdefault(part.people[person], len(people))
        kept: dict[str, FaceSet] = {}
        again = 0
        for name, part in parts.items():
            known = np.zeros(len(part), bool)
            for other in kept:
                known |= _mark_shared(parts[other], other, part, name)
            again += int(known.sum())
            kept[name] = part.take(~known)
        if again:
            log.warning(
                "%d photographs are in several of %s: each is in the first of them alone",
                again,
                ", ".join(map(printable, parts)),
            )
        joined = cls.from_arrays(
            np.concatenate([part.images for part in kept.values()]),
            np.concatenate(
                [
                    np.array([people[part.people[p]] for p in part.person], np.int64)
                    for part in kept.values()
                ]
            ),
            domain=np.repeat(np.arange(len(parts)), [len(part) for part in kept.values()]),
            people=tuple(people),
            domains=tuple(parts),
            name=join_names(part.name for part in parts.values()),
            source=join_names(part.source for part in parts.values()),
            skipped=[skipped for part in parts.values() for skipped in part.skipped],
        )
        crops = {part.crop for part in parts.values()}
        return replace(joined, crop=crops.pop() if len(crops) == 1 else None)

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

    @cached_property
    def contents(self) -> np.ndarray:
        """int64 ``[M]``: a digest of the pixels of each photograph of this view."""
        return digest_all(self.store, self.rows)

    def seen(self) -> dict[str, Any]:
        """The people of this view, as :meth:`known` and :meth:`unseen` of another set take them.

        To be kept in a file: ``data``, the set's name; ``source``; ``people``, their names; and
        ``photos``: the ``shape`` and ``crop`` of a photograph, ``digest_all`` of all of them, int64
        ``[M]``, and ``whose`` each is, int64 ``[M]``, an index into ``people``.
        """
        number = np.full(len(self.people), -1)
        number[self.person_ids] = np.arange(len(self.person_ids))
        return {
            "data": self.name,
            "source": self.source,
            "people": [self.people[p] for p in self.person_ids],
            "photos": {
                "shape": list(self.image_shape),
                "crop": self.crop,
                "digests": torch.from_numpy(self.contents),
                "whose": torch.from_numpy(number[self.person]),
            },
        }

    def known(
        self,
        data: str,
        people: Sequence[str],
        photos: Mapping[str, Any] | None = None,
        source: str = "",
        before: Sequence[Mapping[str, Any]] = (),
    ) -> dict[int, str]:
        """Who of this view is among other people, such as those seen in training.

        A person is known by their photographs, whatever the names: one photograph of theirs that is
        one of the others' is enough. By name are known, as well: procedural people; those of
        another part of one source, or of one set (``faces/train`` and ``faces/val``); and those of
        a set of the same name whose photographs are not known, or only at another size or crop.
        Other people of equal names are other people, which a warning says.

        Args:
            data, people, photos, source: see :meth:`seen`.
            before: others, each as :meth:`seen` has them: those whom the weights that training
                started from were trained on.

        Returns:
            What each is called there, by id.
        """
        pairs = zip(_make_keys(data, people), people, strict=True)
        names = {key: name for keys, name in pairs for key in keys}
        mine = _make_keys(self.name, self.people)
        compared = photos is not None and _can_compare(photos, self)
        called: dict[int, str] = {}
        if compared:
            assert photos is not None
            theirs, whose = (torch.as_tensor(photos[n]).numpy() for n in ("digests", "whose"))
            for at in np.flatnonzero(np.isin(self.contents, theirs)):
                person = int(self.person[at])
                if person not in called and is_distinctive(self.store[self.rows[at]]):
                    called[person] = people[whose[np.argmax(theirs == self.contents[at])]]
        by_name = _have_one_source(self.source, source) or _are_one_set(self.name, data, compared)
        alike = {int(p): [k for k in mine[p] if k in names] for p in self.person_ids}
        for person, keys in alike.items():
            for key in keys:
                if by_name or key.startswith(f"{SYNTHETIC}/"):
                    called.setdefault(person, names[key])
        for earlier in before:
            called = self.known(**earlier) | called
        others = [self.people[p] for p, keys in alike.items() if keys and p not in called]
        if not (photos is None or compared or by_name or _is_synthetic(self.name, data)):
            log.warning(
                "%s: its photographs have another size or crop than those of %s: nobody is known "
                "by them, only by name",
                printable(self.name),
                printable(data),
            )
        numbered = self.people == tuple(map(str, range(len(self.people))))  # nobody has a name
        if others and not numbered:
            log.warning(
                "%s: %d people have names of people of %s (%s), and %s: they are taken for other "
                "people; where they are not, leave them out",
                printable(self.name),
                len(others),
                printable(data),
                _list_names(others),
                "none of their photographs"
                if compared
                else "whether they have the same photographs is not known",
            )
        return called

    def unseen(
        self,
        data: str,
        people: Sequence[str],
        photos: Mapping[str, Any] | None = None,
        source: str = "",
        before: Sequence[Mapping[str, Any]] = (),
    ) -> FaceSet:
        """The view without the people who are :meth:`known` from training; a warning names them.

        Args:
            data, people, photos, source: who was seen in training; see :meth:`seen`.
            before: see :meth:`known`.

        Raises:
            ValueError: nobody is left.

        Example:
            >>> import metaface as mf
            >>> faces = mf.data.load("synthetic", people=10, photos=3, progress=False)
            >>> train = faces.of_people(range(6))
            >>> len(faces.unseen(**train.seen()).person_ids)
            4
        """
        known = self.known(data, people, photos, source, before)
        if not known:
            return self
        who = [
            name if self.people[p] == name else f"{self.people[p]}, there {name}"
            for p, name in sorted(known.items())
        ]
        ids = [p for p in self.person_ids if p not in known]
        if not ids:
            raise ValueError(
                f"{self.name}: everybody in it was seen in training ({_list_names(who)}): test on "
                "others"
            )
        log.warning(
            "%s: %d of %d people were seen in training, and are left out: %s",
            printable(self.name),
            len(known),
            len(self.person_ids),
            _list_names(who),
        )
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

    def with_photos(self, count: int) -> FaceSet:
        """The view of the people with at least ``count`` photographs.

        Raises:
            ValueError: nobody has so many.
        """
        check_given_counts(count=count)
        photos = self.photos()
        keep = np.flatnonzero(photos >= max(1, count))
        if not len(keep):
            raise ValueError(
                f"no usable person in {self.name}: none of its {len(self.person_ids)} people has "
                f"{count} photographs (the most is {photos.max()})"
            )
        return self.of_people(keep)

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
            source=self.source,
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

        Example:
            >>> import metaface as mf
            >>> faces = mf.data.load("synthetic", people=20, photos=6, progress=False)
            >>> train, val, test = faces.split(seed=0, test_photos=6)  # 1 shot and 5 queries
            >>> [len(part.person_ids) for part in (train, val, test)]
            [14, 2, 4]
            >>> set(train.person_ids) & set(test.person_ids)
            set()
        """
        check_given_counts(seed=seed, test_photos=test_photos)
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


def _make_keys(data: str, people: Iterable[str]) -> list[tuple[str, ...]]:
    """What each of the people of a set called ``data`` may be known by among those of others.

    The people of a joined set may be called ``source/name``. Procedural ones are
    ``synthetic/name``: they are nobody else's. Where a joined set has them and calls nobody so, a
    name may be of either kind.
    """
    sources = [part.split(":")[0] for part in data.split(" + ")]
    names = [same_name(person) for person in people]
    made = SYNTHETIC in sources and not any(n.startswith(f"{SYNTHETIC}/") for n in names)
    keys: list[tuple[str, ...]] = []
    for name in names:
        source = next((s for s in sources if name.startswith(f"{s}/")), "")
        if source == SYNTHETIC:
            keys.append((name,))
            continue
        bare = name[len(source) + 1 :] if source else name
        if not made or source:
            keys.append((bare,))
        elif set(sources) == {SYNTHETIC}:
            keys.append((f"{SYNTHETIC}/{bare}",))
        else:
            keys.append((bare, f"{SYNTHETIC}/{bare}"))
    return keys


def find_same_photographs(first: FaceSet, second: FaceSet) -> np.ndarray:
    """int64 ``[n, 2]``: positions in both of the photographs that two sets share; of equal ones in
    ``one``, the first."""
    if first.image_shape != second.image_shape:
        return np.empty((0, 2), np.int64)
    values, firsts = np.unique(first.contents, return_index=True)
    place = np.searchsorted(values, second.contents).clip(max=len(values) - 1)
    both = np.flatnonzero(values[place] == second.contents)
    rows = [at for at in both if is_distinctive(second.store[second.rows[at]])]
    return np.array([(firsts[place[at]], at) for at in rows], np.int64).reshape(-1, 2)


def _mark_shared(first: FaceSet, name: str, second: FaceSet, its_name: str) -> np.ndarray:
    """bool ``[M]``: which photographs of ``other`` are in ``one``, of the same person.

    Raises:
        ValueError: one is of another person there.
    """
    pairs = find_same_photographs(first, second)
    refuse_renamed(first, name, second, its_name, pairs)
    shared = np.zeros(len(second), bool)
    shared[pairs[:, 1]] = True
    return shared


def refuse_renamed(
    first: FaceSet, name: str, second: FaceSet, its_name: str, pairs: np.ndarray
) -> None:
    """Refuse sets that have a photograph in common that is not of the same person in both.

    Args:
        one, other: sets, called ``name`` and ``its_name`` in the message.
        pairs: see :func:`find_same_photographs`.

    Raises:
        ValueError: so it is; names people of both.
    """
    who = {(first.people[first.person[a]], second.people[second.person[b]]): None for a, b in pairs}
    renamed = [f"{theirs} is {mine}" for mine, theirs in who if mine != theirs]
    if renamed:
        raise ValueError(
            f"{its_name} has photographs of {name} under other people's names "
            f"({_list_names(renamed)} there): give both the same names, or leave one of them out"
        )


def join_names(names: Iterable[str]) -> str:
    """The name, or the source, of a set of several."""
    parts = dict.fromkeys(part_name for name in names for part_name in name.split(" + "))
    return " + ".join(part for part in parts if part)


def _can_compare(photos: Mapping[str, Any], faces: FaceSet) -> bool:
    """Whether equal photographs have equal pixels, as far as is known."""
    crops = {photos.get("crop"), faces.crop} - {None}
    return list(photos["shape"]) == list(faces.image_shape) and len(crops) < 2


def _is_synthetic(*names: str) -> bool:
    return all(name.split(":")[0] == SYNTHETIC for name in names)


def _have_one_source(one: str, other: str) -> bool:
    return bool({*one.split(" + ")} & {*other.split(" + ")} - {""})


def _are_one_set(one: str, other: str, compared: bool) -> bool:
    """Whether sets of these names are parts of one, such as ``faces/train`` and ``faces/val``; or
    of one name, where their photographs are not compared: that two folders are called alike says
    nothing where they are."""
    pairs = [(a, b) for a in one.split(" + ") for b in other.split(" + ")]
    return any(not compared if a == b else _name_whole(a) == _name_whole(b) for a, b in pairs)


def _name_whole(name: str) -> str:
    """The name of the set that a set is a part of: ``faces`` of ``faces/val``."""
    whole, _, part = name.rpartition("/")
    return whole if part.casefold() in SPLITS else name


def _list_names(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > _NAMED else ""
    return printable("; ".join(names[:_NAMED])) + more
