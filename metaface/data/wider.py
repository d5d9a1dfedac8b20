"""Photographs with the boxes of their faces, as WIDER FACE publishes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from metaface._text import given_path
from metaface.data._decode import UnreadableError
from metaface.data._sources import open_zip, read_entry

JSON, TEXT = "annotations.json", "bbx_gt.txt"
INVALID = 7  # place of the mark among the ten numbers of a face
EXPECTED = "'x y width height blur expression illumination invalid occlusion pose', ten numbers"


@dataclass(frozen=True, eq=False)
class Annotated:
    """A photograph and its faces.

    Attributes:
        path: of the photograph, below the folder, or inside the zip, that was read; as the
            annotations name it if it is in neither.
        boxes: float64 ``[n, 4]``, x, y, width, height in pixels.
        ignore: bool ``[n]``, faces that neither count nor harm: marked invalid, or too small.
    """

    path: str
    boxes: np.ndarray
    ignore: np.ndarray


def read_wider(path: str | Path, min_side: float = 24) -> list[Annotated]:
    """Read annotated photographs.

    Args:
        path: a folder or a zip (read in place) with one ``annotations.json`` or, where there is
            none, one text file whose name ends in ``bbx_gt.txt`` as the set itself has it, at any
            depth; or such a file itself. Photographs are looked for beside it and in ``images/``.
        min_side: faces whose shorter side is less, in pixels, are to be ignored.

    Raises:
        FileNotFoundError: no such path, or no annotations there.
        ValueError: several annotation files, a broken zip, or a line or an entry that is not what
            it must be; names the file and the place.
    """
    path = given_path(path, "the photographs")
    if path.is_dir():
        files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
        name = _find_annotations(path, list(files))
        data = files[name].read_bytes()
    elif path.suffix.lower() == ".zip":
        with open_zip(path) as archive:
            files = {entry.filename: path for entry in archive.infolist()}
            name = _find_annotations(path, list(files))
            try:
                data = read_entry(archive, name)
            except UnreadableError as error:
                raise ValueError(
                    f"{path}: {name} cannot be read ({error}): copy the zip again or, where it is "
                    "encrypted, unpack it with its password and give the folder"
                ) from error
    else:
        files = {}
        name, data = path.name, path.read_bytes()
    where = path if name == path.name else path / name
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not text in UTF-8 ({error})") from error
    entries = _parse_json(where, text) if name.endswith(".json") else _parse_text(where, text)
    beside = PurePosixPath(name).parent
    result = []
    for picture, faces in entries:
        numbers = np.array(faces, dtype=np.float64).reshape(-1, 5)
        boxes = numbers[:, :4]
        places = [str(beside / "images" / picture), str(beside / picture)]
        result.append(
            Annotated(
                path=next((p for p in places if _is_there(path, p, files)), picture),
                boxes=boxes,
                ignore=(boxes[:, 2:].min(1, initial=np.inf) < min_side) | (numbers[:, 4] != 0),
            )
        )
    return result


def _is_there(path: Path, place: str, files: dict[str, Path]) -> bool:
    return place in files if files else (path.parent / place).is_file()


def _find_annotations(path: Path, names: list[str]) -> str:
    for ending in (JSON, TEXT):
        fitting = sorted(n for n in names if n.endswith(ending))
        if len(fitting) > 1:
            raise ValueError(f"{path} holds {', '.join(fitting)}: give the one that is meant")
        if fitting:
            return fitting[0]
    raise FileNotFoundError(f"{path} holds no {JSON} and no file that ends in {TEXT}")


def _parse_text(where: Path, text: str) -> Iterator[tuple[str, list[list[float]]]]:
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    at = 0
    while at < len(lines):
        picture = lines[at]
        count = lines[at + 1] if at + 1 < len(lines) else "the end of the file"
        if not picture or len(picture.split()) == 10 or not (count.isascii() and count.isdigit()):
            raise ValueError(
                f"{where}: line {at + 1}: expected the name of a photograph and, in the next line, "
                f"how many faces it has; found {picture[:80]!r} and {count[:80]!r}"
            )
        at += 2
        faces = lines[at : at + int(count)]
        if len(faces) < int(count):
            raise ValueError(
                f"{where}: the file ends after {len(faces)} of the {count} faces of {picture}: "
                "download it again"
            )
        yield picture, [_parse_face(where, at + i + 1, line) for i, line in enumerate(faces)]
        at += len(faces)
        if not faces and at < len(lines) and len(lines[at].split()) == 10:
            at += 1  # the set writes a line of zeros where there is no face


def _parse_face(where: Path, number: int, line: str) -> list[float]:
    try:
        numbers = [float(word) for word in line.split()]
    except ValueError:
        numbers = []
    if len(numbers) != 10 or not np.isfinite(numbers).all():
        raise ValueError(f"{where}: line {number}: expected {EXPECTED}; found {line[:80]!r}")
    return [*numbers[:4], numbers[INVALID]]


def _parse_json(where: Path, text: str) -> Iterator[tuple[str, list[list[float]]]]:
    try:
        images = json.loads(text)["images"]
        entries = list(enumerate(images))
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f'{where}: expected {{"images": [...]}} ({error!r})') from error
    for i, image in entries:
        try:
            picture, faces = str(image["file"]), [_parse_box(face) for face in image["faces"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'{where}: images[{i}]: expected {{"file": name, "faces": [{{"bbox": [x, y, width, '
                f'height], "invalid": 0 or 1}}, ...]}} ({error!r})'
            ) from error
        yield picture, faces


def _parse_box(face: dict[str, Any]) -> list[float]:
    numbers = [float(number) for number in face["bbox"]]
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise ValueError(f"a box of {numbers}")
    return [*numbers, float(face.get("invalid", 0))]
