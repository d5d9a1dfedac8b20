"""From picture files, or the items of a data set, to the rows of a FaceSet."""

from __future__ import annotations

import logging
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset
from tqdm import tqdm

from metaface._progress import track
from metaface._text import same_name
from metaface.data._content import Distinct
from metaface.data._decode import Geometry, UnreadableError, decode, fit, to_image
from metaface.data._skipped import Skipped
from metaface.data._sources import EXPECTED, Photo, Source
from metaface.data.faceset import FaceSet

_BATCH = 256  # pictures in flight at once
_LISTED = 5  # labels that a message names
_NONE = np.empty(0, np.uint8)

log = logging.getLogger("metaface.data")


class Outcome(NamedTuple):
    """One picture: uint8 ``[S, S, C]``, or why there is none; ``order`` is that of its person among
    the people, before the names decide."""

    path: str
    person: str
    domain: str
    image: np.ndarray | Skipped
    order: int = 0


def assemble(name: str, outcomes: Iterable[Outcome], geometry: Geometry, out: BinaryIO) -> FaceSet:
    """Write the images to ``out`` one by one and return the labels (a FaceSet without store).

    A picture that is there twice counts once. One that is there under several people is nobody's,
    and left out; see :class:`metaface.data._content.Distinct`.

    Args:
        out: open for reading and writing, empty.

    Raises:
        ValueError: not one picture could be used.
    """
    rows: list[Outcome] = []  # their images are not held
    skipped = []
    distinct = Distinct()
    for outcome in outcomes:
        image = outcome.image
        if not isinstance(image, Skipped):
            again = distinct.add(outcome.path, outcome.person, image)
            if again is None:
                out.write(image.tobytes())
                rows.append(outcome._replace(image=_NONE))
                continue
            image = again
        skipped.append(image)
    if nobodys := distinct.nobodys():
        skipped += nobodys.values()
        rows = _drop_rows(rows, nobodys, geometry, out)
    if not rows:
        shown = ", ".join(f"{s.path} ({s.reason})" for s in skipped[:3]) or "none there"
        raise ValueError(
            f"no usable person in {name}: none of {len(skipped)} pictures could be used: {shown}"
            f"; {EXPECTED}"
        )
    order = {row.person: row.order for row in reversed(rows)}
    people = sorted(order, key=lambda person: (order[person], person))
    domains = sorted({row.domain for row in rows})
    person_id = {person: i for i, person in enumerate(people)}
    domain_id = {domain: i for i, domain in enumerate(domains)}
    size = geometry.image_size
    return FaceSet(
        store=np.empty((0, size, size, geometry.channels), np.uint8),
        rows=np.arange(len(rows)),
        person=np.array([person_id[row.person] for row in rows], np.int64),
        domain=np.array([domain_id[row.domain] for row in rows], np.int64),
        people=tuple(people),
        domains=tuple(domains),
        skipped=tuple(skipped),
    )


def _drop_rows(
    rows: list[Outcome], gone: Container[int], geometry: Geometry, out: BinaryIO
) -> list[Outcome]:
    """``rows`` without those that are ``gone``, whose images go from ``out``, too."""
    size = geometry.image_size**2 * geometry.channels
    kept = [row for row in range(len(rows)) if row not in gone]
    for to, row in enumerate(kept):
        if to < row:
            out.seek(row * size)
            image = out.read(size)
            out.seek(to * size)
            out.write(image)
    out.truncate(len(kept) * size)
    out.seek(0, os.SEEK_END)
    return [rows[row] for row in kept]


def decode_all(source: Source, geometry: Geometry, progress: bool) -> Iterator[Outcome]:
    """Every photo of ``source``, in order, decoded by a few threads."""

    def decode_one(photo: Photo) -> Outcome:
        image: np.ndarray | Skipped
        try:
            image = decode(source.read(photo), geometry)
        except UnreadableError as error:
            image = Skipped(photo.path, str(error))
        except Exception as error:  # zipfile raises half a dozen kinds on damaged entries
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            image = Skipped(photo.path, reason)
        return Outcome(photo.path, photo.person, photo.domain, image)

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        _show_progress(len(source.photos), source.name, progress) as bar,
    ):
        for start in range(0, len(source.photos), _BATCH):
            for outcome in pool.map(decode_one, source.photos[start : start + _BATCH]):
                bar.update()
                yield outcome


class Items:
    """The items of a torchvision-style data set, ``(image, label)``, and who their labels are.

    Attributes:
        labels: those met, and what each is called, by the data set they are from.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.labels: dict[int, dict[int, str | None]] = {}
        self._names: dict[int, dict[int, str]] = {}

    def outcomes(self, geometry: Geometry, progress: bool) -> Iterator[Outcome]:
        """Every item; its person is what the label is called, or else the label.

        Raises:
            ValueError: an item that is not a picture and a person; names the item and the remedy.
        """
        name = type(self.dataset).__name__
        with _show_progress(len(self.dataset), name, progress) as bar:
            for i in range(len(self.dataset)):
                bar.update()
                try:
                    part = _find_part(self.dataset, i)
                    pair = self.dataset[i]
                    image: np.ndarray | Skipped = fit(_read_image(pair), geometry)
                    label = _read_label(pair, part)
                except (OSError, SyntaxError, UnreadableError) as error:  # what Pillow raises
                    yield Outcome("", "", "all", Skipped(f"item {i}", str(error)))
                    continue
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{name}[{i}]: {error}") from error
                yield Outcome(f"item {i}", self._person(part, label), "all", image, label)

    def people(self, names: Sequence[str]) -> list[str]:
        """What the people ``found`` in the items are called: by the labels, where the names that
        the data set has are not of its labels. Who is known by number beside other data sets is
        said in a warning.

        Raises:
            ValueError: so it is in one of several data sets.
        """
        for labels in self.labels.values():
            unnamed = [label for label, name in labels.items() if name is None]
            if len(unnamed) in (0, len(labels)):
                continue
            if len(self.labels) > 1:
                raise ValueError(
                    f"{type(self.dataset).__name__}: the classes of one of its data sets do not "
                    f"name its label {unnamed[0]}: mend classes or class_to_idx there"
                )
            number = {name: str(label) for label, name in labels.items() if name is not None}
            return [number.get(name, name) for name in names]
        self._say_numbers()
        return list(names)

    def _say_numbers(self) -> None:
        """Say whom data sets without names make one person, and whom they cannot."""
        if len(self.labels) < 2:
            return
        sets = [list(labels) for labels in self.labels.values() if None in labels.values()]
        times = Counter(label for labels in sets for label in labels)
        if twice := sorted(label for label, n in times.items() if n > 1):
            log.warning(
                "%s: people by number, without names, are in several of its data sets, and %d of "
                "them (%s) are taken for one person in all of those; where they are not, give the "
                "data sets classes",
                type(self.dataset).__name__,
                len(twice),
                _list_labels(twice),
            )
        if times and len(sets) < len(self.labels):
            log.warning(
                "%s: %d people by number (%s) are taken for other people than those whom other "
                "data sets of it name; where they are not, give all of them classes",
                type(self.dataset).__name__,
                len(times),
                _list_labels(sorted(times)),
            )

    def _person(self, part: Any, label: int) -> str:
        key = id(part)
        if key not in self._names:
            self._names[key] = _read_names(part)
        name = self._names[key].get(label)
        self.labels.setdefault(key, {})[label] = name
        return str(label) if name is None else name


def _list_labels(labels: Sequence[int]) -> str:
    return ", ".join(map(str, labels[:_LISTED])) + ", ..." * (len(labels) > _LISTED)


def find_bases(dataset: Any) -> Iterator[Any]:
    """The data sets that a torch ``Subset`` or ``ConcatDataset`` is made of; else itself."""
    if isinstance(dataset, Subset):
        yield from find_bases(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from find_bases(part)
    else:
        yield dataset


def _find_part(dataset: Any, i: int) -> Any:
    """The data set that item ``i`` of a ``Subset`` or ``ConcatDataset`` is from."""
    while True:
        if isinstance(dataset, Subset):
            dataset, i = dataset.dataset, dataset.indices[i]
        elif isinstance(dataset, ConcatDataset):
            at = bisect_right(dataset.cumulative_sizes, i)
            i -= dataset.cumulative_sizes[at - 1] if at else 0
            dataset = dataset.datasets[at]
        else:
            return dataset


def _read_names(part: Any) -> dict[int, str]:
    """What the labels of a data set are called: by its ``class_to_idx``, or else ``classes``."""
    given = getattr(part, "class_to_idx", None)
    if isinstance(given, Mapping):
        names: dict[int, str] = {}
        for name, label in given.items():
            names[label] = f"{names[label]} + {name}" if label in names else same_name(str(name))
        return names
    classes = getattr(part, "classes", None)  # a list, a tuple or an array
    names = dict(enumerate(same_name(str(c)) for c in (() if classes is None else classes)))
    return names if len({*names.values()}) == len(names) else {}


def _read_image(pair: Any) -> Image.Image:
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
        raise TypeError(
            f"expected (image, label), got {type(pair).__name__} (decoded arrays: "
            "FaceSet.from_arrays)"
        )
    return to_image(pair[0])


def _read_label(pair: Any, part: Any) -> int:
    given = pair[1]
    kinds = getattr(part, "target_type", ())
    if isinstance(given, (tuple, list)) and "identity" in kinds and len(given) == len(kinds):
        given = given[kinds.index("identity")]  # as CelebA has several
    if isinstance(given, torch.Tensor):
        given = given.cpu().numpy()
    if not isinstance(given, (tuple, list)):
        label = np.asarray(given)
        if label.size == 1 and np.issubdtype(label.dtype, np.integer):
            return int(label.reshape(()))
    raise TypeError(
        f"expected one int, the person, as label, got {pair[1]!r:.80} "
        "(CelebA: target_type='identity')"
    )


def _show_progress(total: int, name: str, progress: bool) -> tqdm:
    return track(total=total, desc=f"decoding {name}", unit="photo", delay=1, show=progress)
