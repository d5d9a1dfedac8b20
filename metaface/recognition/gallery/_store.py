"""The SQLite file beneath a gallery: made whole or not at all, checked, locked, wiped.

Rollback journal in PERSIST mode: with ``synchronous=FULL`` a commit is on the disk when it
returns, and the journal's pages are overwritten in place by the next transaction, where DELETE
would hand blocks full of faces back to the file system. The journal is filled with zeros and
removed when content is deleted for good, and when the file is closed.

Never open the database file itself beside SQLite: closing it would drop SQLite's locks (POSIX).

A gallery that is made or copied is written in a folder beside its place, ``.metaface-gallery.*``,
locked for as long as its writer lives, and then takes its place in one step. What a killed writer
left is removed when the next gallery is opened or written in that place.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from metaface._text import given_path

try:
    import fcntl
except ImportError:  # Windows: what a killed process left lies there until it is removed by hand
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("metaface.recognition")

MEMORY = ":memory:"
_APPLICATION = 0x4D466163  # "MFac" in the file's header, which `file` and SQLite can read
_FORMAT = 2  # 1 had no checksums; see _checksums
_PAGE = 8192  # at 4096, half a page would stay empty beside a 512-d embedding
_WAIT = 30.0  # seconds for another process's lock
_IN_MEMORY = 1 << 28  # up to this size, a rebuild leaves no temporary file on the disk
_TEMPORARY = ".metaface-gallery."

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
    - ``gallery_closed``: it is used after it was closed;
    - ``gallery_gone``: the file was deleted or moved while it was open;
    - ``gallery_full``, ``gallery_io``, ``gallery_read_only``: the disk is full, fails, or must
      not be written; the gallery is as it was before, unless the message says more.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Store:
    """One SQLite database with a gallery's tables, for any thread of this process.

    Where another file takes the name of the one that is open, that is gone on with.

    Args:
        path: the file, or ":memory:".
        fill: called with the connection of a new database, to write its first rows; None: the
            file must exist.
    """

    def __init__(
        self, path: str | Path, fill: Callable[[sqlite3.Connection], None] | None = None
    ) -> None:
        given_path(path, "the gallery")
        self._lock = threading.RLock()
        if os.fspath(path) == MEMORY:
            self._open(MEMORY, fill)
            return
        given = os.path.abspath(Path(path).expanduser())
        # SQLite puts the journal beside what a link points to
        real = os.path.realpath(given)
        if os.path.exists(real) and not os.path.isfile(real):
            raise GalleryError("not_a_gallery", f"{real} is not a file: give another name")
        _sweep(os.path.dirname(real))
        if not os.path.exists(real):
            if fill is None:
                raise FileNotFoundError(
                    f"no gallery at {real}: make one with metaface enroll, or Recognizer.save"
                )
            _publish(real, lambda db: _make(db, fill))
        self._open(given)

    @property
    def memory(self) -> bool:
        """Whether it is in memory, and no file."""
        return self.path == MEMORY

    def _open(self, given: str, fill: Callable[[sqlite3.Connection], None] | None = None) -> None:
        """Go on with the database at ``given``; on an error, with the one before."""
        path = MEMORY if given == MEMORY else os.path.realpath(given)
        with _named(path):
            while True:
                file = None if given == MEMORY else _identity(given)
                db = _connect(path, create=False)
                if given == MEMORY or file == _identity(given):
                    break
                db.close()
                path = os.path.realpath(given)
            try:
                if fill is not None:
                    _make(db, fill)
                _check(db, path)
                db.execute("PRAGMA secure_delete = ON")
                db.execute("PRAGMA temp_store = MEMORY")
                mode = db.execute("PRAGMA journal_mode = PERSIST").fetchone()[0]
                if mode == "wal":  # someone else's doing, and it cannot be undone under readers
                    raise sqlite3.OperationalError("database is locked in WAL mode")
            except BaseException:
                db.close()
                raise
        self._db, self.path, self._given, self._file = db, path, given, file

    def _follow(self) -> None:
        """Go on with the file that has the gallery's name now, where it is another one."""
        if self.memory:
            return
        old = self._db
        try:
            if _identity(self._given) == self._file:
                return
            self._open(self._given)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise GalleryError(
                "gallery_gone",
                f"gallery {self.path} was deleted or moved while it was open: put it back, or "
                "open another",
            ) from error
        except OSError as error:
            raise GalleryError("gallery_io", f"gallery {self.path}: {error}") from error
        log.warning("gallery %s was replaced by another file, which is used now", self.path)
        old.close()  # and not its journal, whose name is the new file's now

    def go_on_with(self, path: str | Path) -> None:
        """Close this file, as :meth:`close` does, and go on with another."""
        with self._lock:
            old, journal = self._db, self._own_journal()
            self._open(os.path.abspath(Path(path).expanduser()))
            _finish(old, journal)

    def __del__(self) -> None:
        if hasattr(self, "_db"):
            with contextlib.suppress(Exception):
                self.close()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the database; within another, a part of it."""
        with self._within("BEGIN") as db:
            yield db

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other thread of this process uses it in the block."""
        with self._lock:
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk when it ends, or undone where an error ends it; within
        another, a part of it."""
        with self._within("BEGIN IMMEDIATE") as db:
            yield db

    @contextlib.contextmanager
    def _within(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, _named(self.path):
            if self._db.in_transaction:
                yield self._db
                return
            self._follow()
            with _transaction(self._db, begin):
                yield self._db

    def wipe(self) -> None:
        """Leave no trace of deleted content: rebuild the file if :func:`mark_unclean` says so.

        Deleted rows are overwritten with zeros at once (``secure_delete``), but SQLite moves
        rows between pages, and may have left copies of them in the unused part of a page. So the
        file is written afresh from the rows there are, and then the journal is zeroed.
        """
        with self._lock, _named(self.path):
            self._follow()
            marks = self._db.execute("SELECT value FROM meta WHERE key = 'unclean'").fetchone()
            if marks is None:
                return
            if not self.memory and os.stat(self.path).st_size > _IN_MEMORY:
                self._db.execute("PRAGMA temp_store = FILE")
            try:
                self._db.execute("VACUUM")
            finally:
                self._db.execute("PRAGMA temp_store = MEMORY")
            with _transaction(self._db, "BEGIN IMMEDIATE"):
                if not self.memory:
                    _zero(self._journal)
                # unless another process deleted something in the meantime
                self._db.execute("DELETE FROM meta WHERE key = 'unclean' AND value = ?", marks)

    def copy_into(self, path: str | Path, target: Store | None) -> None:
        """Copy every page to ``target``, or to a new file at ``path``; all of it or nothing."""

        def copy(db: _Connection) -> None:
            def waited(status: int, remaining: int, total: int) -> None:
                if remaining or status in (5, 6):  # SQLITE_BUSY, SQLITE_LOCKED: do not try for ever
                    raise sqlite3.OperationalError("database is locked")

            self._db.backup(db, progress=waited)

        with self._lock:
            with _named(self.path):
                self._follow()
            if target is None:
                _publish(os.path.realpath(Path(path).expanduser()), copy)
            else:
                with target._lock, _named(target.path):
                    copy(target._db)

    def close(self) -> None:
        """Close the file and remove its journal; further calls fail."""
        with self._lock:
            _finish(self._db, self._own_journal())

    @property
    def _journal(self) -> str:
        return f"{self.path}-journal"

    def _own_journal(self) -> str | None:
        """The journal, unless it is that of another file, which has taken this one's name."""
        try:
            own = not self.memory and _identity(self._given) == self._file
        except FileNotFoundError:  # it was deleted or moved, and the journal was left
            own = True
        except OSError:
            own = False
        return self._journal if own else None


def _identity(path: str) -> tuple[int, int]:
    """Which file lies at ``path``, beyond its name; no other has the same while it is open."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _finish(db: _Connection, journal: str | None) -> None:
    """Close a database and remove its journal, if any."""
    if journal is not None and os.path.exists(journal):
        # left to the other process where one is writing
        with contextlib.suppress(sqlite3.Error, OSError):
            db.execute("PRAGMA busy_timeout = 0")
            # to a file without its name SQLite writes no more, in any process
            gone = not os.path.exists(journal.removesuffix("-journal"))
            with contextlib.nullcontext() if gone else _transaction(db, "BEGIN IMMEDIATE"):
                _zero(journal)
    db.close()


def _zero(journal: str) -> None:
    """Overwrite the journal with zeros and remove it.

    Call at the start of a write transaction: then nobody else can have begun one, no crash
    waits to be rolled back, and ours has not opened the journal yet.
    """
    if not os.path.exists(journal):
        return
    with open(journal, "r+b", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 20))) or 0
        os.fsync(file.fileno())
    with contextlib.suppress(PermissionError):  # Windows: SQLite may hold it open
        os.unlink(journal)


def _check(opened: _Connection, path: str) -> None:
    """Refuse what is not a whole gallery, before anything is written to it."""
    with _transaction(opened, "BEGIN") as db:
        if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise GalleryError(
                "not_a_gallery",
                f"{path} is not a MetaFace gallery: give another name (it is left as it "
                "is), or take a backup if it was one",
            )
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > _FORMAT:
            raise GalleryError(
                "gallery_newer",
                f"{path} has gallery format {version}, and this MetaFace reads format "
                f"{_FORMAT}: update MetaFace",
            )
        tables = db.execute(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
        if version < 1 or dict(tables.fetchall()) != _TABLES:
            raise sqlite3.DatabaseError("its tables are malformed")
        if path != MEMORY:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            size = db.execute("PRAGMA page_size").fetchone()[0]
            # SQLite itself reads a last page that is cut short as if it ended in zeros
            if os.stat(path).st_size < pages * size:
                raise sqlite3.DatabaseError(f"malformed: it should have {pages * size} bytes")


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """SQLite's errors, with the file's name, a reason and a remedy."""
    try:
        yield
    except UnicodeDecodeError as error:  # in a message about a damaged schema
        raise GalleryError(
            "not_a_gallery", f"gallery {path} is damaged: {error}; take a backup"
        ) from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
            raise GalleryError(
                "gallery_closed", f"gallery {path} was closed: open it again"
            ) from error
        if isinstance(error, sqlite3.ProgrammingError | sqlite3.NotSupportedError):
            raise  # a mistake in our calls
        said = str(error)
        if type(error) not in (sqlite3.DatabaseError, sqlite3.OperationalError):
            said = f"malformed: {said}"  # rows that cannot be, such as two of one number
        reason, remedy = next((r, m) for text, r, m in _ERRORS if text in said)
        raise GalleryError(reason, f"gallery {path}: {said}; {remedy}") from error


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


def _publish(path: str, write: Callable[[_Connection], None]) -> None:
    """A database that ``write`` has filled, at ``path`` in one step, unless something is there."""
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"no folder {folder}, in which to create {name}: make it first")
    with _temporary(folder) as temporary:
        with _named(path), contextlib.closing(_connect(temporary, create=False)) as db:
            write(db)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass  # someone was faster
        except OSError:  # a file system without links
            if not os.path.exists(path):
                os.rename(temporary, path)
    if os.name == "posix":  # the name must outlive a power cut, as the content does
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextlib.contextmanager
def _temporary(folder: str) -> Iterator[str]:
    """An empty file in a new folder in ``folder``, which is removed at the end of the block."""
    _sweep(folder)
    while True:
        made = tempfile.mkdtemp(prefix=_TEMPORARY, suffix=".part", dir=folder)  # mode 0700
        lock = _locked(made)
        if os.path.exists(made):  # not swept away between its creation and the lock
            break
        if lock is not None:
            os.close(lock)
    try:
        temporary = os.path.join(made, "gallery")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        yield temporary
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _sweep(folder: str) -> None:
    """Remove what killed processes left in ``folder``."""
    left: list[str] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [entry.path for entry in entries if entry.name.startswith(_TEMPORARY)]
    for made in left:
        lock = _locked(made, wait=False)
        if lock is not None:
            shutil.rmtree(made, ignore_errors=True)
            os.close(lock)


def _locked(folder: str, wait: bool = True) -> int | None:
    """A lock on a folder, to be closed, which ends with the process; None: there is none."""
    if not fcntl:
        return None
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return handle
    except OSError:  # held by a living writer; or some network file systems have no locks
        if handle is not None:
            os.close(handle)
        return None
