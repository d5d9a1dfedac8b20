"""From picture files, or the items of a data set, to the rows of a FaceSet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from metaface._progress import track
from metaface.data._decode import Geometry, UnreadableError, as_image, decode, fit
from metaface.data._sources import EXPECTED, Photo, Source
from metaface.data.faceset import FaceSet, Skipped

_BATCH = 256  # pictures in flight at once


class Outcome(NamedTuple):
    """One picture: uint8 ``[S, S, C]``, or why there is none."""

    person: str | int
    domain: str
    image: np.ndarray | Skipped


def assemble(name: str, outcomes: Iterable[Outcome], geometry: Geometry, out: BinaryIO) -> FaceSet:
    """Write the images to ``out`` one by one and return the labels (a FaceSet without store).

    Raises:
        ValueError: not one picture could be read.
    """
    rows: list[tuple[str | int, str]] = []
    skipped = []
    for person, domain, image in outcomes:
        if isinstance(image, Skipped):
            skipped.append(image)
        else:
            out.write(image.tobytes())
            rows.append((person, domain))
    if not rows:
        shown = ", ".join(f"{s.path} ({s.reason})" for s in skipped[:3]) or "none there"
        raise ValueError(
            f"no usable person in {name}: none of {len(skipped)} pictures could be read: {shown}"
            f"; {EXPECTED}"
        )
    people = sorted({person for person, _ in rows})  # type: ignore[type-var]
    domains = sorted({domain for _, domain in rows})
    person_id = {person: i for i, person in enumerate(people)}
    domain_id = {domain: i for i, domain in enumerate(domains)}
    size = geometry.image_size
    return FaceSet(
        store=np.empty((0, size, size, geometry.channels), np.uint8),
        rows=np.arange(len(rows)),
        person=np.array([person_id[person] for person, _ in rows], np.int64),
        domain=np.array([domain_id[domain] for _, domain in rows], np.int64),
        people=tuple(str(person) for person in people),
        domains=tuple(domains),
        skipped=tuple(skipped),
    )


def decoded(source: Source, geometry: Geometry, progress: bool) -> Iterator[Outcome]:
    """Every photo of ``source``, in order, decoded by a few threads."""

    def one(photo: Photo) -> Outcome:
        image: np.ndarray | Skipped
        try:
            image = decode(source.read(photo), geometry)
        except UnreadableError as error:
            image = Skipped(photo.path, str(error))
        except Exception as error:  # zipfile raises half a dozen kinds on damaged entries
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            image = Skipped(photo.path, reason)
        return Outcome(photo.person, photo.domain, image)

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        _bar(len(source.photos), source.name, progress) as bar,
    ):
        for start in range(0, len(source.photos), _BATCH):
            for outcome in pool.map(one, source.photos[start : start + _BATCH]):
                bar.update()
                yield outcome


def items(dataset: Any, geometry: Geometry, progress: bool) -> Iterator[Outcome]:
    """Every ``(image, label)`` of a torchvision-style data set; ``person`` is the int label.

    Raises:
        ValueError: an item that is not a picture and a person; names the item and the remedy.
    """
    name = type(dataset).__name__
    with _bar(len(dataset), name, progress) as bar:
        for i in range(len(dataset)):
            bar.update()
            try:
                pair = dataset[i]
                image: np.ndarray | Skipped = fit(_image(pair), geometry)
                label = _label(pair)
            except (OSError, SyntaxError, UnreadableError) as error:  # what Pillow raises
                image, label = Skipped(f"item {i}", str(error)), -1
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}[{i}]: {error}") from error
            yield Outcome(label, "all", image)


def _image(pair: Any) -> Image.Image:
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
        raise TypeError(
            f"expected (image, label), got {type(pair).__name__} (decoded arrays: "
            "FaceSet.from_arrays)"
        )
    return as_image(pair[0])


def _label(pair: Any) -> int:
    given = pair[1]
    label = given.cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    if label.size != 1 or not np.issubdtype(label.dtype, np.integer):
        raise TypeError(
            f"expected one int, the person, as label, got {pair[1]!r:.80} "
            "(CelebA: target_type='identity')"
        )
    return int(label.reshape(()))


def _bar(total: int, name: str, progress: bool) -> tqdm:
    return track(total=total, desc=f"decoding {name}", unit="photo", delay=1, show=progress)
