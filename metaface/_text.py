"""Names, labels and paths from outside, on their way to a terminal, a CSV or a file's name."""

from __future__ import annotations

import os
import re
import unicodedata
from hashlib import blake2b
from pathlib import Path

_LONGEST = 180  # bytes of a file's name; most file systems end at 255, and a suffix may come
# what no file system, or not every one, takes in a name; % where it could be one of our escapes
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*\ud800-\udfff]|%(?=[0-9A-Fa-f]{2})')
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)

TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""characters that turn the text after them around; whoever shows or stores a name refuses them"""
# Unicode's default-ignorable characters that are not of category Cf: fillers and selectors
_UNSEEN = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xE0000, 0xE0FFF),
)
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # they look like " "


def same_name(name: str) -> str:
    """The one form of a name that can be written in several: what compares people by name, or
    stores one, takes this.

    Unicode's normal form C ("José" typed in two ways is one), plain spaces and none around it,
    without characters that nobody sees. A name of which nothing would be left stays as it is.
    """
    name = str.__str__(name)  # numpy's text, or an enumeration's, is no other name
    if name.isascii() and name.isprintable() and name == name.strip():
        return name  # nearly all are
    return unicodedata.normalize("NFC", _SPACE.sub(" ", without_unseen(name)).strip()) or name


def without_unseen(text: str) -> str:
    """``text`` without the characters that nobody sees."""
    return "".join(c for c in text if not _unseen(c))


def _unseen(character: str) -> bool:
    code = ord(character)
    if character in TURNING:
        return False
    return unicodedata.category(character) == "Cf" or any(a <= code <= b for a, b in _UNSEEN)


def folded(name: str) -> str:
    """What is left of a name without case, width and accents: equal of names easily mixed up."""
    if name.isascii():
        return " ".join(name.casefold().split()) or name
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    plain = "".join(character for character in apart if not unicodedata.combining(character))
    return " ".join(plain.split()) or name


def printable(text: object, keep: str = "") -> str:
    """``text`` as it can be shown anywhere: what no terminal prints (controls, half characters,
    marks that nobody sees) as escapes, such as ``\\x1b``.

    Args:
        text: its ``str`` is taken.
        keep: characters to leave as they are, such as the newline of a message.
    """
    return "".join(
        c
        if c.isprintable() or c in keep or unicodedata.category(c) == "Zs"
        else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def cell(text: str | None) -> str:
    """:func:`printable` as a cell of a CSV. A spreadsheet would take some texts for formulas:
    an apostrophe goes before those."""
    shown = printable(text or "")
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def file_name(label: str) -> str:
    """A file's name for ``label``: other names for other labels, and never a path.

    Most labels stay as they are. What cannot be in a file's name everywhere, and a dot at its
    beginning or end, becomes ``%`` and two hex digits a byte of UTF-8, as in addresses; a very
    long name is cut, and ends in a digest.
    """
    name = _UNSAFE.sub(lambda found: _escaped(found[0]), label)
    if not name:
        return "%FF"  # which no label becomes: UTF-8 has no such byte
    if name[0] == "." or _DEVICE.match(name):
        name = _escaped(name[0]) + name[1:]
    if name[-1] in ". ":
        name = name[:-1] + _escaped(name[-1])
    if len(name.encode()) > _LONGEST:
        digest = blake2b(label.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        name = f"{name.encode()[:_LONGEST].decode(errors='ignore')}~{digest}"
    return name


class FileNames:
    """The names of the files of one folder: each another one, on any file system.

    Some take ``a`` for ``A``, or an accent in one character for one in two.
    """

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def new(self, label: str, suffix: str = "") -> str:
        """:func:`file_name` of ``label``, and ``suffix``; with a number, if that was given out."""
        stem = file_name(label)
        name = stem + suffix
        first = _folded(name)
        number = self._taken.get(first, 1)
        while _folded(name) in self._taken:
            number += 1
            name = f"{stem}~{number}{suffix}"
        self._taken[first] = number
        self._taken.setdefault(_folded(name), 1)
        return name


def given_path(path: str | os.PathLike[str], what: str) -> Path:
    """``path`` as a Path; for an empty text, that would be the current folder.

    Args:
        path: what somebody gave.
        what: what it is of, for the message.

    Raises:
        ValueError: it is empty.
        TypeError: it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"the path of {what} must be text or a Path, got {path!r}")
    if not os.fspath(path):
        raise ValueError(f"the path of {what} is empty; write . for the current folder")
    return Path(path)


def _escaped(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
