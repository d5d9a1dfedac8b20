"""Decoded photographs on disk: one directory an entry, published by one atomic rename.

An entry is ``faces-<key>/`` with ``images.u8`` (the uint8 ``[M, H, W, C]`` array, raw),
``labels.npz`` (the rest; never pickled) and ``checksums.json`` of the two. A process checks an
entry when it first loads it: the images by CRC-32, which reads all of them once (2.7 GB/s of one
core where it was measured, once they are in memory), the labels by sha256. Entries that belong to
another user, or that others may write to, are not used.

An entry is written in ``tmp-<random>/`` beside it, so that a kill half-way leaves nothing that
could be taken for an entry. The builder holds a lock on its file, which the system lets go when
the process dies: that is how a later build knows which temporary directories are left-overs.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from metaface._digest import file_digest
from metaface._json import dumps
from metaface._text import given_path
from metaface.data._skipped import Skipped
from metaface.data.faceset import FaceSet

try:
    import fcntl
except ImportError:  # Windows: left-overs are known by their age alone
    fcntl = None  # type: ignore[assignment]

VERSION = 3  # part of every key: raise it when what an entry holds, or how it is decoded, changes
_ENTRY, _TEMPORARY, _DAY = "faces-", "tmp-", 24 * 3600.0
_IMAGES, _LABELS, _CHECKSUMS = "images.u8", "labels.npz", "checksums.json"
_BLOCK = 1 << 24  # bytes at a time

# Gets an empty file, open for reading and writing; writes uint8 [M, H, W, C] to it and returns a
# FaceSet of those M rows whose `store` need only have the right shape after the first axis: its
# content is taken from the file.
Build = Callable[[BinaryIO], FaceSet]

log = logging.getLogger("metaface.data")

_checked: dict[Path, tuple[int, ...]] = {}  # entries whose images this process has compared


def cache_dir(cache: str | Path | None = None) -> Path:
    """Where decoded photographs lie: ``cache``, else METAFACE_CACHE, else ~/.cache/metaface."""
    if cache is not None:
        return given_path(cache, "the cache").expanduser().absolute()
    return Path(os.environ.get("METAFACE_CACHE") or "~/.cache/metaface").expanduser().absolute()


def clear_cache(cache: str | Path | None = None) -> int:
    """Delete every decoded photograph from the cache (and nothing else that lies there).

    Faces are biometric data: the cache holds copies of them, readable by this user alone. Call
    this when they must not outlive their originals.

    Args:
        cache: the directory, as given to ``load``.

    Returns:
        How many entries were deleted.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=2, photos=2, cache="cache", progress=False)
        >>> mf.data.clear_cache("cache")
        1
    """
    root = cache_dir(cache)
    entries = [p for mark in (_ENTRY, _TEMPORARY) for p in root.glob(mark + "*") if p.is_dir()]
    for entry in entries:
        shutil.rmtree(entry)
    return len(entries)


def key_of(*parts: object) -> str:
    """The key of an entry that depends on these alone."""
    return blake2b(repr((VERSION, *parts)).encode(), digest_size=16).hexdigest()


def load_or_build(root: Path, key: str, build: Build) -> FaceSet:
    """The entry ``key``, built where it is missing or damaged.

    Where the directory cannot be written or is full, the set is built in memory, with a warning.
    """
    entry = root / (_ENTRY + key)
    try:
        faces = _read(entry)
        if faces is not None:
            return faces
        temporary, images = _start(root)
    except OSError as error:
        return _build_uncached(root, error, build)
    try:
        with images:
            faces = build(images)
            _sync(images)
        with open(temporary / _LABELS, "wb") as labels:
            _write_labels(labels, faces)
            _sync(labels)
        with open(temporary / _CHECKSUMS, "wb") as file:
            file.write(dumps(_checksums(temporary, entry.name)).encode())
            _sync(file)
        _publish(temporary, entry)
        faces = _read(entry)
        if faces is None:
            raise OSError(f"{entry} vanished while it was being written")
        return faces
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)  # before the second try: it may be full
        return _build_uncached(root, error, build)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def build_in_memory(build: Build) -> FaceSet:
    """The set that ``build`` makes, held in memory."""
    images = io.BytesIO()
    faces = build(images)
    store = np.frombuffer(images.getbuffer(), dtype=np.uint8)
    return replace(faces, store=store.reshape(len(faces), *faces.store.shape[1:]))


def _build_uncached(root: Path, error: OSError, build: Build) -> FaceSet:
    log.warning(
        "cannot cache decoded photographs in %s (%s): keeping them in memory for this run; set "
        "METAFACE_CACHE to a directory of your own that can be written and has room",
        root,
        error,
    )
    return build_in_memory(build)


def _start(root: Path) -> tuple[Path, BinaryIO]:
    """A new temporary directory, and its images file, open and locked."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in root.glob(_TEMPORARY + "*"):
        _remove_if_stale(path)
    while True:
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=root))  # mode 0700
        images = open(temporary / _IMAGES, "w+b")  # noqa: SIM115 - closed by the caller
        if fcntl:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(images, fcntl.LOCK_EX)
        if (temporary / _IMAGES).exists():  # not swept away between its creation and the lock
            return temporary, images
        images.close()


def _remove_if_stale(temporary: Path) -> None:
    """Remove a temporary directory whose builder is dead, or that nothing wrote to for a day."""
    with contextlib.suppress(OSError):
        written = max(p.stat().st_mtime for p in (temporary, *temporary.iterdir()))
        if time.time() - written > _DAY:
            shutil.rmtree(temporary)
        elif fcntl:
            with open(temporary / _IMAGES, "rb") as images:
                fcntl.flock(images, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where a builder lives
                shutil.rmtree(temporary)


def _publish(temporary: Path, entry: Path) -> None:
    """Rename ``temporary`` to ``entry``; where another process was first, its entry stays."""
    _sync_directory(temporary)
    try:
        os.rename(temporary, entry)
    except OSError:
        if not entry.is_dir():
            raise
    _sync_directory(entry.parent)


def _read(entry: Path) -> FaceSet | None:
    """The entry, memory-mapped; None where there is none. A damaged one is removed.

    Raises:
        PermissionError: it belongs to another user, who may have put anything there.
    """
    if not entry.is_dir():
        return None
    parts = [entry, *(entry / name for name in (_IMAGES, _LABELS, _CHECKSUMS))]
    with contextlib.suppress(FileNotFoundError):  # which is damage
        if os.name == "posix" and any(p.lstat().st_uid != os.geteuid() for p in parts):
            raise PermissionError(f"entry {entry.name} belongs to another user, and is not used")
    try:
        private = os.name != "posix" or not entry.lstat().st_mode & 0o077
        if not private and any(p.lstat().st_mode & 0o022 for p in parts):
            raise ValueError("others may write to it")
        _compare(entry)
        with open(entry / _LABELS, "rb") as file, np.load(file, allow_pickle=False) as labels:
            arrays = {name: labels[name] for name in labels.files}
        info = json.loads(str(arrays.pop("info")))
        shape = (len(arrays["person"]), *info["shape"])
        if (entry / _IMAGES).stat().st_size != np.prod(shape, dtype=np.int64):
            raise ValueError(f"{_IMAGES} has not the size of {list(shape)}")
        return FaceSet.from_arrays(
            np.memmap(entry / _IMAGES, dtype=np.uint8, mode="r", shape=shape),
            arrays.pop("person"),
            domain=arrays.pop("domain"),
            people=info["people"],
            domains=info["domains"],
            skipped=[Skipped(*pair) for pair in info["skipped"]],
            truth=arrays,
        )
    except Exception as error:  # a damaged archive makes its readers raise nearly anything
        log.warning("cache entry %s is damaged (%s): building it again", entry, error)
        with contextlib.suppress(OSError):
            aside = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=entry.parent))
            with contextlib.suppress(OSError):  # another process may have been first
                os.rename(entry, aside)
            shutil.rmtree(aside, ignore_errors=True)
        return None


def _compare(entry: Path) -> None:
    """Check an entry's files against their checksums; the images only when they are new to this
    process.

    Raises:
        ValueError: they do not fit.
    """
    facts = (entry / _IMAGES).stat()
    state = facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
    kept = json.loads((entry / _CHECKSUMS).read_bytes())
    there = _checksums(entry, entry.name, kept if _checked.get(entry) == state else None)
    if kept != there:
        wrong = [name for name in there if kept.get(name) != there[name]]
        raise ValueError(f"{', '.join(wrong) or _CHECKSUMS} does not fit its checksum")
    _checked[entry] = state


def _checksums(
    folder: Path, name: str, images: dict[str, str | int] | None = None
) -> dict[str, str | int]:
    """The checksums of the files in ``folder`` for the entry ``name``; that of the images from
    ``images`` where it is given."""
    crc = 0
    if images is None:
        with open(folder / _IMAGES, "rb") as file:
            while block := file.read(_BLOCK):
                crc = zlib.crc32(block, crc)
    with open(folder / _LABELS, "rb") as file:
        labels = file_digest(file)
    return {"entry": name, _IMAGES: crc if images is None else images[_IMAGES], _LABELS: labels}


def _write_labels(file: BinaryIO, faces: FaceSet) -> None:
    info = {
        "shape": faces.store.shape[1:],
        "people": faces.people,
        "domains": faces.domains,
        "skipped": [(s.path, s.reason) for s in faces.skipped],
    }
    np.savez(
        file,
        info=np.array(json.dumps(info)),
        person=faces.person,
        domain=faces.domain,
        **faces.truth,  # type: ignore[arg-type]
    )


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    with contextlib.suppress(OSError):  # Windows cannot open a directory
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
