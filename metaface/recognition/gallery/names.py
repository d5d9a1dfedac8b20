"""What may be a person's name."""

from __future__ import annotations

import logging
import unicodedata

from metaface._text import TURNING, same_name, without_unseen

LONGEST = 200  # characters
UNKNOWN = "unknown"  # who is not enrolled

# Cc, Cs: controls and lone surrogates; Zl, Zp: line separators
_REFUSED = {"Cc", "Cs", "Zl", "Zp"}

log = logging.getLogger("metaface.recognition")


def person_name(text: str) -> str:
    """``text`` as the gallery knows it: :func:`metaface._text.same_name` of it.

    Any script and any letter is welcome; what could garble a terminal or a CSV is not. Characters
    that nobody sees, by which two names that look alike could be two people, are taken out, and a
    warning says so.

    Raises:
        TypeError: not text.
        ValueError: nothing visible, more than 200 characters, a control character, or "unknown";
            says which.
    """
    if not isinstance(text, str):
        raise TypeError(f"a person's name is text, and {text!r} is a {type(text).__name__}")
    for character in text.strip():
        if unicodedata.category(character) in _REFUSED or character in TURNING:
            raise ValueError(
                f"the name {text[:LONGEST]!r} holds {character!r}, a control character"
            )
    name = same_name(text)
    if not any(unicodedata.category(character)[0] not in "CZ" for character in name):
        raise ValueError(
            f"the name {text[:LONGEST]!r} has no visible character: give the person a name"
        )
    if unicodedata.normalize("NFKC", name).casefold() == UNKNOWN:  # wide letters, too
        raise ValueError(
            f"the name {text[:LONGEST]!r} is what everybody who is not enrolled is called: give "
            "the person another"
        )
    if len(name) > LONGEST:
        raise ValueError(f"the name {name[:20]!r}... has {len(name)} characters, {LONGEST} at most")
    if without_unseen(text) != text:
        log.warning("the name %r holds characters that nobody sees: it is taken as %r", text, name)
    return name
