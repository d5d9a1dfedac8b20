"""Files of torch.save: written with a checksum, read without running code and without surprises.

torch.save writes a zip archive. Its last field, the archive's comment, is where MetaFace puts the
sha256 of all that is before it, so that every damaged byte is noticed, and torch still reads the
file. A file without it is one of before, or from elsewhere: it must end as torch.save ends it, and
each of its records must have the CRC-32 that torch.save noted (torch.load does not look).
"""

from __future__ import annotations

import errno
import os
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, cast

import torch

from metaface._digest import file_digest

_MARK = b"metaface sha256 "
_COMMENT = len(_MARK) + 64  # with the digest, hex
_END = b"PK\x05\x06"  # of a zip archive: this, 16 bytes, the comment's length, the comment
_STRETCHED = 1 << 30  # bytes that tensors may take, where a stride of 0 repeats few values

# torch's words where a pickle asks for something that is no tensor, number or string
_CODE = (
    "Unsupported global",
    "Unsupported class",
    "unrecognized function",
    "unsupported GLOBAL",
    "TorchScript",
)
_ADVICE = re.compile(r"weights_only|safe_globals|trust|Please |documentation|two options")


class Unreadable(ValueError):
    """Not what torch.save writes, or not any more; the message says why, and names no file."""


class Unsafe(Unreadable):
    """A pickle that asks for more than tensors, numbers and strings."""


def write(state: Any, file: BinaryIO) -> None:
    """torch.save with a checksum.

    Args:
        state: tensors, numbers, strings, lists and dicts of them, as ``weights_only=True`` reads.
        file: new, open for writing and reading.

    Raises:
        OSError: the disk is full, or there is no memory.
    """
    to = _Writer(file)
    try:
        torch.save(state, cast(BinaryIO, to))
    except (RuntimeError, MemoryError) as error:  # torch's, where its writer was in the middle
        if to.error is not None:
            raise to.error from error
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
        raise
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", _COMMENT) + _MARK)
    file.seek(0)
    digest = file_digest(file)
    file.seek(0, os.SEEK_END)
    file.write(digest.encode())


class _Writer:
    """Keeps the error that torch makes another one of."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """torch calls this, too; what fails here comes up as it is."""
        self._file.flush()


def read(path: str | Path) -> Any:
    """What a file of torch.save holds, on the CPU (``weights_only=True``), with every checksum that
    it has checked, and no larger than the file.

    Raises:
        Unsafe: it needs code to run.
        Unreadable: anything else that is wrong with it.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        _check(file)
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old pickles: refused or fine
                content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for damaged files
            if any(word in str(error) for word in _CODE):
                raise Unsafe(_reason(error)) from error
            raise Unreadable(_reason(error)) from error
        _check_sizes(content, os.fstat(file.fileno()).st_size)
    return content


def _check(file: BinaryIO) -> None:
    """Compare the file with its checksum or, where it never had one, its records with theirs."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise Unreadable("it is empty")
    file.seek(max(0, size - _COMMENT))
    end = file.read()
    if end.startswith(_MARK):
        file.seek(0)
        if file_digest(file, size - 64).encode() != end[len(_MARK) :]:
            raise Unreadable("it was damaged: its checksum does not fit its content")
        return
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        return  # what torch.save wrote before 1.6 has no checksum of any kind
    if end[-22:-18] != _END or end[-2:] != b"\0\0":
        raise Unreadable("it does not end as torch.save ends a file")
    try:
        with zipfile.ZipFile(file) as archive:
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED or record.file_size > size:
                    raise Unreadable(f"its record {record.filename!r} is not as torch.save writes")
            wrong = archive.testzip()
    except Unreadable:
        raise
    except Exception as error:  # zipfile raises many kinds for damaged files
        raise Unreadable(str(error) or type(error).__name__) from error
    if wrong is not None:
        raise Unreadable(f"it was damaged: its record {wrong!r} does not fit its checksum")


def _check_sizes(content: Any, size: int) -> None:
    """Refuse tensors of more values than are there, before anything is done with them."""
    stored: dict[int, int] = {}
    total = 0
    for tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            continue  # of which a network's own tensors never are: they will not fit
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        values = tensor.numel() * tensor.element_size()
        total += values if values > storage.nbytes() else 0
    if sum(stored.values()) > size or total > max(size, _STRETCHED):
        declared = max(total, sum(stored.values()))
        raise Unreadable(f"it has {size} bytes, and declares tensors of {declared}")


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested dicts and lists, however deep, each container once."""
    left, seen = [content], set()
    while left:
        item = left.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            left.extend(item.values() if isinstance(item, dict) else item)


def _reason(error: Exception) -> str:
    """What was found, in torch's words, without its advice to run what the file holds."""
    said = str(error)
    if isinstance(error, UnpicklingError) or "WeightsUnpickler error" in said:
        said = said.rpartition("WeightsUnpickler error:")[2]
    sentences = re.split(r"(?<=[.!?])\s+|\n", said)
    kept = [s.strip() for s in sentences if s.strip() and not _ADVICE.search(s)]
    if not kept or kept[0].startswith("Unsupported operand") or " " not in kept[0]:
        return "torch.save did not write it, or it is cut short"
    return kept[0][:300]
