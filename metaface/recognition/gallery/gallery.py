"""The gallery: the people who are known, in one SQLite file."""

from __future__ import annotations

import json
import logging
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metaface._text import printable
from metaface.recognition.gallery import _checksums
from metaface.recognition.gallery._store import MEMORY, GalleryError, Store, mark_unclean, upgrade
from metaface.recognition.gallery.names import person_name

__all__ = ["CROP", "Enrolled", "Gallery", "GalleryError"]

CROP = (112, 112, 3)
_ROWS = 4096  # read at a time: embeddings, of 512 to 2048 bytes
_CROPS = 64  # and crops, of 37 kB
_UNIT = 1e-3  # how far an embedding's length may be from one

log = logging.getLogger("metaface.recognition")


@dataclass(frozen=True)
class Enrolled:
    """Everyone in a gallery, at one moment; M faces of P people, in order of enrolment.

    Attributes:
        names: the P people.
        person: int64 ``[M]``, whose face each is, as an index into ``names``.
        embeddings: float32 ``[M, D]``, unit length.
        ids: int64 ``[M]``, ascending; an id is never used again, even when its face is forgotten.
        people: int64 ``[P]``, ascending: the people's own ids, never used again either.
    """

    names: tuple[str, ...]
    person: np.ndarray
    embeddings: np.ndarray
    ids: np.ndarray
    people: np.ndarray


class Gallery:
    """People and the embeddings of their faces, in one SQLite file that only its owner can read.

    Each change is one transaction, on the disk when the call returns: a kill at any moment leaves
    the gallery as it was before or as it is after. Several processes, and several threads of one,
    may use one gallery at once; a fork must open its own. Creating a gallery is one step too: an
    empty file, like any other foreign file, is refused. Where another gallery of the same model
    takes the file's name, that is used from the next call on, with a warning.

    Args:
        path: the file, created where there is none, or ":memory:".
        model: digest of the embedding model (``Embedder.digest``), to which the gallery is pinned.
        model_name: that model's name, for messages.
        dim: D, the number of values of an embedding.
        keep_crops: whether a gallery that is created keeps the aligned faces beside their
            embeddings (None: no). A gallery that exists has decided, and None takes what it says.

    Raises:
        GalleryError: ``gallery_model_mismatch``, ``not_a_gallery``, ``gallery_newer``, or the
            file cannot be read; see there. Any method may raise ``gallery_busy`` after 30 seconds,
            ``gallery_gone`` and ``gallery_io``, and those that write ``gallery_full`` and
            ``gallery_read_only``.
        OSError: no such folder, or no right to create a file there.
        ValueError: ``keep_crops`` is not what the gallery was created with, or ``dim`` is not
            positive.

    Example:
        >>> import numpy as np
        >>> from metaface.recognition import Gallery
        >>> gallery = Gallery("office.gallery", model="1f0c", model_name="toy", dim=8)
        >>> gallery.add("Ana", np.eye(2, 8, dtype=np.float32))
        >>> gallery.people(), gallery.enrolled().embeddings.shape
        ({'Ana': 2}, (2, 8))
        >>> gallery.forget("Ana"), gallery.people()
        (2, {})
        >>> gallery.close()
    """

    def __init__(
        self,
        path: str | Path = MEMORY,
        *,
        model: str,
        model_name: str,
        dim: int,
        keep_crops: bool | None = None,
    ) -> None:
        if dim < 1:
            raise ValueError(f"dim={dim}: an embedding has at least one value")

        def fill(db: sqlite3.Connection) -> None:
            rows = {
                "model": model,
                "model_name": model_name,
                "dim": int(dim),
                "keep_crops": int(bool(keep_crops)),
                "revision": _revision(),
            }
            db.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
            _checksums.write(db, _checksums.of_all(db))

        self._start(Store(path, fill))
        try:
            if (self.model, self.dim) != (model, dim):
                raise GalleryError(
                    "gallery_model_mismatch",
                    f"gallery {self.path} was made by {self.model_name!r} ({self.model[:12]}, "
                    f"{self.dim} values a face), not by {model_name!r} ({model[:12]}, {dim}): "
                    "their embeddings cannot be compared. Use the model that made it, or enrol "
                    "everyone again into a new gallery",
                )
            if keep_crops is not None and keep_crops != self.keep_crops:
                raise ValueError(
                    f"gallery {self.path} was created with keep_crops={self.keep_crops}, which "
                    f"cannot become {keep_crops}: leave it out, or create a new gallery"
                )
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, path: str | Path) -> Gallery:
        """The gallery at ``path``, whatever model made it: to list or forget people without it.

        Raises:
            FileNotFoundError: there is none.
            GalleryError: as the class says.
        """
        gallery = cls.__new__(cls)
        gallery._start(Store(path))
        return gallery

    def _start(self, store: Store) -> None:
        self._store = store
        self._known: int | None = None  # the revision whose people were last compared
        self._seen: sqlite3.Connection | None = None  # the file that was last used
        self.files = 0  # how many it was so far, one replaced by the other
        try:
            with self._reading():  # which learns the model
                pass
            try:
                store.wipe()  # where whoever forgot someone was killed half-way
            except GalleryError as error:
                log.warning("traces of deleted faces may remain for now: %s", error)
        except BaseException:
            store.close()
            raise

    @property
    def path(self) -> str:
        """The file, or ":memory:"."""
        return self._store.path

    @property
    def revision(self) -> int:
        """A number that is another one after every committed change of people or strangers, also
        by another process; drawn at random, so that equal numbers mean equal content."""
        return int(self._meta("revision"))

    @property
    def keep_crops(self) -> bool:
        """Whether crops are kept beside the embeddings."""
        return bool(self._meta("keep_crops"))

    def add(self, name: str, embeddings: np.ndarray, crops: np.ndarray | None = None) -> None:
        """Enrol photographs of a person, new or known: all of them, or on an error none.

        Args:
            name: see :func:`metaface.recognition.gallery.names.person_name`.
            embeddings: float32 ``[k, D]``, unit length, k at least 1.
            crops: uint8 ``[k, 112, 112, 3]`` RGB, kept only where the gallery keeps crops, and
                needed there.

        Raises:
            TypeError, ValueError: a name or an array that cannot be one; says which.
            GalleryError: as the class says; nothing was enrolled.
        """
        name = person_name(name)
        vectors = self._check_embeddings(embeddings)
        if not len(vectors):
            raise ValueError(f"no embedding for {name!r}: enrol at least one photograph")
        pixels = self._pixels(crops, len(vectors), repr(name))
        with self._changing() as (db, sums):
            new = db.execute("INSERT OR IGNORE INTO person (name) VALUES (?)", (name,)).rowcount
            person = db.execute("SELECT id FROM person WHERE name = ?", (name,)).fetchone()[0]
            if new:
                sums["person"] += _checksums.of_row((person, name))
            for vector, crop in zip(vectors, pixels, strict=True):
                data = vector.tobytes()
                face = db.execute(
                    "INSERT INTO face (person, embedding) VALUES (?, ?)", (person, data)
                ).lastrowid
                assert face is not None
                sums["face"] += _checksums.of_faces([face], [person])
                sums["embedding"] += _checksums.of_embeddings([face], [data])
                if crop is not None:
                    db.execute("INSERT INTO crop VALUES (?, ?)", (face, crop))
                    sums["crop"] += _checksums.of_row((face, crop))

    def forget(self, name: str) -> int:
        """Delete a person: name, embeddings and crops, leaving no trace of them in the file.

        The file is rebuilt without them, which reads and writes all of it (docs/gallery.md has
        the time and the limits). Where that cannot be done, the person is forgotten all the same,
        and the next ``forget``, or whoever opens the gallery next, rebuilds it.

        Args:
            name: as it was enrolled or, where another program wrote it in a way that
                :func:`person_name` refuses, as it is stored or as
                ``metaface people`` lists it.

        Returns:
            How many photographs were deleted.

        Raises:
            GalleryError: ``unknown_person``; or one that says that the rebuilding is still due.
        """
        with self._changing() as (db, sums):
            stored = {text: number for number, text in db.execute("SELECT id, name FROM person")}
            if name not in stored:
                name = {printable(text): text for text in stored}.get(name) or person_name(name)
            if name not in stored:
                raise GalleryError(
                    "unknown_person", f"nobody is called {name!r} in gallery {self.path}"
                )
            person = (stored[name],)
            theirs = "FROM crop WHERE face IN (SELECT id FROM face WHERE person = ?)"
            rows = db.execute("SELECT id, embedding FROM face WHERE person = ?", person).fetchall()
            sums["person"] -= _checksums.of_row((person[0], name))
            ids, blobs = [row[0] for row in rows], [row[1] for row in rows]
            sums["face"] -= _checksums.of_faces(ids, person * len(rows))
            sums["embedding"] -= _checksums.of_embeddings(ids, blobs)
            sums["crop"] -= _checksums.of_rows(db.execute(f"SELECT face, pixels {theirs}", person))
            db.execute(f"DELETE {theirs}", person)
            photos = db.execute("DELETE FROM face WHERE person = ?", person).rowcount
            db.execute("DELETE FROM person WHERE id = ?", person)
            mark_unclean(db)
        self._wipe(f"{name!r} is forgotten")
        return photos

    def latest(self) -> np.ndarray:
        """The id of each person's latest face, int64 ``[P]``."""
        with self._reading() as (db, _):
            rows = db.execute("SELECT MAX(id) FROM face GROUP BY person").fetchall()
            return np.array(rows, np.int64).reshape(-1)

    def all_there(self, people: np.ndarray) -> bool:
        """Whether none of the people was forgotten whom :meth:`enrolled` once found, by their ids,
        in the same file."""
        if not len(people):
            return True
        with self._reading() as (db, _):
            last = (int(people[-1]),)
            count = db.execute("SELECT COUNT(*) FROM person WHERE id <= ?", last).fetchone()[0]
        return bool(count == len(people))

    def people(self) -> dict[str, int]:
        """How many photographs of each person there are, in order of enrolment."""
        with self._reading() as (db, sums):
            _check_people(db, sums)
            return dict(
                db.execute(
                    "SELECT name, (SELECT COUNT(*) FROM face WHERE face.person = person.id)"
                    " FROM person NOT INDEXED ORDER BY id"
                ).fetchall()
            )

    def enrolled(self) -> Enrolled:
        """Everyone, read at one moment into one array."""
        with self._reading() as (db, sums):
            people = db.execute("SELECT id, name FROM person NOT INDEXED ORDER BY id").fetchall()
            ids, person, vectors, embedded = self._read_faces(db, "face", _sum_embeddings)
            _checksums.check(sums, "person", _checksums.of_rows(people))
            _checksums.check(sums, "face", _checksums.of_faces(ids, person))
            _checksums.check(sums, "embedding", embedded)
            _checksums.check_ascending(np.array([row[0] for row in people], np.int64))
        known = np.array([row[0] for row in people], np.int64)
        index = np.searchsorted(known, person)
        if len(person) and not np.array_equal(known[np.minimum(index, len(known) - 1)], person):
            raise self._damaged("it holds faces of nobody")
        return Enrolled(tuple(row[1] for row in people), index, vectors, ids, known)

    def crops(self) -> np.ndarray:
        """The aligned faces, uint8 ``[M, 112, 112, 3]`` RGB, in the order of :meth:`enrolled`.

        Raises:
            GalleryError: ``no_crops``: the gallery keeps none.
        """
        return self._read_pixels(
            "SELECT face.id, pixels FROM face NOT INDEXED LEFT JOIN crop ON crop.face = face.id"
            " ORDER BY face.id",
            "face",
            "crop",
        )

    def set_strangers(
        self,
        embeddings: np.ndarray,
        person: np.ndarray,
        crops: np.ndarray | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Replace the cohort of strangers, by which thresholds are calibrated.

        Args:
            embeddings: float32 ``[n, D]``, unit length.
            person: int64 ``[n]``, which stranger each is.
            crops: as :meth:`add` takes them.
            settings: kept in the same transaction, as :meth:`set_setting` keeps them.
        """
        texts = _encode_settings(settings or {})
        vectors = self._check_embeddings(embeddings)
        pixels = self._pixels(crops, len(vectors), "the strangers")
        who = np.asarray(person)
        if who.shape != (len(vectors),) or who.dtype.kind not in "iu":
            raise ValueError(
                f"strangers are {who.dtype} {list(who.shape)}, not integers [{len(vectors)}]"
            )
        with self._changing() as (db, sums):
            self._drop_strangers(db, sums)
            rows = ((int(p), v.tobytes(), c) for p, v, c in zip(who, vectors, pixels, strict=True))
            db.executemany(
                "INSERT INTO stranger (person, embedding, pixels) VALUES (?, ?, ?)", rows
            )
            sums["stranger"] = _checksums.of_table(db, "stranger")
            sums["stranger_crop"] = _checksums.of_table(db, "stranger_crop")
            _write_settings(db, sums, texts)
        self._wipe("the strangers are replaced")

    def strangers(self) -> tuple[np.ndarray, np.ndarray]:
        """The strangers' embeddings, float32 ``[n, D]``, and who each is, int64 ``[n]``; n may be
        zero."""
        with self._reading() as (db, sums):
            _, person, vectors, total = self._read_faces(db, "stranger", _checksums.of_rows)
            _checksums.check(sums, "stranger", total)
        return vectors, person

    def stranger_crops(self) -> np.ndarray:
        """Their aligned faces, as :meth:`crops`, in the order of :meth:`strangers`."""
        return self._read_pixels(
            "SELECT id, pixels FROM stranger ORDER BY id", "stranger", "stranger_crop"
        )

    def clear_strangers(self) -> None:
        """Delete the strangers, as :meth:`forget` deletes a person."""
        with self._changing() as (db, sums):
            self._drop_strangers(db, sums)
        self._wipe("the strangers are deleted")

    def setting(self, key: str) -> Any:
        """The JSON value kept under ``key``; None where there is none."""
        with self._reading() as (db, sums):
            rows = db.execute("SELECT key, value FROM setting").fetchall()
            _checksums.check(sums, "setting", _checksums.of_rows(rows))
            text = dict(rows).get(key)
            return None if text is None else json.loads(text)

    def set_setting(self, key: str, value: Any) -> None:
        """Keep a JSON value (None: remove it). :meth:`forget` does not look into settings: put
        nobody's name or face there.

        Raises:
            TypeError, ValueError: not a JSON value (nan and infinity are none).
        """
        texts = _encode_settings({key: value})
        with self._changing(revise=False) as (db, sums):
            _write_settings(db, sums, texts)

    def copy_to(self, path: str | Path) -> None:
        """Copy the whole gallery to another file, which is never half a gallery.

        A gallery of the same model that is there already is replaced, also under a process that
        has it open. Any other file is left as it is.

        Raises:
            GalleryError: ``not_a_gallery`` or ``gallery_model_mismatch``: of the file there;
                ``not_a_gallery`` also where this one is damaged.
            ValueError: ``path`` is this gallery's own file.
        """
        with self._reading() as (db, sums):
            for table in _checksums.TABLES if sums is not None else ():
                _checksums.check(sums, table, _checksums.of_table(db, table))
        if Path(path).expanduser().exists():
            options: dict[str, Any] = {"model": self.model, "model_name": self.model_name}
            with Gallery(path, dim=self.dim, **options) as target:
                if target.path == self.path:
                    raise ValueError(f"{self.path} is this gallery's own file: give another")
                self._store.copy_into(path, target._store)
        else:
            self._store.copy_into(path, None)

    def move_to(self, path: str | Path) -> None:
        """:meth:`copy_to` ``path``, and go on with that file; no thread's change falls between."""
        with self._store.alone():
            self.copy_to(path)
            self._store.go_on_with(path)

    @contextmanager
    def moment(self) -> Iterator[None]:
        """What this thread reads in the block is of one moment. Other threads wait for its end."""
        with self._store.reading() as db:
            with self._report_damage():
                self._check_model(db)
            yield

    @contextmanager
    def changing(self) -> Iterator[None]:
        """What this thread reads and writes in the block is one change, all of it or nothing; other
        threads, and other processes that change the gallery, wait for its end."""
        with self._store.writing() as db:
            with self._report_damage():
                self._check_model(db)
            yield

    def close(self) -> None:
        """Close the file; the gallery cannot be used any more. Closing twice is fine."""
        self._store.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _changing(self, revise: bool = True) -> Iterator[tuple[sqlite3.Connection, dict[str, int]]]:
        """A transaction at whose end there is a new revision, and the checksums of all tables,
        which the block changes with what it writes."""
        revision = _revision()
        with self._store.writing() as db:
            with self._report_damage():
                self._check_model(db)
                sums = _checksums.read(db)
                if sums is None:  # a gallery of format 1
                    upgrade(db)
                    sums = _checksums.of_all(db)
                elif self._known != _value(db, "revision"):
                    _check_people(db, sums)
                _checksums.check(sums, "setting", _checksums.of_table(db, "setting"))
            yield db, sums
            if revise:
                db.execute("UPDATE meta SET value = ? WHERE key = 'revision'", (revision,))
            sums["sequence"] = _checksums.of_table(db, "sequence")
            _checksums.write(db, sums)
            known = int(_value(db, "revision"))
        self._known = known

    @contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection, dict[str, int] | None]]:
        """A transaction that reads rows, and the checksums by which to know those that nobody
        wrote; None where there are none yet."""
        with self._store.reading() as db, self._report_damage():
            self._check_model(db)
            yield db, _checksums.read(db)

    def _check_model(self, db: sqlite3.Connection) -> None:
        """Learn the model of the gallery or, where another file has taken its name, check that it
        is of the same one."""
        if db is self._seen:
            return
        _checksums.read(db)
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        made_by = str(meta["model"]), int(meta["dim"])
        if self._seen is None:
            self.model, self.dim, self.model_name = *made_by, str(meta["model_name"])
        elif made_by != (self.model, self.dim):
            raise GalleryError(
                "gallery_model_mismatch",
                f"gallery {self.path} was replaced by one of {meta['model_name']!r} "
                f"({made_by[0][:12]}, {made_by[1]} values a face), not of {self.model_name!r} "
                f"({self.model[:12]}, {self.dim}): open it with the model that made it",
            )
        self._seen, self._known = db, None
        self.files += 1

    @contextmanager
    def _report_damage(self) -> Iterator[None]:
        """Say of what cannot have been written that the gallery is damaged."""
        try:
            yield
        except (IndexError, TypeError, ValueError, OverflowError) as error:
            raise self._damaged(str(error)) from error

    def _drop_strangers(self, db: sqlite3.Connection, sums: dict[str, int]) -> None:
        if db.execute("DELETE FROM stranger").rowcount:
            mark_unclean(db)
        sums["stranger"] = sums["stranger_crop"] = 0

    def _wipe(self, done: str) -> None:
        try:
            self._store.wipe()
        except GalleryError as error:
            raise GalleryError(
                error.reason,
                f"{done}, but the file could not be rebuilt, and copies of what was deleted may "
                f"remain in its unused parts until it is opened again: {error}",
            ) from error

    def _meta(self, key: str) -> Any:
        with self._reading() as (db, _):
            return _value(db, key)

    def _check_embeddings(self, embeddings: np.ndarray) -> np.ndarray:
        """``embeddings`` in order in memory, if that is what they are."""
        vectors = np.ascontiguousarray(embeddings)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim or vectors.dtype != np.float32:
            raise ValueError(
                f"embeddings are {vectors.dtype} {list(vectors.shape)}, not float32 [k, {self.dim}]"
            )
        wrong = _not_unit(vectors)
        if wrong is not None:
            raise ValueError(
                f"embedding {wrong} has length {np.linalg.norm(vectors[wrong]):.4g}: divide each "
                "by its length"
            )
        return vectors

    def _pixels(self, crops: np.ndarray | None, count: int, whose: str) -> list[bytes | None]:
        """What is to be stored of ``crops``: nothing where the gallery keeps none."""
        if crops is not None:
            crops = np.ascontiguousarray(crops)
            if crops.dtype != np.uint8 or crops.shape != (count, *CROP):
                raise ValueError(
                    f"crops of {whose} are {crops.dtype} {list(crops.shape)}, not uint8 "
                    f"{[count, *CROP]}"
                )
        if not self.keep_crops:
            return [None] * count
        if crops is None:
            raise ValueError(f"gallery {self.path} keeps crops: give those of {whose} too")
        return [crop.tobytes() for crop in crops]

    def _read_faces(
        self, db: sqlite3.Connection, table: str, sum_rows: Callable[[list[Any]], int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Ids, people, embeddings and their checksum, of all rows of ``face`` or ``stranger``.

        Args:
            sum_rows: the checksum of rows (id, person, embedding).
        """
        count = db.execute(f"SELECT COUNT(*) FROM {table} NOT INDEXED").fetchone()[0]
        ids, person = np.empty(count, np.int64), np.empty(count, np.int64)
        vectors = np.empty((count, self.dim), np.float32)
        cursor = db.execute(f"SELECT id, person, embedding FROM {table} NOT INDEXED ORDER BY id")
        seen = total = 0
        for at, rows in _blocks(cursor, _ROWS):
            here = slice(at, at + len(rows))
            ids[here] = [row[0] for row in rows]
            person[here] = [row[1] for row in rows]
            vectors[here] = self._decode(row[2] for row in rows)
            total += sum_rows(rows)
            seen += len(rows)
        _check_complete(seen, count, ids)
        return ids, person, vectors, total % 2**64

    def _read_pixels(self, query: str, table: str, checked: str) -> np.ndarray:
        with self._reading() as (db, sums):
            if not _value(db, "keep_crops"):
                raise GalleryError(
                    "no_crops",
                    f"gallery {self.path} keeps no crops: create one with keep_crops=True and "
                    "enrol everyone again",
                )
            count = db.execute(f"SELECT COUNT(*) FROM {table} NOT INDEXED").fetchone()[0]
            crops, ids = np.empty((count, *CROP), np.uint8), np.empty(count, np.int64)
            seen = total = 0
            for at, rows in _blocks(db.execute(query), _CROPS):
                for i, (row, pixels) in enumerate(rows, at):
                    if pixels is None or len(pixels) != crops[i].size:
                        raise self._damaged("a crop is missing or cut short")
                    ids[i], crops[i] = row, np.frombuffer(pixels, np.uint8).reshape(CROP)
                total += _checksums.of_rows(rows)
                seen += len(rows)
            _check_complete(seen, count, ids)
            _checksums.check(sums, checked, total % 2**64)
        return crops

    def _decode(self, blobs: Iterable[bytes]) -> np.ndarray:
        """Embeddings as they were written, float32 ``[n, D]``."""
        stored = list(blobs)
        if any(len(blob) != 4 * self.dim for blob in stored):
            raise self._damaged("an embedding is cut short")
        vectors = np.frombuffer(b"".join(stored), "<f4").reshape(-1, self.dim)
        if _not_unit(vectors) is not None:
            raise self._damaged("an embedding is not of unit length")
        return vectors

    def _damaged(self, what: str) -> GalleryError:
        return GalleryError(
            "not_a_gallery", f"gallery {self.path} is damaged: {what}; take a backup"
        )


def _encode_settings(settings: Mapping[str, Any]) -> dict[str, str | None]:
    """Settings as text; None: to be removed."""
    return {
        key: None if value is None else json.dumps(value, allow_nan=False)
        for key, value in settings.items()
    }


def _write_settings(
    db: sqlite3.Connection, sums: dict[str, int], texts: Mapping[str, str | None]
) -> None:
    for key, text in texts.items():
        if text is None:
            db.execute("DELETE FROM setting WHERE key = ?", (key,))
        else:
            db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (key, text))
    sums["setting"] = _checksums.of_table(db, "setting")


def _revision() -> int:
    return secrets.randbits(53)  # of which JSON, too, keeps every bit


def _value(db: sqlite3.Connection, key: str) -> Any:
    return db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()[0]


def _check_people(db: sqlite3.Connection, sums: dict[str, int] | None) -> None:
    """Compare the people, whose each face is, and the indices over both, with their checksums."""
    people = db.execute("SELECT id, name FROM person NOT INDEXED ORDER BY id").fetchall()
    by_name = db.execute("SELECT id, name FROM person INDEXED BY sqlite_autoindex_person_1")
    by_person = "SELECT id, person FROM face INDEXED BY face_person ORDER BY person, id"
    pairs = np.array(db.execute(by_person).fetchall(), np.int64).reshape(-1, 2)
    _checksums.check(sums, "person", _checksums.of_rows(people))
    _checksums.check(sums, "face", _checksums.of_faces(pairs[:, 0], pairs[:, 1]))
    _checksums.check(sums, "sequence", _checksums.of_table(db, "sequence"))
    _checksums.check_ascending(np.array([row[0] for row in people], np.int64))
    indexed = [(row[1], row[0]) for row in by_name]
    if sorted(indexed) != indexed or set(indexed) != {(row[1], row[0]) for row in people}:
        raise _checksums.Damaged("its index of names does not fit its people")
    if (np.diff(pairs[:, 1]) < 0).any():
        raise _checksums.Damaged("its index of faces is out of order")


def _check_complete(seen: int, count: int, ids: np.ndarray) -> None:
    """Check that ``count`` rows were read, in order.

    Raises:
        Damaged: they were not.
    """
    if seen != count:
        raise _checksums.Damaged(f"it has {count} rows, of which {seen} can be read")
    _checksums.check_ascending(ids)


def _not_unit(vectors: np.ndarray) -> int | None:
    """The first row that is not of unit length (nor finite), if any."""
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= 2 * _UNIT))  # also of nan
    return int(wrong[0]) if len(wrong) else None


def _sum_embeddings(rows: list[Any]) -> int:
    """The checksum of the embeddings in rows of (id, person, embedding)."""
    return _checksums.of_embeddings([row[0] for row in rows], [row[2] for row in rows])


def _blocks(cursor: sqlite3.Cursor, size: int) -> Iterator[tuple[int, list[Any]]]:
    """The rows, ``size`` at a time, with how many came before."""
    at = 0
    while rows := cursor.fetchmany(size):
        yield at, rows
        at += len(rows)
