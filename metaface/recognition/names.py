"""What may be a person's name."""

from __future__ import annotations

import logging
import re
import unicodedata

LONGEST = 200  # characters

# Cc, Cs: controls and lone surrogates; Zl, Zp: line separators. The others turn text around.
_REFUSED = {"Cc", "Cs", "Zl", "Zp"}
_TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Unicode's default-ignorable characters that are not of category Cf: fillers and selectors
_UNSEEN = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800),
    (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0000, 0xE0FFF),
)  # fmt: skip
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # they look like " "

log = logging.getLogger("metaface.recognition")


def person_name(text: str) -> str:
    """``text`` as the gallery knows it: in Unicode's normal form C, without space around it.

    So that "José" typed in two ways is one person, and so is a name with a space that does not
    break. Any script and any letter is welcome; what
    could garble a terminal or a CSV is not. Characters that nobody sees, by which two names that
    look alike could be two people, are taken out, and a warning says so.

    Raises:
        TypeError: not text.
        ValueError: nothing visible, more than 200 characters, or a control character; says which.
    """
    if not isinstance(text, str):
        raise TypeError(f"a person's name is text, and {text!r} is a {type(text).__name__}")
    for character in text.strip():
        if unicodedata.category(character) in _REFUSED or character in _TURNING:
            raise ValueError(
                f"the name {text[:LONGEST]!r} holds {character!r}, a control character"
            )
    seen = "".join(character for character in text if not _unseen(character))
    name = unicodedata.normalize("NFC", _SPACE.sub(" ", seen).strip())
    if not any(unicodedata.category(character)[0] not in "CZ" for character in name):
        raise ValueError(
            f"the name {text[:LONGEST]!r} has no visible character: give the person a name"
        )
    if len(name) > LONGEST:
        raise ValueError(f"the name {name[:20]!r}... has {len(name)} characters, {LONGEST} at most")
    if seen != text:
        log.warning("the name %r holds characters that nobody sees: it is taken as %r", text, name)
    return name


def folded(name: str) -> str:
    """What is left of a name without case, width and accents: equal of names easily mixed up."""
    apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold())
    plain = "".join(character for character in apart if not unicodedata.combining(character))
    return " ".join(plain.split()) or name


def _unseen(character: str) -> bool:
    code = ord(character)
    return unicodedata.category(character) == "Cf" or any(a <= code <= b for a, b in _UNSEEN)
