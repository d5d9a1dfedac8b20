"""Fixtures for every test: a cache of their own, and the real data sets where there are any."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def test_data() -> Callable[[str], Path]:
    """``test_data("att_faces.zip")``: a real file; skips the test where it is missing."""

    def find(name: str) -> Path:
        path = REAL_DATA / name
        if not path.exists():
            pytest.skip(f"no real data: {path} is missing (set METAFACE_TEST_DATA to its folder)")
        return path

    return find
