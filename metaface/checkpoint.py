"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metaface import _torch_file
from metaface._atomic import replacing


class CheckpointError(RuntimeError):
    """No checkpoint could be read; the message names the files and the reason."""


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically; the checkpoint that was there becomes ``<path>.previous``.

    The file is complete on disk before it gets its name, so that ``path`` is never half-written;
    it carries a checksum, see :mod:`metaface._torch_file`.

    Args:
        path: the checkpoint file.
        state: tensors, numbers, strings, lists and dicts of them, as ``weights_only=True`` reads.

    Raises:
        OSError: the disk is full, there is no memory, or the folder cannot be written; ``path`` is
            as it was.
    """
    with replacing(Path(path), previous(path)) as file:
        _torch_file.write(state, file)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, without running any code it may hold (``weights_only=True``).

    Raises:
        CheckpointError: the file is missing, truncated, damaged or not a checkpoint, by name.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path} is a folder: give the checkpoint in it"
            if path.is_dir()
            else f"no checkpoint at {path}"
        )
    try:
        state = _torch_file.read(path)
    except _torch_file.Unsafe as error:
        raise CheckpointError(
            f"{path} is truncated or not a checkpoint: it asks for more than tensors, numbers and "
            f"strings, which may run any code, and is not loaded ({error})"
        ) from error
    except _torch_file.Unreadable as error:
        raise CheckpointError(f"{path} is truncated or not a checkpoint: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not a checkpoint")
    return state


def load_latest(path: str | Path) -> tuple[dict[str, Any], str | None]:
    """The newest readable checkpoint of ``path`` and ``<path>.previous``.

    Returns:
        The state, and a warning that names the refused file where the one before it was used;
        the refused one is set aside as ``<path>.damaged``.

    Raises:
        CheckpointError: neither can be read.
    """
    try:
        return load(path), None
    except CheckpointError as error:
        if not previous(path).is_file():
            raise
        try:
            state = load(previous(path))
        except CheckpointError as other:
            raise CheckpointError(
                f"{error}; and the one before it is no better: {other}. Remove both to start "
                "afresh, or put a copy of yours in their place"
            ) from other
        if Path(path).is_file():  # or the next save would put it in the place of the good one
            os.replace(path, f"{path}.damaged")
        return state, f"{error}; using {previous(path)} instead"


def exists(path: str | Path) -> bool:
    """Whether there is something to resume at ``path``."""
    return Path(path).is_file() or previous(path).is_file()


def previous(path: str | Path) -> Path:
    """Where the checkpoint before ``path`` is kept."""
    return Path(f"{path}.previous")


@contextmanager
def restoring(path: Path, what: str) -> Iterator[None]:
    """Say of a state that does not fit that it is ``path``'s, and does not fit ``what``.

    Raises:
        CheckpointError: what came out as another error of a state that does not fit.
    """
    try:
        yield
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} does not fit this {what}: {error}") from error
