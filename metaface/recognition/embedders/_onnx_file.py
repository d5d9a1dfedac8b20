"""What an ONNX file refers to, read without running or loading anything.

The file is a protocol buffer: messages of (field number, wire type, value). Only the fields that
lead to nodes and tensors are followed, by their numbers in onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

# message -> field number -> message inside it
_INSIDE = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_OPERATOR, _EXTERNAL_DATA, _DATA_LOCATION = 4, 13, 14
_DEEPEST = 64  # messages inside each other
_LARGEST_KEY = 2**32 - 1  # of a larger one onnxruntime takes the lower 32 bits


@dataclass
class OnnxFile:
    """Attributes:
    operators: types of the nodes, in the file's order.
    external: whether a tensor's numbers are said to lie in another file.
    """

    operators: list[str] = field(default_factory=list)
    external: bool = False


def inspect(data: bytes) -> OnnxFile:
    """Walk through the content of an ONNX file.

    Raises:
        ValueError: empty, truncated or no protocol buffer, or with a key that readers differ on.
    """
    contents = OnnxFile()
    if not data:
        raise ValueError("the file is empty")
    with memoryview(data) as view:
        _walk(view, "model", contents, 0)
    if not contents.operators:
        raise ValueError("there is no ONNX graph in it")
    return contents


def _walk(data: memoryview, message: str, contents: OnnxFile, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"messages lie more than {_DEEPEST} deep in each other")
    for number, value in _fields(data):
        if isinstance(value, int):
            contents.external |= (message, number) == ("tensor", _DATA_LOCATION) and value != 0
            continue
        with value:
            if (message, number) == ("tensor", _EXTERNAL_DATA):
                contents.external = True
            elif (message, number) == ("node", _OPERATOR):
                contents.operators.append(bytes(value).decode("utf-8", "replace"))
            elif number in _INSIDE[message]:
                _walk(value, _INSIDE[message][number], contents, depth + 1)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        if key > _LARGEST_KEY:
            raise ValueError(f"the key at byte {start} of a message has more than 32 bits")
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"byte {at} is in no protocol buffer")
        if at + size > len(data):
            raise ValueError(f"it ends {at + size - len(data)} bytes early")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if not data[at - 1] & 0x80:
            return value, at
        shift += 7
    raise ValueError(f"it ends inside a number, at byte {at}")
