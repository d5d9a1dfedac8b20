"""``load``: photographs from anywhere, as a FaceSet."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

from metaface import _extensions
from metaface._text import given_path
from metaface.arguments import check_given_counts, refuse_moved
from metaface.data import _cache
from metaface.data._decode import Geometry
from metaface.data._pictures import Items, assemble, decode_all, find_bases
from metaface.data._skipped import report_skipped
from metaface.data._sources import EXPECTED, Photo, open_source
from metaface.data._synthetic import load_synthetic
from metaface.data.faceset import SYNTHETIC, FaceSet, join_names

IMAGE_SIZE = 28  # pixels: the default of every command and function that takes photographs

_tokens: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # of data sets


@refuse_moved(min_photos="load(source).with_photos(min_photos)")
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
    cache: str | Path | None = None,
    progress: bool = True,
) -> FaceSet:
    """Load photographs of people; they are decoded once and cached.

    Args:
        source: one of

            - a folder or a zip (read in place) of identity folders, such as LFW's: the folder
              that holds the pictures is the person, however deep it lies; two levels, such as
              Omniglot's, give names like ``Greek/character01``. Folders *inside* a person's folder
              that holds pictures itself are that person's too, unless they are several, with most
              of the pictures: that folder is a group of people;
            - a CSV with the columns path (relative to the CSV), person and, optionally, domain;
            - a data set as torchvision has them: ``len(d)`` and ``d[i] -> (image, label)``, the
              image a Pillow image, an array ``[H, W]`` or ``[H, W, C]`` or a tensor ``[C, H, W]``,
              uint8 or float in 0..1, the label an int or a tensor of one, or CelebA's several with
              the identity among them. Its ``class_to_idx`` or ``classes`` name the people, also
              those of a ``Subset`` or ``ConcatDataset`` of such. It is decoded at every call;
            - ``"synthetic"``, procedural faces, or ``"synthetic:profile,sketch"`` with the names
              of domains; ground truth goes to ``FaceSet.truth``: box, landmarks, mask (of the
              face), pose and the attributes, as ``synthetic.render`` documents them (its
              attribute mask is ``mask_worn`` there); a folder of that name is ``"./synthetic"``;
            - a FaceSet, returned as it is;
            - what a package has registered in ``metaface.sources``, or ``package.module:function``:
              what that returns, one of the above but no FaceSet; text after a colon is given to it.
        image_size: side S of the result in pixels.
        crop: side of the centred square that is kept (not of synthetic faces): a share of the
            shorter side (0 < crop <= 1) or pixels (> 1). None keeps the largest one.
        channels: 1 (grey) or 3 (RGB).
        people, photos, seed: of ``"synthetic"``: people (600), photographs of each (20), which.
        only: a regular expression: of a folder, zip or CSV, the pictures in whose path inside the
            source (``yaleb_112/yaleB11/yaleB11_P00A+050E-40.jpg``) it is found (``re.search``);
            in a CSV, the path as written there. None: all.
        cache: the cache directory; else METAFACE_CACHE, else ~/.cache/metaface. It holds faces,
            readable by this user alone, until ``clear_cache()``.
        progress: show a progress bar.

    Returns:
        A FaceSet of uint8 ``[M, S, S, channels]``, sorted by person and path (a CSV or a data set
        keeps its order). Files that could not be read are in ``skipped`` and logged, by name.

    Raises:
        FileNotFoundError: no such path.
        TypeError: a source of no known kind.
        ImportError: a source of another package that cannot be imported.
        ValueError: an empty path, a setting out of range, a broken zip, CSV or data set, a pattern
            that is none or finds nothing, or no usable person; says what was expected.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=5, photos=4, image_size=32, progress=False)
        >>> faces.images.shape, str(faces.images.dtype), len(faces.person_ids)
        ((20, 32, 32, 3), 'uint8', 5)
        >>> faces.truth["landmarks"].shape  # x, y of five points of each face, pixels
        (20, 5, 2)
    """
    check_given_counts(0, seed=seed)
    source = _from_extension(source)
    place = _check_place(source, only)
    if isinstance(source, FaceSet):
        return source
    geometry = Geometry(image_size, crop, channels)
    root = _cache.cache_dir(cache)
    if place is not None and _is_synthetic(place):
        counts = (600 if people is None else people, 20 if photos is None else photos, seed)
        return load_synthetic(place, *counts, geometry, root, progress)
    if people is not None or photos is not None:
        raise ValueError(
            f"people={people} and photos={photos} are for 'synthetic' faces; {source!r} has the "
            "people it has (FaceSet.with_photos leaves some out, FaceSet.of_people picks some)"
        )
    if place is None:
        faces = _load_dataset(source, geometry, progress)
    else:
        faces = _load_files(Path(place).expanduser(), only, geometry, root, progress)
    report_skipped(faces.name, faces.skipped, len(faces))
    return faces


def _check_place(source: Any, only: str | None) -> str | None:
    """The path, or the name of procedural faces, that a source is; None: it is neither."""
    place = None
    if isinstance(source, (str, os.PathLike)):
        given_path(source, "the photographs")
        place = os.fspath(source)
    if only is not None and (place is None or _is_synthetic(place)):
        shown = f"a {type(source).__name__}" if place is None else place
        raise ValueError(
            f"only={only!r} is for the file names of a folder, zip or CSV; {shown} has none: leave "
            "it out"
        )
    return place


def _from_extension(source: Any) -> Any:
    """What the source of another package returns, where ``source`` names one; else ``source``."""
    if not isinstance(source, str) or _is_synthetic(source):
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


def _is_synthetic(place: str) -> bool:
    return place.split(":")[0] == SYNTHETIC


def _load_files(
    path: Path, only: str | None, geometry: Geometry, root: Path, progress: bool
) -> FaceSet:
    if not path.exists():
        raise FileNotFoundError(
            f"no such folder, zip or CSV: {path} (for procedural faces: 'synthetic'; of other "
            f"packages: {', '.join(_extensions.registered('sources')) or 'none is registered'})"
        )
    with open_source(path) as source:
        listing = source.listing()
        if only is not None:
            source = replace(source, photos=_match_paths(source.photos, only, path))

        def build(out: BinaryIO) -> FaceSet:
            return assemble(source.name, decode_all(source, geometry, progress), geometry, out)

        key = _cache.key_of("files", source.fingerprint(), geometry)
        faces = _cache.load_or_build(root, key, build)
        return replace(
            faces,
            name=source.name,
            source=listing,
            crop=geometry.crop or 1.0,
            skipped=(*source.skipped, *faces.skipped),
        )


def _match_paths(photos: list[Photo], only: str, path: Path) -> list[Photo]:
    try:
        pattern = re.compile(only)
    except re.error as error:
        raise ValueError(f"{path}: only={only!r} is not a regular expression: {error}") from error
    matching = [photo for photo in photos if pattern.search(photo.path)]
    if not matching:
        raise ValueError(
            f"{path}: only={only!r} is found in none of its {len(photos)} paths, such as "
            f"{photos[0].path if photos else 'none'!r}"
        )
    return matching


def _load_dataset(source: Any, geometry: Geometry, progress: bool) -> FaceSet:
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise TypeError(
            f"cannot load faces from a {type(source).__name__}: {EXPECTED}; or 'synthetic', or a "
            "data set with len(d) and d[i] -> (image, label)"
        )
    name, given = type(source).__name__, Items(source)

    def build(out: BinaryIO) -> FaceSet:
        return assemble(name, given.outcomes(geometry, progress), geometry, out)

    faces = _cache.build_in_memory(build)
    return replace(
        faces,
        name=name,
        people=tuple(given.people(faces.people)),
        crop=geometry.crop or 1.0,
        source=join_names(_identify(base) for base in find_bases(source)),
    )


def _identify(dataset: Any) -> str:
    """What is the same for all parts of one data set, in this process."""
    try:
        return _tokens.setdefault(dataset, secrets.token_hex(8))
    except TypeError:  # it has no hash, or cannot be pointed at weakly
        return ""
