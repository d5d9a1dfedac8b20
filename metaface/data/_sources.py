"""Where photographs come from: a folder, a zip or a CSV, as one list of named pictures."""

from __future__ import annotations

import csv
import logging
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any

from metaface._text import printable
from metaface.data._decode import TooLargeError, UnreadableError
from metaface.data.faceset import Skipped

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".pgm", ".ppm", ".pbm", ".pnm", ".bmp", ".dib"}
    | {".gif", ".tif", ".tiff", ".webp", ".jp2", ".avif", ".heic", ".heif"}
)
MAX_BYTES = 256 * 2**20  # of one picture file: what a zip declares is never trusted
EXPECTED = (
    "expected one folder of pictures (.jpg, .png, .pgm, ...) a person, such as photos/Ana/1.jpg, "
    "a zip of such folders, or a CSV of path,person[,domain]"
)
_LOCKED, _UTF8 = 0x1, 0x800  # flags of an entry in a zip: encrypted; its name is in UTF-8
Parts = tuple[str, ...]

log = logging.getLogger("metaface.data")


@dataclass(frozen=True)
class Photo:
    """A picture file: its path inside the source, whose it is, and how the source finds it."""

    path: str
    person: str
    handle: Any
    domain: str = "all"


@dataclass(frozen=True)
class Source:
    """Picture files, not yet decoded.

    Attributes:
        name: what the set is called, as it can be shown anywhere.
        photos: in the order they will have.
        skipped: pictures that belong to nobody, or cannot be read whatever their content.
        read: the bytes of a photo; raises OSError and UnreadableError. Thread-safe.
        mark: bytes that differ when the content of a photo does.
    """

    name: str
    photos: list[Photo]
    skipped: list[Skipped]
    read: Callable[[Photo], bytes]
    mark: Callable[[Photo], bytes]

    def fingerprint(self) -> str:
        """Hex digest over the names, labels and content of all photos."""
        digest = blake2b(digest_size=16)
        for photo in self.photos:
            try:
                mark = self.mark(photo)
            except (OSError, TooLargeError) as error:
                mark = f"unreadable: {getattr(error, 'errno', error)}".encode()
            for text in (photo.path, photo.person, photo.domain):
                digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
            digest.update(blake2b(mark, digest_size=16).digest())
        return digest.hexdigest()


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """The pictures of a folder, a zip or a CSV.

    Raises:
        FileNotFoundError: no such path.
        ValueError: nothing usable there; says what was found and what was expected.
    """
    if path.is_dir():
        yield _folder(path)
    elif path.suffix.lower() == ".csv":
        yield _csv(path)
    elif path.suffix.lower() == ".zip" or zipfile.is_zipfile(path):
        with open_zip(path) as archive:
            yield _zip(path, archive)
    else:
        raise ValueError(f"{path} is neither a folder, a .zip nor a .csv: {EXPECTED}")


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip whose entries have their names in UTF-8 where they are, whether it says so or not.

    Where they are not, and it does not say what they are in, they stay as cp437 reads them, with a
    warning.

    Raises:
        ValueError: not a whole zip file.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(
            f"{path} is not a whole zip file ({error}): download or copy it again"
        ) from error
    with archive:
        _rename(path, archive)
        yield archive


def _rename(path: Path, archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    unmarked = [e for e in entries if not e.flag_bits & _UTF8 and not e.filename.isascii()]
    try:
        names = [entry.filename.encode("cp437").decode("utf-8") for entry in unmarked]
    except UnicodeError:
        log.warning(
            "%s: %d of its names, such as %r, are not in UTF-8, and it does not say in what: they "
            "are likely to be wrong. Pack the zip again with names in UTF-8, or unpack it and give "
            "the folder",
            path,
            len(unmarked),
            unmarked[0].filename,
        )
        return
    for entry, name in zip(unmarked, names, strict=True):
        entry.filename = name
        archive.NameToInfo[name] = entry


def read_entry(archive: zipfile.ZipFile, entry: str | zipfile.ZipInfo) -> bytes:
    """The content of a file in a zip.

    Raises:
        KeyError: no such file.
        UnreadableError: it is encrypted, damaged, packed in an unknown way, or larger than
            ``MAX_BYTES``.
    """
    try:
        with archive.open(entry) as file:
            return bounded(file.read(MAX_BYTES + 1))
    except (KeyError, UnreadableError):
        raise
    except Exception as error:  # zipfile raises half a dozen kinds on damaged entries
        raise UnreadableError(str(error) or type(error).__name__) from error


def _folder(top: Path) -> Source:
    files: list[tuple[Parts, Path]] = []
    seen = set()
    for folder, below, names in os.walk(top, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder already read
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below.sort()
        files += [((p := Path(folder, name)).relative_to(top).parts, p) for name in names]
    photos, skipped = _people(files, top)
    return Source(printable(top.resolve().name), photos, skipped, _read_file, _read_file)


def _zip(path: Path, archive: zipfile.ZipFile) -> Source:
    files = []
    for info in archive.infolist():  # names are labels here, never paths to write to
        names = info.filename.replace("\\", "/").split("/")
        parts = tuple(n for n in names if n not in ("", ".", ".."))
        if parts and not info.is_dir():
            files.append((parts, info))
    photos, skipped = _people(files, path)
    locked = [p for p in photos if p.handle.flag_bits & _LOCKED]
    if locked and len(locked) == len(photos):
        raise ValueError(
            f"{path} is encrypted, all of its {len(photos)} pictures: unpack it with its password, "
            "and give the folder"
        )
    skipped += [Skipped(p.path, "encrypted: unpack the zip with its password") for p in locked]

    turn = Lock()  # ZipFile mixes up concurrent readers (seen on Python 3.13: wrong CRCs)

    def read(photo: Photo) -> bytes:
        with turn:
            return read_entry(archive, photo.handle)

    def mark(photo: Photo) -> bytes:
        return f"{photo.handle.CRC} {photo.handle.file_size}".encode()

    usable = [p for p in photos if not p.handle.flag_bits & _LOCKED]
    return Source(printable(path.stem), usable, skipped, read, mark)


def _csv(path: Path) -> Source:
    photos, skipped = [], []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            header = [name.strip().lower() for name in next(rows, [])]
            missing = [name for name in ("path", "person") if name not in header]
            if missing:
                raise ValueError(
                    f"{path}: no column {' or '.join(missing)} in its header {header}: the first "
                    "line must be path,person or path,person,domain"
                )
            for row in rows:
                cells = {n: c.strip() for n, c in zip(header, row, strict=False)}
                name, person = cells.get("path", ""), cells.get("person", "")
                if name and person:
                    domain = cells.get("domain") or "all"
                    photos.append(Photo(name, person, path.parent / name, domain))
                elif any(cells.values()):
                    skipped.append(Skipped(f"line {rows.line_num}", "no path or no person"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV in UTF-8 ({error}): save it as one") from error
    if not photos:
        raise ValueError(f"{path}: no row has a path and a person; {EXPECTED}")
    return Source(printable(path.stem), photos, skipped, _read_file, _read_file)


def _people(files: list[tuple[Parts, Any]], top: Path) -> tuple[list[Photo], list[Skipped]]:
    """Whose each picture is: the outermost folder that itself holds pictures is the person.

    A person's name is that folder's path below the deepest folder common to all of them, so
    wrapper folders vanish and Omniglot's characters are ``alphabet/character``. Pictures directly
    in that common folder are nobody's. Hidden files and ``__MACOSX`` are not looked at.
    """
    files = [f for f in files if not any(p[0] == "." or p == "__MACOSX" for p in f[0])]
    pictures = sorted(
        (f for f in files if os.path.splitext(f[0][-1])[1].lower() in SUFFIXES), key=lambda f: f[0]
    )
    holders = {parts[:-1] for parts, _ in pictures}
    if not holders or holders == {()}:
        kinds = Counter(os.path.splitext(parts[-1])[1].lower() or "no suffix" for parts, _ in files)
        found = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common(5)) or "no files"
        where = "only directly in it, in no person's folder" if holders else "none of them pictures"
        raise ValueError(f"no usable person in {top}: found {found} ({where}); {EXPECTED}")
    depth = len(os.path.commonprefix(list(holders)))  # type: ignore[type-var]  # noqa: RUF071
    if len(holders) == 1:
        depth -= 1  # one person: the name is the last folder's
    photos, skipped = [], []
    for parts, handle in pictures:
        path = "/".join(parts)
        ends = (n for n in range(depth + 1, len(parts)) if parts[:n] in holders)
        end = next(ends, None)
        if end is None:
            skipped.append(Skipped(path, "beside the identity folders, not in one"))
        else:
            photos.append(Photo(path, "/".join(parts[depth:end]), handle))
    return photos, skipped


def _read_file(photo: Photo) -> bytes:
    return read_file(photo.handle)


def read_file(path: Path) -> bytes:
    """The content of a picture file.

    Raises:
        OSError: not a file.
        TooLargeError: larger than ``MAX_BYTES``.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise OSError("not a regular file")
    if status.st_size > MAX_BYTES:
        raise _too_large()
    with open(path, "rb") as file:
        return bounded(file.read(MAX_BYTES + 1))


def bounded(data: bytes) -> bytes:
    """``data``, the content of a picture file.

    Raises:
        TooLargeError: larger than ``MAX_BYTES``.
    """
    if len(data) > MAX_BYTES:
        raise _too_large()
    return data


def _too_large() -> TooLargeError:
    return TooLargeError(f"larger than {MAX_BYTES // 2**20} MiB")
