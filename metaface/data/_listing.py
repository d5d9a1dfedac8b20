"""Which files below a folder, or in a zip, are photographs, and what is left out.

The one place that knows: loading, enrolment, probes and strangers all ask here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from metaface.data._skipped import Skipped

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".pgm", ".ppm", ".pbm", ".pnm", ".bmp"}
    | {".dib", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".avif", ".heic", ".heif"}
)
JUNK = frozenset(
    {"@eadir", "@tmp", "#recycle", "#snapshot", "@sharebin", "@sharesnap", "@appstore"}  # Synology
    | {"@recycle", "@recently-snapshot", "@__thumb", "~snapshot"}  # QNAP, NetApp
    | {"$recycle.bin", "recycler", "recycled", "system volume information", "found.000"}
    | {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"}  # Windows
    | {"__macosx", "network trash folder", "temporary items", "icon\r"}  # macOS
    | {"lost+found"}
)
"""names, in small letters, of what systems keep among photographs: thumbnails, bins, snapshots;
nothing in such a folder is looked at, nor in one whose name starts with a dot"""

_VIDEOS = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg", ".3gp", ".mts",
    ".m2ts", ".flv",
)  # fmt: skip
_RAW = (
    ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf", ".raf", ".rw2",
    ".pef", ".srw", ".x3f", ".3fr", ".iiq",
)  # fmt: skip
_OTHERS = (
    ".jxl", ".psd", ".psb", ".xcf", ".svg", ".eps", ".pdf", ".exr", ".hdr", ".tga", ".ico", ".jxr",
    ".flif",
)  # fmt: skip
_NOT_READ = (
    dict.fromkeys(_VIDEOS, "a video, which is not read: save pictures of it")
    | dict.fromkeys(_RAW, "a raw photograph, which is not read: save it as JPEG or PNG")
    | {kind: f"{kind} is not read: save it as JPEG or PNG" for kind in _OTHERS}
)
_PLAIN_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{0,4}")  # others are part of a name: "Mr. Smith", "1.2"
_HEAD = 16  # bytes that tell what a file is
Parts = tuple[str, ...]
Handle = TypeVar("Handle")


def is_junk(parts: Iterable[str]) -> bool:
    """Whether a path is hidden, or lies in what a system keeps for itself; see ``JUNK``."""
    return any(part[0] == "." or part.casefold() in JUNK for part in parts)


def walk(top: Path) -> tuple[list[Parts], list[Parts], list[Skipped]]:
    """Files and folders below ``top``, links followed, without :func:`is_junk`.

    Returns:
        Files and folders, each by the parts of its path below ``top``; and the folders that could
        not be read.
    """
    files: list[Parts] = []
    folders: list[Parts] = []
    skipped: list[Skipped] = []
    seen = set()

    def unreadable(error: OSError) -> None:
        path = os.path.relpath(error.filename, top).replace(os.sep, "/")
        skipped.append(Skipped(path, f"a folder that cannot be read: {error.strerror or error}"))

    for folder, below, names in os.walk(top, followlinks=True, onerror=unreadable):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:  # a link back to a folder already read
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not is_junk((name,)))
        parts = Path(folder).relative_to(top).parts
        if parts:
            folders.append(parts)
        files += [(*parts, name) for name in names if not is_junk((name,))]
    return files, folders, skipped


def pictures(
    files: Iterable[tuple[Parts, Handle]], head: Callable[[Handle], bytes]
) -> tuple[list[tuple[Parts, Handle]], list[Skipped]]:
    """The photographs among files, sorted by path; and those that are of no kind that is read.

    A file is known by its suffix; without one, by its first bytes.

    Args:
        files: each by the parts of its path, and what finds it.
        head: the first ``_HEAD`` bytes of a file, or more; may raise anything.
    """
    found, skipped = [], []
    for parts, handle in sorted(files, key=lambda file: file[0]):
        suffix = os.path.splitext(parts[-1])[1].lower()
        if suffix in SUFFIXES or (not _PLAIN_SUFFIX.fullmatch(suffix) and _shown(head, handle)):
            found.append((parts, handle))
        elif suffix in _NOT_READ:
            skipped.append(Skipped("/".join(parts), _NOT_READ[suffix]))
    return found, skipped


def file_head(path: Path) -> bytes:
    """The first bytes of a regular file; of anything else none."""
    if not path.is_file():  # opening a pipe would wait for ever
        return b""
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _shown(head: Callable[[Handle], bytes], handle: Handle) -> bool:
    """Whether the first bytes of a file are those of a picture."""
    try:
        start = head(handle)
    except Exception:  # it is encrypted, damaged, or may not be read: nobody says it is a picture
        return False
    return (
        start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*"))
        or start.startswith(b"\0\0\0\x0cjP  ")
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or is_heif(start)
        or start[4:12] in (b"ftypavif", b"ftypavis")
    )


def is_heif(start: bytes) -> bool:
    """Whether a file that starts so is a HEIC or HEIF photograph, as phones make them."""
    return start[4:8] == b"ftyp" and start[8:12] in (
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1",
    )  # fmt: skip
