"""Checksums of a gallery's tables, kept in the transactions that change them.

A table's checksum is the sum, modulo 2^64, of a hash of each row, so that rows can be added to it
and taken from it: another row, one lost and one too many give another sum. What is read is compared
with it. It notices damage; it is no proof against somebody who can write the file.

A gallery of format 1 has none, and gets them with the first change.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

SUMS = "sums"  # the key in the table meta
_BY_ROW = {
    "person": "SELECT id, name FROM person NOT INDEXED ORDER BY id",
    "crop": "SELECT face, pixels FROM crop ORDER BY face",
    "stranger": "SELECT id, person, embedding FROM stranger ORDER BY id",
    "stranger_crop": "SELECT id, pixels FROM stranger ORDER BY id",
    "setting": "SELECT key, value FROM setting",
    "sequence": "SELECT name, seq FROM sqlite_sequence",
}
_FACES = "SELECT id, person FROM face NOT INDEXED ORDER BY id"
_EMBEDDINGS = "SELECT id, embedding FROM face NOT INDEXED ORDER BY id"
TABLES = (*_BY_ROW, "face", "embedding")
_META = {"model", "model_name", "dim", "keep_crops", "revision"}
_PASSING = {"unclean"}  # meta without a checksum: see Store.wipe
_ALL = (1 << 64) - 1


class Damaged(ValueError):
    """Content that nobody wrote; the message says where."""


def of_row(row: list[Any] | tuple[Any, ...]) -> int:
    """A hash of one row's values and their types, 0..2^64-1."""
    if any(isinstance(v, str) and type(v) is not str for v in row):
        # as it comes back: text of numpy, or of an enumeration, is stored as text
        row = type(row)(str.__str__(v) if isinstance(v, str) else v for v in row)
    blobs = [value for value in row if isinstance(value, bytes)]
    kept = tuple((len(v),) if isinstance(v, bytes) else v for v in row) if blobs else row
    # ascii, since what repr escapes depends on Python's version
    return _of_bytes(b"".join((ascii(kept).encode(), *blobs)))


def of_rows(rows: Iterable[tuple[Any, ...]]) -> int:
    """The checksum of rows, in any order."""
    return sum(map(of_row, rows)) & _ALL


def of_faces(ids: Sequence[int] | np.ndarray, person: Sequence[int] | np.ndarray) -> int:
    """The checksum of whose each face is: ``ids`` and ``person`` are int64 ``[M]``."""
    mixed = _mix(_mix(np.asarray(ids, np.int64)) ^ np.asarray(person, np.int64).view(np.uint64))
    return int(mixed.sum(dtype=np.uint64))


def of_embeddings(ids: Iterable[int], embeddings: Iterable[bytes]) -> int:
    """The checksum of faces' embeddings, by their faces' ids."""
    rows = zip(ids, embeddings, strict=True)
    return sum(_of_bytes(b"%d;%b" % row) for row in rows) & _ALL


def of_table(db: sqlite3.Connection, table: str) -> int:
    """The checksum of a table as it is."""
    if table == "face":
        pairs = np.array(db.execute(_FACES).fetchall(), np.int64).reshape(-1, 2)
        return of_faces(pairs[:, 0], pairs[:, 1])
    if table == "embedding":
        return sum(of_embeddings([row[0]], [row[1]]) for row in db.execute(_EMBEDDINGS)) & _ALL
    return of_rows(db.execute(_BY_ROW[table]))


def of_all(db: sqlite3.Connection) -> dict[str, int]:
    """The checksums of all tables as they are."""
    return {table: of_table(db, table) for table in TABLES}


def read(db: sqlite3.Connection) -> dict[str, int] | None:
    """The checksums there are, themselves checked; None in a gallery of format 1.

    Raises:
        Damaged: they, or the rest of the table meta, are not as they were written.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    missing = _META - meta.keys()
    if missing:
        raise Damaged(f"it does not say its {', '.join(sorted(missing))}")
    text = meta.pop(SUMS, None)
    if version == 1 and text is None:
        return None
    try:
        held = json.loads(text)
        whole = held.pop("all")
        sums = {table: int(held[table], 16) for table in TABLES}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damaged("its checksums are missing or cannot be read") from error
    if version == 1 or meta.keys() - _META - _PASSING or whole != _whole(meta, sums):
        raise Damaged("its settings do not fit their checksum")
    return sums


def write(db: sqlite3.Connection, sums: dict[str, int]) -> None:
    """Keep the checksums of tables and, with them, that of meta as it is now."""
    meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
    held = {table: f"{sums[table] & _ALL:016x}" for table in TABLES}
    text = json.dumps(held | {"all": _whole(meta, sums)})
    db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (SUMS, text))


def check(sums: dict[str, int] | None, table: str, actual: int) -> None:
    """Compare what a table holds with what was written.

    Raises:
        Damaged: they differ.
    """
    if sums is not None and sums[table] != actual:
        raise Damaged(f"its {_WORDS[table]} do not fit their checksum")


def check_ascending(ids: np.ndarray) -> None:
    """Check the order of ids, which a damaged tree may have mixed up.

    Raises:
        Damaged: they do not ascend.
    """
    if (np.diff(ids) <= 0).any():
        raise Damaged("its rows are out of order")


_WORDS = {
    "person": "people",
    "face": "faces' people",
    "embedding": "embeddings",
    "crop": "crops",
    "stranger": "strangers",
    "stranger_crop": "strangers' crops",
    "setting": "settings",
    "sequence": "numbers to come",
}


def _whole(meta: dict[str, Any], sums: dict[str, int]) -> str:
    row = [*(meta[key] for key in sorted(_META)), *(sums[table] & _ALL for table in TABLES)]
    return f"{of_row(row):016x}"


def _of_bytes(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def _mix(values: np.ndarray) -> np.ndarray:
    """A hash of each value, uint64 (splitmix64: Steele, Lea and Flood 2014)."""
    z = values.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed
