"""One run at a time in a folder of results."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TextIO, TypeVar

from metaface._processes import launched

try:
    import fcntl
except ImportError:  # Windows: runs in one folder are not kept apart
    fcntl = None  # type: ignore[assignment]

_NAME = ".lock"  # lies in the folder for as long as the run lasts

P = ParamSpec("P")
R = TypeVar("R")


class FolderInUse(OSError):
    """Another run is writing into the folder; the message names it and its process."""


@contextlib.contextmanager
def locked(folder: str | Path | None) -> Iterator[None]:
    """Hold the lock of a folder, which is made where there is none (None: do nothing).

    The system lets go of it when the process dies.

    Raises:
        FolderInUse: another run holds it.
        OSError: the folder cannot be made or written.
    """
    if folder is None or fcntl is None:
        yield
        return
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _NAME
    with _open(path) as file:
        try:
            file.write(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            file.flush()
            yield
        finally:
            path.unlink(missing_ok=True)
            if made:
                with contextlib.suppress(OSError):  # something was written into it
                    folder.rmdir()


def _open(path: Path) -> TextIO:
    """The file at ``path``, new or left by a dead process, empty and locked."""
    while True:
        try:  # never through a link, which would write elsewhere
            handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise FolderInUse(f"{path} is a link: remove it, or choose another folder") from error
        file = open(handle, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed by the caller
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            who = file.read() or "another process"
            file.close()
            raise FolderInUse(
                f"another run is writing into {path.parent} ({who}): wait until it is done, or "
                "choose another folder (--out)"
            ) from error
        except OSError:  # some network file systems have no locks
            pass
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                _refuse_foreign(file, path)
                file.truncate(0)
                return file
        file.close()  # whoever held it before has removed it in the meantime


def _refuse_foreign(file: TextIO, path: Path) -> None:
    """Leave a file of that name alone that no run of MetaFace wrote."""
    file.seek(0)
    if (text := file.read(100)) and not text.startswith("process "):
        file.close()
        raise FolderInUse(f"{path} is no lock of MetaFace: move it, or choose another folder")


def alone_in(
    folder: Callable[..., str | Path | None],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a job hold the lock of a folder for as long as it runs.

    Args:
        folder: the folder, from the job's arguments.
    """

    def decorate(job: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(job)
        def run(*given: Any, **named: Any) -> R:
            # what torchrun starts several times says itself whether it may be
            with locked(None if launched() else folder(*given, **named)):
                return job(*given, **named)

        return run

    return decorate
