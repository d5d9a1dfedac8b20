"""Digests of content: equal content has equal digests, wherever it lies and whatever holds it.

SHA-256 (1.1 GB/s of one core where it was measured, 2 cores with SHA instructions). They notice
damage, and they name content; they do not prove who wrote it.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch

_BLOCK = 1 << 24  # bytes at a time: of a memory map, no more than that is held twice


class _Hash(Protocol):
    def update(self, data: Any, /) -> None: ...


def file_digest(file: BinaryIO, size: int | None = None) -> str:
    """sha256, hex, of what is left to read of ``file``, or of the next ``size`` bytes of it."""
    found = hashlib.sha256()
    while block := file.read(_BLOCK if size is None else min(size, _BLOCK)):
        found.update(block)
        size = None if size is None else size - len(block)
    return found.hexdigest()


def array_digest(array: np.ndarray, rows: Iterable[int] | np.ndarray | None = None) -> str:
    """sha256, hex, of an array's dtype, shape and values; byte order and memory order do not count.

    A memory map is read in blocks, and may be larger than memory.

    Args:
        array: of numbers, truth values or text.
        rows: integers; of ``array[rows]`` instead, which is never made as a whole.

    Raises:
        TypeError: an array of Python objects.
    """
    found = hashlib.sha256()
    _add_array(found, array, rows)
    return found.hexdigest()


def content_digest(content: Any) -> str:
    """sha256, hex, of nested content: what a checkpoint or settings are made of.

    Dicts are compared without regard to order; lists and tuples of equal items are equal, as are an
    array and a tensor of the same values. 1, 1.0, True and "1" are four different things.

    Args:
        content: dicts, lists, tuples, tensors, arrays, numbers, text, bytes, None, and
            ``torch.dtype``, ``torch.device``.

    Raises:
        TypeError: anything else, by its type.
    """
    found = hashlib.sha256()
    _add(found, content)
    return found.hexdigest()


def _add(to: _Hash, content: Any) -> None:
    """Feed ``content``, each part with its kind and length before it, so that no two differ only in
    where a part ends."""
    if content is None or isinstance(content, bool):
        to.update(f"{content};".encode())
    elif isinstance(content, np.ndarray | np.generic):
        _add_array(to, np.asarray(content))
    elif isinstance(content, torch.Tensor):
        _add_tensor(to, content)
    elif isinstance(content, int):
        to.update(f"int {content};".encode())
    elif isinstance(content, float):
        # nan has many bit patterns, and is one value
        to.update(b"float " + struct.pack("<d", math.nan if math.isnan(content) else content))
    elif isinstance(content, complex):
        to.update(b"complex ")
        _add(to, content.real)
        _add(to, content.imag)
    elif isinstance(content, str):
        data = content.encode("utf-8", "surrogatepass")
        to.update(f"text {len(data)};".encode())
        to.update(data)
    elif isinstance(content, bytes | bytearray):
        to.update(f"bytes {len(content)};".encode())
        to.update(content)
    elif isinstance(content, Mapping):
        to.update(f"dict {len(content)};".encode())
        for name, key in sorted((content_digest(key), key) for key in content):
            to.update(name.encode())
            _add(to, content[key])
    elif isinstance(content, list | tuple):
        to.update(f"list {len(content)};".encode())
        for item in content:
            _add(to, item)
    elif isinstance(content, torch.dtype | torch.device):
        to.update(f"torch {content};".encode())
    else:
        raise TypeError(f"a {type(content).__qualname__} has no digest: {str(content)[:80]}")


def _add_tensor(to: _Hash, tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise TypeError(f"a tensor of {tensor.layout}, {tensor.dtype} has no digest")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    name, shape = str(plain.dtype).removeprefix("torch."), tuple(plain.shape)
    # numpy has no bfloat16, but all have bytes
    _add_values(to, name, shape, [plain.reshape(-1).view(torch.uint8).numpy()])


def _add_array(
    to: _Hash, array: np.ndarray, rows: Iterable[int] | np.ndarray | None = None
) -> None:
    if array.dtype.hasobject:
        raise TypeError(f"an array of {array.dtype} has no digest")
    shape = array.shape
    if rows is not None:
        rows = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), np.int64)
        shape = (len(rows), *array.shape[1:])
    _add_values(to, array.dtype.name, shape, _blocks(array, rows))


def _blocks(array: np.ndarray, rows: np.ndarray | None) -> Iterable[np.ndarray]:
    """The values in order, little-endian, some rows at a time."""
    little = array.dtype.newbyteorder("<")
    if array.ndim == 0:
        yield np.ascontiguousarray(array, little)
        return
    count = len(array) if rows is None else len(rows)
    size = max(1, array[:1].nbytes)
    step = max(1, _BLOCK // size)
    for start in range(0, count, step):
        here = slice(start, start + step)
        yield np.ascontiguousarray(array[here] if rows is None else array[rows[here]], little)


def _add_values(
    to: _Hash, dtype: str, shape: tuple[int, ...], blocks: Iterable[np.ndarray]
) -> None:
    to.update(f"array {dtype} {list(shape)};".encode())
    for block in blocks:
        to.update(block.reshape(-1).view(np.uint8))
