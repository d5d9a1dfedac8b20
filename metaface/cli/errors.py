"""What a command ends with: an exit status, and one sentence about what went wrong."""

from __future__ import annotations

import errno
import sqlite3
import sys
import zipfile
from collections.abc import Iterator

STATUS = """Exit status:

- 0: done; what was left out on the way, such as unreadable photographs, is said
- 1: another process of the same distributed job was lost
- 2: not done: a wrong or empty argument, a file or setting that cannot be used, not one usable
  photograph in what was given, or no memory or disk left
- 70: a fault of MetaFace; METAFACE_DEBUG=1 in the environment shows where
- 130: interrupted; what can be gone on with is kept
- 141: nobody reads the output any more

What is found changes nothing: verify ends with 0 for two people, identify for strangers.
"""

# by the name of their class or of one above it, since importing them takes seconds
_STATUS = {
    "KeyboardInterrupt": 130,  # Interrupted is one
    "metaface.training.distributed.ProcessLost": 1,
    "metaface.checkpoint.CheckpointError": 2,
    "metaface.recognition.gallery._store.GalleryError": 2,
}
_REFUSED = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    FloatingPointError,
    OverflowError,
    zipfile.BadZipFile,
    sqlite3.Error,
)


def explain(error: BaseException) -> tuple[int, str]:
    """The exit status of an error, and one sentence about it."""
    causes = list(_causes(error))
    if any(_out_of_memory(cause) for cause in causes):
        return 2, (
            f"there is not enough memory ({_first_lines(error)}): ask for smaller pictures, fewer "
            "tasks at once (--task-chunk 1) or a smaller --meta-batch"
        )
    full = [c for c in causes if isinstance(c, OSError) and c.errno in (errno.ENOSPC, errno.EDQUOT)]
    if full:
        where = "" if full[0].filename is None else f" that holds {full[0].filename}"
        return 2, f"the disk{where} is full: make room, or give another folder"
    status = next((s for n in map(_name, type(error).mro()) if (s := _STATUS.get(n))), None)
    if status is None and isinstance(error, _REFUSED):
        status = 2
    if status is not None:
        return status, _first_lines(error) if str(error) else _KIND.get(status, repr(error))
    return 70, (
        f"{type(error).__name__}: {_first_lines(error)}: this is a fault of MetaFace: run it with "
        "METAFACE_DEBUG=1 for the traceback, and report that"
    )


_KIND = {130: "interrupted"}  # of errors without a text


def _name(kind: type) -> str:
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _out_of_memory(error: BaseException) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from metaface.learners.checks import out_of_memory

    return out_of_memory(error)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_lines(error: BaseException) -> str:
    """An error's text in one line: the first, and the one after it where that only announces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:1000]
