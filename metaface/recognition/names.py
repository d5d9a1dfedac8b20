"""What may be a person's name."""

from __future__ import annotations

import unicodedata

LONGEST = 200  # characters

# Cc, Cs: controls and lone surrogates; Zl, Zp: line separators. The others turn text around.
_REFUSED = {"Cc", "Cs", "Zl", "Zp"}
_TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def person_name(text: str) -> str:
    """``text`` as the gallery knows it: in Unicode's normal form C, without space around it.

    So that "José" typed in two ways is one person. Any script and any letter is welcome; what
    could garble a terminal or a CSV is not.

    Raises:
        TypeError: not text.
        ValueError: nothing visible, more than 200 characters, or a control character; says which.
    """
    if not isinstance(text, str):
        raise TypeError(f"a person's name is text, and {text!r} is a {type(text).__name__}")
    for character in text.strip():
        if unicodedata.category(character) in _REFUSED or character in _TURNING:
            raise ValueError(f"the name {text!r} holds {character!r}, a control character")
    name = unicodedata.normalize("NFC", text.strip())
    if not any(unicodedata.category(character)[0] not in "CZ" for character in name):
        raise ValueError(f"the name {text!r} has no visible character: give the person a name")
    if len(name) > LONGEST:
        raise ValueError(f"the name {name[:20]!r}... has {len(name)} characters, {LONGEST} at most")
    return name
