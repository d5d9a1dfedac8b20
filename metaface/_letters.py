"""Texts on pictures, in a font that has their letters."""

from __future__ import annotations

import logging
import unicodedata
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from PIL import ImageFont, features

from metaface._text import printable

# matplotlib's own is there on every machine: Latin, Greek, Cyrillic, Arabic, Hebrew and more
_FIRST = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")

log = logging.getLogger("metaface")


def drawable(text: str, instead: str) -> str:
    """What to draw for ``text``: itself or, where no font here has its letters, ``instead``, which
    is said in a warning."""
    shown = printable(text)
    if _path(shown):
        return shown
    log.warning("%r is drawn as %s: no font on this machine has its letters", shown, instead)
    return instead


def font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """The font to draw what :func:`drawable` gave, ``size`` pixels high."""
    return ImageFont.truetype(_path(text) or _FIRST, size)


def in_first(text: str) -> bool:
    """Whether matplotlib's own font has every letter of ``text``."""
    return _needed(text) <= _read_letters(_FIRST)


def _path(text: str) -> str | None:
    """The file of the first font that can draw ``text``."""
    if not _shapes() and any(
        unicodedata.bidirectional(c) in ("R", "AL") or unicodedata.category(c)[0] == "M"
        for c in text
    ):
        return None  # its letters would stand apart, or run backwards
    needed = _needed(text)
    if needed <= _read_letters(_FIRST):
        return _FIRST
    return next((path for path in _system_fonts() if needed <= _read_letters(path)), None)


def _needed(text: str) -> frozenset[int]:
    return frozenset(ord(c) for c in text if not c.isspace())


def _shapes() -> bool:
    """Whether Pillow joins letters and turns the direction of scripts that need it."""
    return bool(features.check("raqm"))


@cache
def _system_fonts() -> tuple[str, ...]:
    found = [p for p in findSystemFonts() if "lastresort" not in p.lower()]  # draws boxes for all
    return tuple(sorted(found, key=lambda p: ("regular" not in p.lower(), p)))


@cache
def _read_letters(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # no font that FreeType reads
        return frozenset()
