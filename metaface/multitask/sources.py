"""Labelled pictures that others have annotated: WIDER FACE and CelebA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from metaface._text import given_path
from metaface.data._decode import UnreadableError, decode_whole
from metaface.data._sources import open_zip, read_entry, read_file
from metaface.data.wider import read_wider
from metaface.multitask.samples import UNKNOWN, FaceAnnotations
from metaface.multitask.sprites import ATTRIBUTES, EXPRESSIONS

_LONGEST = 4096  # pixels: a longer photograph is reduced
_GREY = 114  # of padding
_MARGIN = 1.8  # side of CelebA's pictures, in longer sides of the face
_OURS = {
    "Eyeglasses": ("glasses", 1),
    "Wearing_Hat": ("cap", 1),
    "Male": ("female", -1),
    "No_Beard": ("beard", -1),
    "Mustache": ("moustache", 1),
}
"""CelebA's attributes that procedural faces have, too: their name here, and the sign"""


def wider(
    source: str | Path,
    *,
    size: int = 128,
    side: tuple[float, float] = (24, 96),
    crops: int = 1,
    seed: int = 0,
) -> FaceAnnotations:
    """Squares cut out of the photographs of WIDER FACE, with the boxes in them.

    Each square is about one of the photograph's faces, drawn at random, as are its length in the
    square and its place; of a photograph without faces, it is the middle. Faces are left out
    where their middle is outside, where they are less than 8 pixels long there, and where the set
    marks them invalid; a square that shows something of a face left out is not ``complete``.
    Boxes are cut to the square. Only boxes are known.

    Args:
        source: a folder or zip as :func:`metaface.data.wider.read_wider` takes it, or its
            annotations themselves.
        size: side of the squares in pixels.
        side: least and greatest length of the longer side of the face that a square is about, but
            no face is enlarged to more than twice its size.
        crops: squares of each photograph.
        seed: of all draws.

    Raises:
        FileNotFoundError: no annotations, or a photograph they name that is not there.
        ValueError: annotations or photographs that cannot be read; names file and place.
    """
    source = given_path(source, "the photographs").expanduser()
    annotated = read_wider(source, min_side=1)
    if not annotated:
        raise ValueError(f"{source}: its annotations name no photograph")
    images: list[np.ndarray] = []
    image: list[int] = []
    boxes, complete = [], []
    with _files(source) as read:
        for number, one in enumerate(annotated):
            pixels, times = _pixels(source, one.path, read)
            given = one.boxes / times
            for crop in range(crops):
                random = np.random.default_rng([seed, number, crop])
                window = _about_one(random, pixels, given[~one.ignore], side, size)
                found, all_there = _inside(given, one.ignore, window, size)
                if not (len(found) or all_there):
                    continue  # nothing is known of it
                image += [len(images)] * len(found)
                images.append(_cut(pixels, window, size))
                boxes.append(found)
                complete.append(all_there)
    if not images:
        raise ValueError(f"{source}: no usable face in {len(annotated)} photographs")
    faces = len(image)
    return FaceAnnotations(
        images=np.stack(images),
        image=np.array(image, np.int64),
        boxes=np.concatenate(boxes).astype(np.float32),
        landmarks=np.full((faces, 5, 2), np.nan, np.float32),
        pose=np.full((faces, 3), np.nan, np.float32),
        person=np.full(faces, -1, np.int64),
        expression=np.full(faces, -1, np.int64),
        attributes=np.full((faces, len(ATTRIBUTES)), np.nan, np.float32),
        masks=np.full((len(images), size, size), UNKNOWN, np.uint8),
        complete=np.array(complete),
        expressions=EXPRESSIONS,
        attribute_names=ATTRIBUTES,
        name=source.stem,
    )


@dataclass(frozen=True)
class _Window:
    """A square of a photograph, in whole pixels."""

    left: int
    top: int
    side: int


def _about_one(
    random: np.random.Generator,
    pixels: np.ndarray,
    boxes: np.ndarray,
    side: tuple[float, float],
    size: int,
) -> _Window:
    height, width = pixels.shape[:2]
    if len(boxes) == 0:
        short = min(height, width)
        return _Window((width - short) // 2, (height - short) // 2, short)
    left, top, w, h = boxes[random.integers(len(boxes))]
    long = min(float(np.exp(random.uniform(*np.log(side)))), 2.0 * max(w, h))
    span = max(1, round(size * max(w, h) / long))
    at = []
    for start, length, end in ((left, w, width), (top, h, height)):
        free = max(0.0, span - length)
        begin = start - random.uniform(0, free) if free else start + (length - span) / 2
        # within the photograph, where it is large enough
        at.append(round(min(max(begin, 0), end - span)) if span <= end else (end - span) // 2)
    return _Window(at[0], at[1], span)


def _inside(
    boxes: np.ndarray, ignore: np.ndarray, window: _Window, size: int
) -> tuple[np.ndarray, bool]:
    """The boxes of the window's faces, in the square; whether no other face is seen there."""
    scale = size / window.side
    start = (boxes[:, :2] - (window.left, window.top)) * scale
    end = start + boxes[:, 2:] * scale
    middle = (start + end) / 2
    kept = ~ignore & ((middle >= 0) & (middle < size)).all(1) & ((end - start).max(1) >= 8)
    touches = ((end > 0) & (start < size) & (end > start)).all(1)
    start, end = start.clip(0, size), end.clip(0, size)
    return np.concatenate([start, end - start], 1)[kept], bool((kept | ~touches).all())


def _cut(pixels: np.ndarray, window: _Window, size: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    left, top, side = window.left, window.top, window.side
    square = np.full((side, side, 3), _GREY, np.uint8)
    rows = slice(max(0, top), min(height, top + side))
    columns = slice(max(0, left), min(width, left + side))
    part = pixels[rows, columns]
    y, x = rows.start - top, columns.start - left
    square[y : y + part.shape[0], x : x + part.shape[1]] = part
    way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=way))


@contextmanager
def _files(source: Path) -> Iterator[Callable[[str], bytes]]:
    """What reads a file by its path in a folder, in a zip, or beside a file."""
    if source.suffix.lower() == ".zip" and source.is_file():
        with open_zip(source) as archive:
            yield partial(read_entry, archive)
    else:
        folder = source if source.is_dir() else source.parent
        yield lambda path: read_file(folder / path)


def _pixels(source: Path, path: str, read: Callable[[str], bytes]) -> tuple[np.ndarray, float]:
    try:
        return decode_whole(read(path), _LONGEST)
    except (FileNotFoundError, KeyError):
        raise FileNotFoundError(
            f"{source}: its annotations name the photograph {path}, which is not there: add it, or "
            "take its lines out"
        ) from None
    except (UnreadableError, OSError) as error:
        raise ValueError(
            f"{source}: photograph {path} cannot be read ({error}): copy it again, or take its "
            "lines out of the annotations"
        ) from error


def celeba(folder: str | Path, *, size: int = 128, limit: int | None = None) -> FaceAnnotations:
    """CelebA as its authors publish it, one labelled face a picture.

    Pictures are those of ``img_celeba/`` (with ``list_bbox_celeba.txt`` and
    ``list_landmarks_celeba.txt``), else of ``img_align_celeba/`` (with
    ``list_landmarks_align_celeba.txt``; the boxes are of the other pictures), and
    ``list_attr_celeba.txt`` and ``identity_CelebA.txt``; whichever of the lists there are, in the
    folder or in ``Anno/``. What a picture has no line for is unknown of it, and so is a box of no
    size. Each result is a square about the face, 1.8 times as long as its box; pictures without
    box and landmarks are cut to the middle. Further faces in a picture have no labels in the set,
    so no picture is ``complete``.

    Attributes that procedural faces have, too, are called as theirs (``glasses``, ``cap``,
    ``female``, ``beard``, ``moustache``); the others as in CelebA (``Smiling``).

    Args:
        folder: where the lists and pictures are.
        size: side of the squares in pixels.
        limit: take the first so many pictures; each takes ``4 * size**2`` bytes.

    Raises:
        FileNotFoundError: no folder, pictures or lists there.
        ValueError: a line that is not what it must be, or a picture that cannot be read; names
            file, line and value.
    """
    folder = given_path(folder, "CelebA").expanduser()
    shelf = next(
        (folder / n for n in ("img_celeba", "img_align_celeba") if (folder / n).is_dir()), None
    )
    if shelf is None:
        raise FileNotFoundError(f"{folder} holds no folder img_celeba or img_align_celeba")
    aligned = shelf.name == "img_align_celeba"
    boxes = {} if aligned else _numbers(folder, "list_bbox_celeba.txt", 4)[0]
    marks, _ = _numbers(folder, f"list_landmarks_{'align_' if aligned else ''}celeba.txt", 10)
    signs, columns = _numbers(folder, "list_attr_celeba.txt", None)
    who, _ = _numbers(folder, "identity_CelebA.txt", 1, header=False)
    listed = set(boxes) | set(marks) | set(signs) | set(who)
    if not listed:
        raise FileNotFoundError(
            f"{folder} holds none of CelebA's lists (list_bbox_celeba.txt, ...): a picture without "
            "any label teaches nothing"
        )
    names = sorted(p.name for p in shelf.iterdir() if p.name in listed)[:limit]
    if not names:
        raise FileNotFoundError(f"{shelf} holds none of the {len(listed)} pictures listed")
    people = sorted({int(who[name][0]) for name in names if name in who})
    number = {person: i for i, person in enumerate(people)}

    def rows(values: dict[str, np.ndarray], width: int) -> np.ndarray:
        unknown = np.full(width, np.nan)
        return np.stack([values.get(name, unknown) for name in names])

    box, landmarks = rows(boxes, 4), rows(marks, 10).reshape(-1, 5, 2)
    box[~(box[:, 2:] > 0).all(1)] = np.nan
    images = np.empty((len(names), size, size, 3), np.uint8)
    for i, name in enumerate(names):
        pixels, times = _pixels(folder, f"{shelf.name}/{name}", lambda p: read_file(folder / p))
        box[i] /= times
        landmarks[i] /= times
        box[i] = _cut_box(box[i], pixels)
        window = _about(box[i], landmarks[i], pixels)
        images[i] = _cut(pixels, window, size)
        scale, start = size / window.side, np.array([window.left, window.top])
        box[i] = np.r_[(box[i, :2] - start) * scale, box[i, 2:] * scale]
        landmarks[i] = (landmarks[i] - start) * scale
    n = len(names)
    return FaceAnnotations(
        images=images,
        image=np.arange(n),
        boxes=box.astype(np.float32),
        landmarks=landmarks.astype(np.float32),
        pose=np.full((n, 3), np.nan, np.float32),
        person=np.array([number[int(who[m][0])] if m in who else -1 for m in names], np.int64),
        expression=np.full(n, -1, np.int64),
        attributes=_attributes(rows(signs, len(columns)), columns),
        masks=np.full((n, size, size), UNKNOWN, np.uint8),
        complete=np.zeros(n, bool),
        people=tuple(f"celeba/{person}" for person in people),
        expressions=EXPRESSIONS,
        attribute_names=tuple(_OURS.get(name, (name, 1))[0] for name in columns),
        name=folder.name,
    )


def _attributes(signs: np.ndarray, columns: list[str]) -> np.ndarray:
    """0 and 1 of -1 and 1."""
    turn = np.array([_OURS.get(name, (name, 1))[1] for name in columns])
    return ((signs * turn + 1) / 2).astype(np.float32)


def _numbers(
    folder: Path, name: str, count: int | None, header: bool = True
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The numbers of each picture in one of CelebA's lists, and the names of the columns; nothing
    if there is no such list. ``count``: of numbers; None: as many as there are columns."""
    path = next((p for p in (folder / name, folder / "Anno" / name) if p.is_file()), None)
    if path is None:
        return {}, []
    lines = path.read_text("utf-8-sig").splitlines()
    columns: list[str] = []
    if header:
        if len(lines) < 2 or not lines[0].strip().isdigit():
            found = repr(lines[0][:80]) if lines else "an empty file"
            raise ValueError(
                f"{path}: line 1: expected how many pictures the list has, then the names of the "
                f"columns; found {found}: take the file as CelebA publishes it"
            )
        columns = lines[1].split()
        expected = int(lines[0])
        lines, skipped = lines[2:], 2
        while lines and not lines[-1].strip():
            lines.pop()
        if len(lines) != expected:
            raise ValueError(
                f"{path}: line 1 says {expected} pictures, {len(lines)} follow: download it again"
            )
    else:
        skipped = 0
    count = len(columns) if count is None else count
    values: dict[str, np.ndarray] = {}
    for i, line in enumerate(lines, skipped + 1):
        words = line.split()
        if not words:
            continue
        try:
            numbers = np.array([float(word) for word in words[1:]])
        except ValueError:
            numbers = np.empty(0)
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise ValueError(
                f"{path}: line {i}: expected the name of a picture and {count} numbers; found "
                f"{len(words) - 1} in {line[:80]!r}: correct the line or take it out"
            )
        if name.startswith("list_attr") and not np.isin(numbers, (-1, 1)).all():
            bad = words[1 + int(np.flatnonzero(~np.isin(numbers, (-1, 1)))[0])]
            raise ValueError(f"{path}: line {i}: an attribute is {bad}, must be -1 or 1")
        if words[0] in values:
            raise ValueError(f"{path}: line {i}: {words[0]} is listed twice: take one line out")
        values[words[0]] = numbers
    return values, columns


def _cut_box(box: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """A box cut to the photograph; NaN if nothing is left of it."""
    ends = np.array(pixels.shape[1::-1], np.float64)
    start, end = box[:2].clip(0, ends), (box[:2] + box[2:]).clip(0, ends)
    return np.r_[start, end - start] if (end > start).all() else np.full(4, np.nan)


def _about(box: np.ndarray, landmarks: np.ndarray, pixels: np.ndarray) -> _Window:
    """A square about a face, of which the box or the landmarks or neither may be known."""
    height, width = pixels.shape[:2]
    if not np.isnan(box).any():
        middle, side = box[:2] + box[2:] / 2, _MARGIN * box[2:].max()
    elif not np.isnan(landmarks).any():  # a face is about three times as high as eyes to mouth
        middle = landmarks.mean(0)
        side = _MARGIN * 3 * max(float(np.ptp(landmarks[:, 0])), float(np.ptp(landmarks[:, 1])))
    else:
        middle, side = np.array([width, height]) / 2, float(min(width, height))
    span = max(1, round(side))
    return _Window(round(middle[0] - span / 2), round(middle[1] - span / 2), span)
