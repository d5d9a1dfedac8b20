"""CelebA as :class:`FaceAnnotations`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metaface._text import given_path
from metaface.data._sources import read_file
from metaface.multitask.samples import FaceAnnotations
from metaface.multitask.sprites import EXPRESSIONS
from metaface.multitask.windows import Window, clip_boxes, cut, decode

_MARGIN = 1.8  # side of a picture, in longer sides of the face
_OURS = {
    "Eyeglasses": ("glasses", 1),
    "Wearing_Hat": ("cap", 1),
    "Male": ("female", -1),
    "No_Beard": ("beard", -1),
    "Mustache": ("moustache", 1),
}
"""CelebA's attributes that procedural faces have, too: their name here, and the sign"""


def load_celeba(
    folder: str | Path, *, size: int = 128, limit: int | None = None
) -> FaceAnnotations:
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

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from metaface.multitask import load_celeba
        >>> Path("celeba/img_align_celeba").mkdir(parents=True)
        >>> Image.new("RGB", (178, 218)).save("celeba/img_align_celeba/000001.jpg")
        >>> size = Path("celeba/identity_CelebA.txt").write_text("000001.jpg 2880\\n")
        >>> celeba = load_celeba("celeba", size=64)
        >>> celeba.images.shape, celeba.people
        ((1, 64, 64, 3), ('celeba/2880',))
    """
    folder = given_path(folder, "CelebA").expanduser()
    pictures = next(
        (folder / n for n in ("img_celeba", "img_align_celeba") if (folder / n).is_dir()), None
    )
    if pictures is None:
        raise FileNotFoundError(f"{folder} holds no folder img_celeba or img_align_celeba")
    aligned = pictures.name == "img_align_celeba"
    boxes = {} if aligned else _read_list(folder, "list_bbox_celeba.txt", 4)[0]
    points, _ = _read_list(folder, f"list_landmarks_{'align_' if aligned else ''}celeba.txt", 10)
    signs, columns = _read_list(folder, "list_attr_celeba.txt", None)
    ids, _ = _read_list(folder, "identity_CelebA.txt", 1, header=False)
    listed = set(boxes) | set(points) | set(signs) | set(ids)
    if not listed:
        raise FileNotFoundError(
            f"{folder} holds none of CelebA's lists (list_bbox_celeba.txt, ...): a picture without "
            "any label teaches nothing"
        )
    names = sorted(p.name for p in pictures.iterdir() if p.name in listed)[:limit]
    if not names:
        raise FileNotFoundError(f"{pictures} holds none of the {len(listed)} pictures listed")

    def rows(values: dict[str, np.ndarray], width: int) -> np.ndarray:
        unknown = np.full(width, np.nan)
        return np.stack([values.get(name, unknown) for name in names])

    box, landmarks = rows(boxes, 4), rows(points, 10).reshape(-1, 5, 2)
    box[~(box[:, 2:] > 0).all(1)] = np.nan
    images = np.empty((len(names), size, size, 3), np.uint8)
    for i, name in enumerate(names):
        images[i], box[i], landmarks[i] = _cut_face(
            folder, f"{pictures.name}/{name}", box[i], landmarks[i], size
        )
    people = sorted({int(ids[name][0]) for name in names if name in ids})
    number = {person: i for i, person in enumerate(people)}
    turn = np.array([_OURS.get(name, (name, 1))[1] for name in columns])
    return FaceAnnotations.build(
        images,
        np.arange(len(names)),
        boxes=box.astype(np.float32),
        landmarks=landmarks.astype(np.float32),
        person=np.array([number[int(ids[n][0])] if n in ids else -1 for n in names], np.int64),
        attributes=((rows(signs, len(columns)) * turn + 1) / 2).astype(np.float32),
        people=tuple(f"celeba/{person}" for person in people),
        expressions=EXPRESSIONS,
        attribute_names=tuple(_OURS.get(name, (name, 1))[0] for name in columns),
        name=folder.name,
    )


def _cut_face(
    folder: Path, path: str, box: np.ndarray, landmarks: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A square picture of ``size`` pixels about a face; its box and landmarks there."""
    pixels, times = decode(folder, path, lambda name: read_file(folder / name))
    box, landmarks = clip_boxes(box / times, pixels.shape[1::-1]), landmarks / times
    window = _choose_window(box, landmarks, pixels)
    scale, start = size / window.side, np.array([window.left, window.top])
    box = np.r_[(box[:2] - start) * scale, box[2:] * scale]
    return cut(pixels, window, size), box, (landmarks - start) * scale


def _read_list(
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
        columns = _read_header(path, lines)
        count = len(columns) if count is None else count
    values: dict[str, np.ndarray] = {}
    for i, line in enumerate(lines, 1):
        words = line.split()
        if not words or (header and i <= 2):
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


def _read_header(path: Path, lines: list[str]) -> list[str]:
    """The names of the columns, from the two lines that start a list."""
    if len(lines) < 2 or not lines[0].strip().isdigit():
        found = repr(lines[0][:80]) if lines else "an empty file"
        raise ValueError(
            f"{path}: line 1: expected how many pictures the list has, then the names of the "
            f"columns; found {found}: take the file as CelebA publishes it"
        )
    expected, rows = int(lines[0]), "\n".join(lines[2:]).rstrip().splitlines()
    if len(rows) != expected:
        raise ValueError(
            f"{path}: line 1 says {expected} pictures, {len(rows)} follow: download it again"
        )
    return lines[1].split()


def _choose_window(box: np.ndarray, landmarks: np.ndarray, pixels: np.ndarray) -> Window:
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
    return Window(round(middle[0] - span / 2), round(middle[1] - span / 2), span)
