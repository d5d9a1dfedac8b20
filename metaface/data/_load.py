"""``load``: photographs from anywhere, as a FaceSet."""

from __future__ import annotations

import logging
import os
import re
import secrets
from dataclasses import replace
from functools import cache as once
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from metaface import _extensions
from metaface._text import given_path
from metaface.arguments import check_given_counts
from metaface.data import _cache
from metaface.data._decode import Geometry
from metaface.data._pictures import Items, assemble, bases, decoded
from metaface.data._skipped import report_skipped
from metaface.data._sources import EXPECTED, Photo, open_source
from metaface.data.faceset import FaceSet, together

IMAGE_SIZE = 28  # pixels: the default of every command and function that takes photographs

_tokens: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # of data sets

log = logging.getLogger("metaface.data")


def load(
    source: Any,
    *,
    image_size: int = IMAGE_SIZE,
    crop: float | None = None,
    channels: int = 3,
    people: int | None = None,
    photos: int | None = None,
    seed: int = 0,
    only: str | None = None,
    min_photos: int = 1,
    cache: str | Path | None = None,
    progress: bool = True,
) -> FaceSet:
    """Load photographs of people; they are decoded once and cached.

    Args:
        source: one of

            - a folder or a zip (read in place) of identity folders, such as LFW's: the folder
              that holds the pictures is the person, however deep it lies; two levels, such as
              Omniglot's, give names like ``Greek/character01``. (Folders *inside* a person's
              folder that holds pictures itself are that person's too, unless
              they are several, with most of the pictures: that folder is a group of people.)
            - a CSV with the columns path (relative to the CSV), person and, optionally, domain;
            - a data set as torchvision has them: ``len(d)`` and ``d[i] -> (image, label)``, the
              image a Pillow image, an array ``[H, W]`` or ``[H, W, C]`` or a tensor ``[C, H, W]``,
              uint8 or float in 0..1, the label an int or a tensor of one, or CelebA's several with
              the identity among them. Its ``class_to_idx`` or ``classes`` name the people, also
              those of a ``Subset`` or ``ConcatDataset`` of such. It is decoded at every call: it
              has no content by which to key a cache;
            - ``"synthetic"``, procedural faces, or ``"synthetic:profile,sketch"`` with the names
              of domains; ground truth goes to ``FaceSet.truth``: box, landmarks, mask (of the
              face), pose and the attributes, as ``synthetic.render`` documents them (its
              attribute mask is ``mask_worn`` there). A folder called "synthetic" is
              ``"./synthetic"``;
            - a FaceSet, returned as it is;
            - what a package has registered in ``metaface.sources``, or ``package.module:function``:
              what that returns, one of the above but no FaceSet. Text after a colon is given to it:
              ``"records:faces.rec"``. Where there is a folder or file of a registered name as
              well, neither is taken.
        image_size: side S of the result in pixels.
        crop: side of the centred square that is kept: a share of the shorter side (0 < crop <= 1)
            or pixels (> 1). None keeps the largest one. Synthetic faces, which fill their
            picture, are not cropped.
        channels: 1 (grey) or 3 (RGB).
        people, photos, seed: how many procedural people (600), photographs of each (20), and
            which ones; for ``"synthetic"`` alone.
        only: a regular expression: of a folder, zip or CSV, the pictures in whose path inside the
            source (``yaleb_112/yaleB11/yaleB11_P00A+050E-40.jpg``) it is found (``re.search``);
            in a CSV, the path as written there. None: all.
        min_photos: leave out people with fewer photographs.
        cache: the cache directory; else METAFACE_CACHE, else ~/.cache/metaface. It holds copies
            of faces, readable by this user alone, until ``clear_cache()`` deletes them.
        progress: show a progress bar when decoding takes more than a second.

    Returns:
        A FaceSet of uint8 ``[M, S, S, channels]``, sorted by person and path (a CSV or a data set
        keeps its order). Files that could not be read are in ``skipped`` and logged, by name.

    Raises:
        FileNotFoundError: no such path.
        TypeError: a source of no known kind.
        ImportError: a source of another package that cannot be imported.
        ValueError: an empty path, a setting out of range, a broken zip, CSV or data set, a pattern
            that is none, that finds nothing or that the source has no paths for, or no usable
            person; says what was found and what was expected.
    """
    check_given_counts(0, min_photos=min_photos, seed=seed)
    source = _from_extension(source)
    named = (
        isinstance(source, (str, os.PathLike)) and os.fspath(source).split(":")[0] != "synthetic"
    )
    if only is not None and not named:
        shown = source if isinstance(source, str) else f"a {type(source).__name__}"
        raise ValueError(
            f"only={only!r} is for the file names of a folder, zip or CSV; {shown} has none: leave "
            "it out"
        )
    if isinstance(source, FaceSet):
        return source
    if isinstance(source, (str, os.PathLike)):
        given_path(source, "the photographs")
    geometry = Geometry(image_size, crop, channels)
    root = _cache.cache_dir(cache)
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if name is not None and name.split(":")[0] == "synthetic":
        counts = (600 if people is None else people, 20 if photos is None else photos)
        return _enough(_synthetic(name, *counts, seed, geometry, root, progress), min_photos)
    if people is not None or photos is not None:
        raise ValueError(
            f"people={people} and photos={photos} are for 'synthetic' faces; {source!r} has the "
            "people it has (min_photos leaves some out, FaceSet.of_people picks some)"
        )
    if name is None:
        faces = _dataset(source, geometry, progress)
    else:
        faces = _files(Path(name).expanduser(), only, geometry, root, progress)
    report_skipped(faces.name, faces.skipped, len(faces))
    return _enough(faces, min_photos)


def _from_extension(source: Any) -> Any:
    """What the source of another package returns, where ``source`` names one; else ``source``."""
    if not isinstance(source, str) or source.split(":")[0] == "synthetic":
        return source
    make = _extensions.find("sources", source, os.path.expanduser(source))
    if make is None:
        return source
    found = make()
    if isinstance(found, FaceSet):
        raise ValueError(
            f"{source} returns a FaceSet, which has a size already: return a folder, zip or CSV, "
            "or a data set with len(d) and d[i] -> (image, label)"
        )
    return found


def _files(path: Path, only: str | None, geometry: Geometry, root: Path, progress: bool) -> FaceSet:
    if not path.exists():
        raise FileNotFoundError(
            f"no such folder, zip or CSV: {path} (for procedural faces: 'synthetic'; of other "
            f"packages: {', '.join(_extensions.registered('sources')) or 'none is registered'})"
        )
    with open_source(path) as source:
        listing = source.listing()
        if only is not None:
            source = replace(source, photos=_matching(source.photos, only, path))

        def build(out: BinaryIO) -> FaceSet:
            return assemble(source.name, decoded(source, geometry, progress), geometry, out)

        faces = _cache.cached(root, _key("files", source.fingerprint(), geometry), build)
        return replace(
            faces,
            name=source.name,
            source=listing,
            crop=geometry.crop or 1.0,
            skipped=(*source.skipped, *faces.skipped),
        )


def _matching(photos: list[Photo], only: str, path: Path) -> list[Photo]:
    try:
        pattern = re.compile(only)
    except re.error as error:
        raise ValueError(f"{path}: only={only!r} is not a regular expression: {error}") from error
    found = [photo for photo in photos if pattern.search(photo.path)]
    if not found:
        raise ValueError(
            f"{path}: only={only!r} is found in none of its {len(photos)} paths, such as "
            f"{photos[0].path if photos else 'none'!r}"
        )
    return found


def _dataset(source: Any, geometry: Geometry, progress: bool) -> FaceSet:
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise TypeError(
            f"cannot load faces from a {type(source).__name__}: {EXPECTED}; or 'synthetic', or a "
            "data set with len(d) and d[i] -> (image, label)"
        )
    name, given = type(source).__name__, Items(source)

    def build(out: BinaryIO) -> FaceSet:
        return assemble(name, given.outcomes(geometry, progress), geometry, out)

    faces = _cache.in_memory(build)
    return replace(
        faces,
        name=name,
        people=tuple(given.people(faces.people)),
        crop=geometry.crop or 1.0,
        source=together(_token(base) for base in bases(source)),
    )


def _token(dataset: Any) -> str:
    """What is the same for all parts of one data set, in this process."""
    try:
        return _tokens.setdefault(dataset, secrets.token_hex(8))
    except TypeError:  # it has no hash, or cannot be pointed at weakly
        return ""


def _synthetic(
    name: str, people: int, photos: int, seed: int, geometry: Geometry, root: Path, progress: bool
) -> FaceSet:
    from metaface import synthetic

    _, colon, listed = name.partition(":")
    chosen = tuple(part.strip() for part in listed.split(",") if part.strip())
    if colon and not chosen:
        raise ValueError(f"{name!r} names no domain: write 'synthetic' or 'synthetic:frontal'")
    domains = chosen or "default"

    def build(out: BinaryIO) -> FaceSet:
        made = synthetic.render(
            people=people,
            photos=photos,
            image_size=geometry.image_size,
            domains=domains,
            seed=seed,
            progress=progress,
        )
        images = made.images
        if geometry.channels == 1:
            images = np.stack([np.asarray(Image.fromarray(i).convert("L")) for i in images])
        images = images.reshape(len(images), *images.shape[1:3], geometry.channels)
        out.write(np.ascontiguousarray(images).data)
        return FaceSet.from_arrays(
            images,
            made.person,
            domain=made.domain,
            domains=made.domains,
            truth={
                "box": made.box,
                "landmarks": made.landmarks,
                "mask": made.mask,
                "pose": made.pose,
                **{"mask_worn" if k == "mask" else k: v for k, v in made.attributes.items()},
            },
        )

    key = _key("synthetic", _renderer(), people, photos, seed, domains, geometry)
    return replace(_cache.cached(root, key, build), name=name)


@once
def _renderer() -> str:
    """Digest of the renderer's source: another renderer makes other faces."""
    files = sorted((Path(__file__).parent / "synthetic").glob("*.py"))
    return blake2b(b"".join(file.read_bytes() for file in files)).hexdigest()


def _key(*parts: object) -> str:
    return blake2b(repr((_cache.VERSION, *parts)).encode(), digest_size=16).hexdigest()


def _enough(faces: FaceSet, min_photos: int) -> FaceSet:
    """The view of the people with at least ``min_photos`` photographs."""
    if min_photos <= 1:
        return faces
    counts = faces.photos()
    keep = np.flatnonzero(counts >= min_photos)
    if not len(keep):
        raise ValueError(
            f"no usable person in {faces.name}: none of its {len(counts)} people has "
            f"min_photos={min_photos} photographs (the most is {counts.max()})"
        )
    return faces if len(keep) == len(counts) else faces.of_people(keep)
