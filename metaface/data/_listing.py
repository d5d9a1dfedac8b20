"""Which files below a folder, or in a zip, are photographs, and what is left out.

The one place that knows: loading, enrolment, probes and strangers all ask here.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from metaface.data._skipped import Skipped

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".pgm", ".ppm", ".pbm", ".pnm", ".bmp"}
    | {".dib", ".gif", ".tif", ".tiff", ".webp", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf"}
    | {".avif", ".heic", ".heif", ".hif", ".heics", ".apng"}
)
JUNK = frozenset(
    {"@eadir", "@tmp", "#recycle", "#snapshot", "@sharebin", "@sharesnap", "@appstore"}
    | {"@transcode", "#trash"}  # Synology
    | {"@recycle", "@recently-snapshot", "@__thumb", "~snapshot"}  # QNAP, NetApp
    | {"$recycle.bin", "recycler", "recycled", "system volume information", "found.000"}
    | {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"}  # Windows
    | {"__macosx", "network trash folder", "temporary items", "icon\r", "ipod photo cache"}  # macOS
    | {"lost+found"}
)
"""names, in small letters, of what systems keep among photographs: thumbnails, bins, snapshots;
nothing in such a folder is looked at, nor in one whose name starts with a dot or ends in .lrdata
(Lightroom's previews)"""

_READ = "read"
_VIDEO = "a video, which is not read: save pictures of it"
_RAW = "a raw photograph, which is not read: save it as JPEG or PNG"
_OTHER = "a picture of a kind that is not read: save it as JPEG or PNG"
_MAYBE_RAW = (
    "it begins as a TIFF, as raw photographs do, which are not read: save it as JPEG or PNG, or "
    "call a TIFF .tif"
)
_VIDEOS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg"} | {
    ".3gp",
    ".mts",
    ".m2ts",
    ".flv",
    ".vob",
    ".ogv",
    ".m2v",
    ".insv",
    ".lrv",
}
_RAWS = (
    {".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf", ".raf"}
    | {".rw2", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".kdc", ".dcr", ".erf", ".mef", ".mrw"}
    | {".rwl", ".gpr", ".raw", ".fff", ".ptx", ".mos", ".rw1"}
)
_OTHERS = {".jxl", ".psd", ".psb", ".xcf", ".svg", ".eps", ".pdf", ".exr"} | {
    ".hdr",
    ".tga",
    ".ico",
    ".jxr",
    ".flif",
    ".pcx",
    ".hdp",
    ".wdp",
}
_NOT_READ = (
    dict.fromkeys(_VIDEOS, _VIDEO)
    | dict.fromkeys(_RAWS, _RAW)
    | {kind: f"{kind} is not read: save it as JPEG or PNG" for kind in _OTHERS}
    | {".thm": "a camera's thumbnail of a video or photograph, which is not read"}
    | {".jps": "two pictures side by side, which are not read: save one of them"}
)
_NO_PICTURES = frozenset(
    {".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yml", ".yaml", ".toml", ".ini"}
    | {".cfg", ".log", ".md", ".rst", ".html", ".htm", ".css", ".js", ".py", ".ipynb", ".m"}
    | {".sh", ".bat", ".c", ".h", ".cpp", ".mat", ".npy", ".npz", ".pkl", ".pt", ".pth", ".onnx"}
    | {".h5", ".hdf5", ".db", ".sqlite", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx"}
    | {".odt", ".ods", ".rtf", ".tex", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z"}
    | {".rar", ".mp3", ".wav", ".m4a", ".aac", ".flac", ".ogg", ".srt", ".xmp", ".aae", ".pp3"}
    | {".pts", ".url", ".lnk", ".md5", ".lst"}
)
"""suffixes of files that are no pictures: they are not opened"""
_PLAIN_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{0,4}")  # others are part of a name: "Mr. Smith", "1.2"
_HEAD = 16  # bytes that tell what a file is
_JPEG2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_READ_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", *_JPEG2000)
_PORTABLE = re.compile(rb"P[1-6][ \t\r\n]+[0-9#]")
_TIFF = (b"II*\0", b"MM\0*")
_OTHER_STARTS = {
    (b"\x1aE\xdf\xa3", b"OggS", b"FLV\x01", b"\x30\x26\xb2\x75"): _VIDEO,
    (b"\0\0\x01\xba", b"\0\0\x01\xb3", b"G@\0", b"G@\x11"): _VIDEO,
    (b"FUJIFILM", b"FOVb", b"\0MRM", b"IIU\0", b"IIRO", b"IIRS", b"MMOR"): _RAW,
    (b"8BPS", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"II\xbc\x01", b"v/1\x01", b"gimp xcf"): _OTHER,
}
_VIDEO_BRANDS = (b"iso", b"mp4", b"avc", b"qt ", b"M4V", b"3gp", b"3g2", b"mmp", b"dash", b"XAVC")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
Parts = tuple[str, ...]
Handle = TypeVar("Handle")


def is_junk(parts: Iterable[str]) -> bool:
    """Whether a path is hidden, or lies in what a system keeps for itself; see ``JUNK``."""
    folded = (part.casefold() for part in parts)
    return any(part[0] == "." or part in JUNK or part.endswith(".lrdata") for part in folded)


def walk(top: Path) -> tuple[list[Parts], list[Parts], list[Skipped]]:
    """Files and folders below ``top``, links followed, without :func:`is_junk`.

    A folder that is there several times, by links, is read once, under its own name if that is
    there, else under the first.

    Returns:
        Files and folders, each by the parts of its path below ``top``; and the folders that could
        not be read, or are read elsewhere (links back to a folder they lie in left out).
    """
    files: list[Parts] = []
    folders: list[Parts] = []
    skipped: list[Skipped] = []
    seen: dict[tuple[int, int], str] = {}

    def unreadable(error: OSError) -> None:
        path = os.path.relpath(error.filename, top).replace(os.sep, "/")
        skipped.append(Skipped(path, f"a folder that cannot be read: {error.strerror or error}"))

    starts = [str(top)]
    for start in starts:  # which grows by the links met: they come after all real folders
        for folder, below, names in os.walk(start, onerror=unreadable):
            status = os.stat(folder)
            parts = Path(folder).relative_to(top).parts
            where = seen.setdefault((status.st_dev, status.st_ino), "/".join(parts))
            if where != "/".join(parts):
                below.clear()
                if where and not "/".join(parts).startswith(f"{where}/"):  # a loop hides nothing
                    reason = f"the same folder as {where}, which is read"
                    skipped.append(Skipped("/".join(parts), reason))
                continue
            kept = sorted(name for name in below if not is_junk((name,)))
            links = {name for name in kept if os.path.islink(os.path.join(folder, name))}
            starts += [os.path.join(folder, name) for name in sorted(links)]
            below[:] = [name for name in kept if name not in links]
            if parts:
                folders.append(parts)
            files += [(*parts, name) for name in names if not is_junk((name,))]
    return files, folders, skipped


def pick_pictures(
    files: Iterable[tuple[Parts, Handle]], head: Callable[[Handle], bytes]
) -> tuple[list[tuple[Parts, Handle]], list[Skipped]]:
    """The photographs among files, sorted by path; and those that are of no kind that is read.

    A file is known by its suffix; without one, or of one that nobody knows, by its first bytes:
    pictures of kinds that are read are, whatever they are called.

    Args:
        files: each by the parts of its path, and what finds it.
        head: the first ``_HEAD`` bytes of a file, or more; may raise anything.
    """
    photographs, skipped = [], []
    for parts, handle in sorted(files, key=lambda file: file[0]):
        suffix = os.path.splitext(parts[-1])[1].lower()
        reason = _READ if suffix in SUFFIXES else _NOT_READ.get(suffix)
        if reason is None and suffix not in _NO_PICTURES:
            reason = _judge_start(head, handle, bool(_PLAIN_SUFFIX.fullmatch(suffix)))
        if reason == _READ:
            photographs.append((parts, handle))
        elif reason is not None:
            skipped.append(Skipped("/".join(parts), reason))
    return photographs, skipped


def read_head(path: Path) -> bytes:
    """The first bytes of a regular file; of anything else none.

    Raises:
        OSError: it cannot be read, or is a link that leads nowhere.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
        return b""
    with open(path, "rb") as file:
        return file.read(_HEAD)


def _judge_start(head: Callable[[Handle], bytes], handle: Handle, suffix: bool) -> str | None:
    """``_READ``, or why a file is not read, by its first bytes; None: it is no picture.

    Args:
        suffix: it has one, of no known kind: a TIFF is likely to be a camera's raw photograph.
    """
    try:
        start = head(handle)
    except FileNotFoundError:
        return "a link that leads nowhere"
    except OSError as error:
        return f"a file that cannot be read: {error.strerror or error}"
    except Exception:  # it is encrypted or damaged: nobody says it is a picture
        return None
    if start.startswith(_TIFF):
        return _MAYBE_RAW if suffix else _READ
    if (
        start.startswith(_READ_STARTS)
        or _PORTABLE.match(start)
        or (start[:2] == b"BM" and start[6:10] == bytes(4))
        or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")
        or is_heif(start)
        or start[4:12] in (b"ftypavif", b"ftypavis")
    ):
        return _READ
    if start[4:11] == b"ftypcrx":
        return _RAW
    if start[4:8] == b"ftyp" and start[8:].startswith(_VIDEO_BRANDS):
        return _VIDEO
    if start[:4] == b"RIFF" and start[8:11] == b"AVI":
        return _VIDEO
    return next((why for starts, why in _OTHER_STARTS.items() if start.startswith(starts)), None)


def is_heif(start: bytes) -> bool:
    """Whether a file that starts so is a HEIC or HEIF photograph, as phones make them."""
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS
