"""Digests: equal for equal content, different for any other."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaface._digest import array_digest, content_digest, file_digest


def test_equal_content_has_one_digest(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((50, 3, 4), np.float32)
    array.tofile(tmp_path / "a")
    mapped: np.ndarray = np.memmap(tmp_path / "a", np.float32, "r", shape=array.shape)
    same = (
        array,
        np.asfortranarray(array),
        array.astype(">f4"),
        mapped,
        np.repeat(array, 2, 0)[::2],
    )
    assert len({array_digest(a) for a in same}) == 1
    assert content_digest(array) == content_digest(torch.from_numpy(array)) == array_digest(array)
    rows = [3, 3, 7]
    assert array_digest(array, rows) == array_digest(array[rows])
    assert array_digest(array, iter(rows)) == array_digest(array, np.array(rows))
    assert content_digest({"a": 1, 2: (1, "x")}) == content_digest(
        OrderedDict({2: [1, "x"], "a": 1})
    )
    nan = np.frombuffer(np.uint64(0xFFF8000000000001).tobytes(), "f8")[0]
    assert content_digest(float(nan)) == content_digest(float("nan"))


def test_blocks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(1000, dtype=np.int64).reshape(100, 10)
    whole = array_digest(array), array_digest(array, [5, 99]), file_digest(io.BytesIO(bytes(array)))
    monkeypatch.setattr("metaface._digest._BLOCK", 96)
    small = array_digest(array), array_digest(array, [5, 99]), file_digest(io.BytesIO(bytes(array)))
    assert whole == small


DIFFERENT: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    1.0,
    0.0,
    -0.0,
    "1",
    b"1",
    "",
    b"",
    [],
    {},
    [[]],
    ["ab"],
    ["a", "b"],
    ["a", ["b"]],
    {"a": 1},
    {"a": 2},
    {"b": 1},
    {1: 1},
    {"1": 1},
    {"a": 1, "b": 2},
    {"a": 2, "b": 1},
    float("inf"),
    float("nan"),
    1j,
    2**70,
    torch.float32,
    torch.device("cpu"),
    np.zeros(4),
    np.zeros((2, 2)),
    np.zeros(4, np.float32),
    np.zeros(4, np.int32),
    np.zeros(0),
    np.zeros((0, 3)),
    np.float64(1),
    np.ones(()),
    np.array("1"),
    np.array(["a", "b"]),
    torch.ones(3, dtype=torch.bfloat16),
    torch.ones(3, dtype=torch.half),
    torch.tensor(True),
    torch.ones(3, dtype=torch.complex64),
    torch.arange(3),
]


def test_other_content_has_another_digest() -> None:
    seen: dict[str, Any] = {}
    for content in DIFFERENT:
        if isinstance(content, np.ndarray) and content.shape == () and content.dtype == float:
            continue  # np.float64(1) is the same array
        digest = content_digest(content)
        assert digest not in seen, (content, seen[digest])
        seen[digest] = content


def test_every_bit_counts() -> None:
    array = np.random.default_rng(0).integers(0, 256, 500, np.uint8)
    digests = {array_digest(array)}
    for i in range(500):
        damaged = array.copy()
        damaged[i] ^= 1 << (i % 8)
        digests.add(array_digest(damaged))
    assert len(digests) == 501


def test_what_has_no_digest_is_refused() -> None:
    for content in (object(), {1, 2}, np.array([object()]), torch.eye(2).to_sparse()):
        with pytest.raises(TypeError, match="has no digest"):
            content_digest(content)
