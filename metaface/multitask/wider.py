"""WIDER FACE as :class:`FaceAnnotations`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from metaface._text import given_path
from metaface.data._sources import open_zip, read_entry, read_file
from metaface.data.wider import read_wider
from metaface.multitask.samples import FaceAnnotations
from metaface.multitask.sprites import ATTRIBUTES, EXPRESSIONS
from metaface.multitask.windows import Window, cut, decode


def load_wider(
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

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from metaface.multitask import load_wider
        >>> Path("wider/images").mkdir(parents=True)
        >>> Image.new("RGB", (320, 240)).save("wider/images/party.jpg")
        >>> lines = ["party.jpg", "1", "100 80 50 60 0 0 0 0 0 0"]  # x, y, width, height, six marks
        >>> size = Path("wider/faces_bbx_gt.txt").write_text("\\n".join(lines))
        >>> squares = load_wider("wider", size=96, crops=2)
        >>> squares.images.shape, squares.boxes.shape, bool(squares.complete.all())
        ((2, 96, 96, 3), (2, 4), True)
    """
    source = given_path(source, "the photographs").expanduser()
    annotated = read_wider(source, min_side=1)
    if not annotated:
        raise ValueError(f"{source}: its annotations name no photograph")
    images, boxes, complete = [], [], []
    with open_photos(source) as read:
        for number, photo in enumerate(annotated):
            pixels, times = decode(source, photo.path, read)
            given = photo.boxes / times
            for crop in range(crops):
                random = np.random.default_rng([seed, number, crop])
                window = _choose_window(random, pixels, given[~photo.ignore], side, size)
                inside, all_there = _move_boxes(given, photo.ignore, window, size)
                if not (len(inside) or all_there):
                    continue  # nothing is known of it
                images.append(cut(pixels, window, size))
                boxes.append(inside)
                complete.append(all_there)
    if not images:
        raise ValueError(f"{source}: no usable face in {len(annotated)} photographs")
    return FaceAnnotations.build(
        np.stack(images),
        np.repeat(np.arange(len(images)), [len(inside) for inside in boxes]),
        boxes=np.concatenate(boxes).astype(np.float32),
        complete=np.array(complete),
        expressions=EXPRESSIONS,
        attribute_names=ATTRIBUTES,
        name=source.stem,
    )


def _choose_window(
    random: np.random.Generator,
    pixels: np.ndarray,
    boxes: np.ndarray,
    side: tuple[float, float],
    size: int,
) -> Window:
    height, width = pixels.shape[:2]
    if len(boxes) == 0:
        short = min(height, width)
        return Window((width - short) // 2, (height - short) // 2, short)
    left, top, w, h = boxes[random.integers(len(boxes))]
    long = min(float(np.exp(random.uniform(*np.log(side)))), 2.0 * max(w, h))
    span = max(1, round(size * max(w, h) / long))
    at = []
    for start, length, end in ((left, w, width), (top, h, height)):
        free = max(0.0, span - length)
        begin = start - random.uniform(0, free) if free else start + (length - span) / 2
        # within the photograph, where it is large enough
        at.append(round(min(max(begin, 0), end - span)) if span <= end else (end - span) // 2)
    return Window(at[0], at[1], span)


def _move_boxes(
    boxes: np.ndarray, ignore: np.ndarray, window: Window, size: int
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


@contextmanager
def open_photos(source: Path) -> Iterator[Callable[[str], bytes]]:
    """What reads a file by its path in a folder, in a zip, or beside a file."""
    if source.suffix.lower() == ".zip" and source.is_file():
        with open_zip(source) as archive:
            yield partial(read_entry, archive)
    else:
        folder = source if source.is_dir() else source.parent
        yield lambda path: read_file(folder / path)
