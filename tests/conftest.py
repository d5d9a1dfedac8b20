"""Fixtures for every test: a cache of their own, and the real data sets where there are any."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import draw_nothing, render_few, validate_on_few

# A script ignores Ctrl-C in what it starts in the background, and so do all that are started there.
signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_DATA = Path(
    os.environ.get("METAFACE_TEST_DATA")
    or Path(__file__).resolve().parents[1].parent / "shared" / "data"
)


@pytest.fixture(autouse=True, scope="session")
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep decoded photographs out of the user's own cache."""
    root = tmp_path_factory.mktemp("metaface-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAFACE_CACHE", str(root))
        yield root


@pytest.fixture(autouse=True, scope="session")
def tensors_are_converted() -> Iterator[None]:
    """Fail where MetaFace leaves it to numpy to make an array of a tensor: write ``.numpy()``.

    Numpy asks the tensor for that in other ways from release to release. That of Python 3.10 warns
    of torch's answer to an assignment, and a tensor of a GPU has none.
    """
    convert = torch.Tensor.__array__

    def checked(tensor: torch.Tensor, *args: Any) -> np.ndarray:
        caller = sys._getframe(1)
        while caller.f_back and caller.f_globals.get("__name__", "").startswith("numpy"):
            caller = caller.f_back
        if caller.f_globals.get("__name__", "").startswith("metaface"):
            where = f"{caller.f_code.co_filename}:{caller.f_lineno}"
            raise AssertionError(f"{where} makes an array of a tensor without .numpy()")
        return convert(tensor, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "__array__", checked)
        yield


@pytest.fixture
def few_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests to which it is all the same how many people ``"synthetic"`` is."""
    render_few(monkeypatch)


@pytest.fixture
def few_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests to which it is all the same which weights are kept."""
    validate_on_few(monkeypatch)


@pytest.fixture
def no_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that do not look at the figures of a page."""
    draw_nothing(monkeypatch)


@pytest.fixture(scope="session")
def test_data() -> Callable[[str], Path]:
    """``test_data("att_faces.zip")``: a real file; skips the test where it is missing."""

    def find(name: str) -> Path:
        path = REAL_DATA / name
        if not path.exists():
            pytest.skip(f"no real data: {path} is missing (set METAFACE_TEST_DATA to its folder)")
        return path

    return find
