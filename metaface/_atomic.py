"""Files that are there whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows: what a killed process left lies there until it is removed by hand
    fcntl = None  # type: ignore[assignment]

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)


@contextlib.contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A temporary file beside ``path``, which takes its name if the block ends without error.

    It has the rights of the file that was there or, where there was none, those that the umask
    gives. What a killed process left beside ``path`` is removed.

    Args:
        path: the file.
        previous: the name that the file gets which was there; None: it is replaced.

    Raises:
        OSError: the folder cannot be written, or is full, or there is no memory, by the name of
            ``path``, which is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, file = _start(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                os.chmod(temporary, path.stat().st_mode & 0o7777)
        if previous is not None and path.exists():
            os.replace(path, previous)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
        if number in _FULL:
            what = f"{os.strerror(number)}; what was there is as it was"
            raise OSError(number, what, str(path)) from error
        raise


def _start(path: Path) -> tuple[Path, BinaryIO]:
    """A new temporary file beside ``path``, locked for as long as it is open."""
    for left in path.parent.glob(f".{_escaped(path.name)}.*.part"):
        _remove_if_stale(left)
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            handle = os.open(temporary, _NEW, 0o666)
        except FileExistsError:
            continue
        file = open(handle, "w+b")  # noqa: SIM115 - closed by the caller
        if fcntl:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if temporary.exists():  # not swept away between its creation and the lock
            return temporary, file
        file.close()


def _remove_if_stale(temporary: Path) -> None:
    """Remove a temporary file whose writer is dead."""
    if fcntl:
        with contextlib.suppress(OSError), open(temporary, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where a writer lives
            temporary.unlink()


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
