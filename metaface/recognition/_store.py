"""The SQLite file beneath a gallery: made whole or not at all, checked, locked, wiped.

Rollback journal in PERSIST mode: with ``synchronous=FULL`` a commit is on the disk when it
returns, and the journal's pages are overwritten in place by the next transaction, where DELETE
would hand blocks full of faces back to the file system. The journal is filled with zeros and
removed when content is deleted for good, and when the file is closed.

Never open the database file itself beside SQLite: closing it would drop SQLite's locks (POSIX).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metaface._text import given_path

MEMORY = ":memory:"
_APPLICATION = 0x4D466163  # "MFac" in the file's header, which `file` and SQLite can read
_FORMAT = 2  # 1 had no checksums; see _checksums
_PAGE = 8192  # at 4096, half a page would stay empty beside a 512-d embedding
_WAIT = 30.0  # seconds for another process's lock
_IN_MEMORY = 1 << 28  # up to this size, a rebuild leaves no temporary file on the disk

_TABLES = {
    "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "setting": "CREATE TABLE setting (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # AUTOINCREMENT: a forgotten person's number never becomes someone else's
    "person": "CREATE TABLE person (id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " name TEXT NOT NULL UNIQUE)",
    "face": "CREATE TABLE face (id INTEGER PRIMARY KEY AUTOINCREMENT,"
    " person INTEGER NOT NULL, embedding BLOB NOT NULL)",
    "face_person": "CREATE INDEX face_person ON face (person)",
    "crop": "CREATE TABLE crop (face INTEGER PRIMARY KEY, pixels BLOB NOT NULL)",
    "stranger": "CREATE TABLE stranger (id INTEGER PRIMARY KEY,"
    " person INTEGER NOT NULL, embedding BLOB NOT NULL, pixels BLOB)",
}

# What SQLite says (Python 3.10 has no error codes), our reason, and the remedy
_ERRORS = (
    ("locked", "gallery_busy", "another process kept it locked: try again when that is done"),
    ("disk is full", "gallery_full", "make room on its disk and try again"),
    ("readonly", "gallery_read_only", "make it and its folder writable, or work on a copy"),
    ("decode", "not_a_gallery", "it is damaged: take a backup"),
    ("malformed", "not_a_gallery", "it is truncated or damaged: take a backup"),
    ("not a database", "not_a_gallery", "give another name, or take a backup if it was one"),
    ("", "gallery_io", "look for a full or failing disk, and for the rights on its folder"),
)


class GalleryError(RuntimeError):
    """A gallery that cannot do what was asked; the message names the file and the remedy.

    ``reason`` is one of:

    - ``gallery_model_mismatch``: made by another embedding model;
    - ``not_a_gallery``: some other file, or a truncated or damaged gallery; it is left as it is;
    - ``gallery_newer``: written by a newer MetaFace;
    - ``unknown_person``: nobody of that name;
    - ``no_crops``: the gallery keeps no crops;
    - ``gallery_busy``: another process holds the lock;
    - ``gallery_full``, ``gallery_io``, ``gallery_read_only``: the disk is full, fails, or must
      not be written; the gallery is as it was before, unless the message says more.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Store:
    """One SQLite database with a gallery's tables, for any thread of this process.

    Args:
        path: the file, or ":memory:".
        fill: called with the connection of a new database, to write its first rows; None: the
            file must exist.
    """

    def __init__(
        self, path: str | Path, fill: Callable[[sqlite3.Connection], None] | None = None
    ) -> None:
        given_path(path, "the gallery")
        self.memory = os.fspath(path) == MEMORY
        # SQLite puts the journal beside what a link points to
        self.path = MEMORY if self.memory else os.path.realpath(Path(path).expanduser())
        self._lock = threading.RLock()
        if not self.memory and os.path.exists(self.path) and not os.path.isfile(self.path):
            raise GalleryError("not_a_gallery", f"{self.path} is not a file: give another name")
        if not self.memory and not os.path.exists(self.path):
            if fill is None:
                raise FileNotFoundError(
                    f"no gallery at {self.path}: make one with metaface enroll, or Recognizer.save"
                )
            _publish(self.path, lambda db: _make(db, fill), self._named)
        with self._named():
            self._db = _connect(self.path, create=False)
        try:
            with self._named():
                if self.memory and fill is not None:
                    _make(self._db, fill)
                self._check()
                self._db.execute("PRAGMA secure_delete = ON")
                self._db.execute("PRAGMA temp_store = MEMORY")
                mode = self._db.execute("PRAGMA journal_mode = PERSIST").fetchone()[0]
                if mode == "wal":  # someone else's doing, and it cannot be undone under readers
                    raise sqlite3.OperationalError("database is locked in WAL mode")
        except BaseException:
            self._db.close()
            raise

    def __del__(self) -> None:
        if hasattr(self, "_db"):
            with contextlib.suppress(Exception):
                self.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the database."""
        with self._lock, self._named(), _transaction(self._db, "BEGIN"):
            yield self._db

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk when it ends, or undone where an error ends it."""
        with self._lock, self._named(), _transaction(self._db, "BEGIN IMMEDIATE"):
            yield self._db

    def wipe(self) -> None:
        """Leave no trace of deleted content: rebuild the file if :func:`mark_unclean` says so.

        Deleted rows are overwritten with zeros at once (``secure_delete``), but SQLite moves
        rows between pages, and may have left copies of them in the unused part of a page. So the
        file is written afresh from the rows there are, and then the journal is zeroed.
        """
        with self._lock, self._named():
            found = self._db.execute("SELECT value FROM meta WHERE key = 'unclean'").fetchone()
            if found is None:
                return
            if not self.memory and os.stat(self.path).st_size > _IN_MEMORY:
                self._db.execute("PRAGMA temp_store = FILE")
            try:
                self._db.execute("VACUUM")
            finally:
                self._db.execute("PRAGMA temp_store = MEMORY")
            with _transaction(self._db, "BEGIN IMMEDIATE"):
                self._zero_journal()
                # unless another process deleted something in the meantime
                self._db.execute("DELETE FROM meta WHERE key = 'unclean' AND value = ?", found)

    def copy_into(self, path: str | Path, target: Store | None) -> None:
        """Copy every page to ``target``, or to a new file at ``path``; all of it or nothing."""

        def copy(db: _Connection) -> None:
            def waited(status: int, remaining: int, total: int) -> None:
                if remaining or status in (5, 6):  # SQLITE_BUSY, SQLITE_LOCKED: do not try for ever
                    raise sqlite3.OperationalError("database is locked")

            self._db.backup(db, progress=waited)

        with self._lock:
            if target is None:
                _publish(os.path.realpath(Path(path).expanduser()), copy, self._named)
            else:
                with target._lock, target._named():
                    copy(target._db)

    def close(self) -> None:
        """Close the file and remove its journal; further calls fail."""
        with self._lock:
            if not self.memory and os.path.exists(self._journal):
                # left to the other process where one is writing
                with contextlib.suppress(sqlite3.Error, OSError):
                    self._db.execute("PRAGMA busy_timeout = 0")
                    with _transaction(self._db, "BEGIN IMMEDIATE"):
                        self._zero_journal()
            self._db.close()

    @property
    def _journal(self) -> str:
        return f"{self.path}-journal"

    def _zero_journal(self) -> None:
        """Overwrite the journal with zeros and remove it.

        Call at the start of a write transaction: then nobody else can have begun one, no crash
        waits to be rolled back, and ours has not opened the journal yet.
        """
        if self.memory or not os.path.exists(self._journal):
            return
        with open(self._journal, "r+b", buffering=0) as file:
            left = os.fstat(file.fileno()).st_size
            while left > 0:
                left -= file.write(bytes(min(left, 1 << 20))) or 0
            os.fsync(file.fileno())
        with contextlib.suppress(PermissionError):  # Windows: SQLite may hold it open
            os.unlink(self._journal)

    def _check(self) -> None:
        """Refuse what is not a whole gallery, before anything is written to it."""
        with _transaction(self._db, "BEGIN") as db:
            if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
                raise GalleryError(
                    "not_a_gallery",
                    f"{self.path} is not a MetaFace gallery: give another name (it is left as it "
                    "is), or take a backup if it was one",
                )
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > _FORMAT:
                raise GalleryError(
                    "gallery_newer",
                    f"{self.path} has gallery format {version}, and this MetaFace reads format "
                    f"{_FORMAT}: update MetaFace",
                )
            tables = db.execute(
                "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            )
            if version < 1 or dict(tables.fetchall()) != _TABLES:
                raise sqlite3.DatabaseError("its tables are malformed")
            if not self.memory:
                pages = db.execute("PRAGMA page_count").fetchone()[0]
                size = db.execute("PRAGMA page_size").fetchone()[0]
                # SQLite itself reads a last page that is cut short as if it ended in zeros
                if os.stat(self.path).st_size < pages * size:
                    raise sqlite3.DatabaseError(f"malformed: it should have {pages * size} bytes")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """SQLite's errors, with the file's name, a reason and a remedy."""
        try:
            yield
        except UnicodeDecodeError as error:  # in a message about a damaged schema
            raise GalleryError(
                "not_a_gallery", f"gallery {self.path} is damaged: {error}; take a backup"
            ) from error
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.ProgrammingError | sqlite3.NotSupportedError):
                raise  # a mistake in our calls, such as using a closed gallery
            said = str(error)
            if type(error) not in (sqlite3.DatabaseError, sqlite3.OperationalError):
                said = f"malformed: {said}"  # rows that cannot be, such as two of one number
            reason, remedy = next((r, m) for text, r, m in _ERRORS if text in said)
            raise GalleryError(reason, f"gallery {self.path}: {said}; {remedy}") from error


def mark_unclean(db: sqlite3.Connection) -> None:
    """Note, in a transaction that deletes rows, that :meth:`Store.wipe` is due.

    Should the process die between the two, whoever opens the gallery next does it.
    """
    row = (secrets.token_hex(8),)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('unclean', ?)", row)


def upgrade(db: sqlite3.Connection) -> None:
    """Note, in a transaction that writes checksums, that they are there."""
    db.execute(f"PRAGMA user_version = {_FORMAT}")


class _Connection(sqlite3.Connection):
    """A connection that knows which of its queries were not read to their end.

    Such a query keeps SQLite's lock on the file, also after ROLLBACK and ``close``, until Python
    frees it; and an error's traceback can hold it for as long as the error is held.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._queries: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def execute(self, *args: Any) -> sqlite3.Cursor:
        cursor = super().execute(*args)
        self._queries.add(cursor)
        return cursor

    def end_queries(self) -> None:
        for cursor in list(self._queries):
            cursor.close()


@contextlib.contextmanager
def _transaction(db: _Connection, begin: str) -> Iterator[sqlite3.Connection]:
    db.execute(begin)
    try:
        yield db
        db.execute("COMMIT")
    except BaseException:
        db.end_queries()
        if db.in_transaction:  # SQLite has rolled back by itself after some errors
            db.execute("ROLLBACK")
        raise


def _connect(path: str, *, create: bool) -> _Connection:
    if path == MEMORY:
        target = path
    else:
        target = f"file://{quote(os.path.abspath(path))}?mode={'rwc' if create else 'rw'}"
    db = sqlite3.connect(
        target,
        uri=path != MEMORY,
        timeout=_WAIT,
        isolation_level=None,
        check_same_thread=False,
        factory=_Connection,
    )
    try:
        db.execute("PRAGMA trusted_schema = OFF")  # a file from elsewhere runs no functions
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def _make(db: _Connection, fill: Callable[[sqlite3.Connection], None]) -> None:
    db.execute(f"PRAGMA page_size = {_PAGE}")
    with _transaction(db, "BEGIN IMMEDIATE"):
        db.execute(f"PRAGMA application_id = {_APPLICATION}")
        db.execute(f"PRAGMA user_version = {_FORMAT}")
        for table in _TABLES.values():
            db.execute(table)
        fill(db)


def _publish(
    path: str,
    write: Callable[[_Connection], None],
    named: Callable[[], contextlib.AbstractContextManager[None]],
) -> None:
    """A database that ``write`` has filled, at ``path`` in one step, unless something is there."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no folder {folder}, in which to create {name}: make it first")
    handle, temporary = tempfile.mkstemp(prefix=f"{name}.", dir=folder)  # mode 0600
    os.close(handle)
    try:
        with named(), contextlib.closing(_connect(temporary, create=True)) as db:
            write(db)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # someone was faster
        except OSError:  # a file system without links
            if not os.path.exists(path):
                os.rename(temporary, path)
    finally:
        for left in (temporary, f"{temporary}-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)
    if os.name == "posix":  # the name must outlive a power cut, as the content does
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
