"""The site of the documents and the packages that are published: what can be checked quickly."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import documents
import pytest
from documents import ROOT

PAGES = [*documents.DOCUMENTS, "CHANGELOG.md"]


@pytest.fixture(scope="module")
def site() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "conf.py"))


def test_every_public_name_is_in_the_reference(site: dict[str, Any]) -> None:
    pages = site["reference_pages"]()
    for file in (ROOT / "metaface").rglob("__init__.py"):
        package = ".".join(file.parent.relative_to(ROOT).parts)
        public = getattr(importlib.import_module(package), "__all__", None)
        if public is None:
            assert package == "metaface.cli", f"{package} has no __all__"
            continue
        for name in public:
            shown = rf":: {package}\.{name}$|^\* ``{name}``: :py:obj:|^\* :doc:`metaface\.{name}`"
            assert re.search(shown, pages[package], re.MULTILINE), f"{package}.{name}"


def test_a_name_of_several_packages_stands_on_one_page(site: dict[str, Any]) -> None:
    pages = site["reference_pages"]()
    assert "autoclass:: metaface.data.FaceSet" in pages["metaface.data"]
    assert "* ``FaceSet``: :py:obj:`metaface.data.FaceSet`" in pages["metaface"]


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```|`[^`]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as repository hosts make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text("utf-8"))):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_relative_to(ROOT) and target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: no heading {link}"


PATH = re.compile(
    r"(?<![\w/.-])(?:metaface|benchmarks|tests|tools)/[\w/.-]*\w/?|(?<![\w/.-])\w+/[\w/]+\.py\b"
)
APART = ("examples/vision/", "my_package/")  # files of learn2learn, and of the pages' readers
GONE = {"metaface.benchmark"}  # shown as an example of a name that moved


@pytest.mark.parametrize("page", documents.DOCUMENTS)
def test_names_in_sentences_are_those_of_today(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL | re.M)
    for code in re.findall(r"`([^`]+)`", text):
        for path in re.findall(PATH, code):
            known = (ROOT / path).exists() or (ROOT / "metaface" / path).exists()
            assert known or path.startswith(APART), f"{page}: {path}"
        for name in re.findall(r"^(?:metaface|mf)\.[\w.]*\w", code):
            if name not in GONE and not name.startswith("metaface.gallery"):
                assert exists(re.sub("^mf", "metaface", name)), f"{page}: {name}"


def exists(name: str) -> bool:
    """Whether a module, or something in one, has this name."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[count:]:
                value = getattr(value, part)
        except AttributeError:
            return False
        return True
    return False


def test_every_page_is_on_the_site() -> None:
    listed = (ROOT / "docs" / "index.rst").read_text("utf-8")
    for page in PAGES:
        name = page.removeprefix("docs/") if page.startswith("docs/") else f"../{page}"
        assert re.search(rf"[ <]{re.escape(name.removesuffix('.md'))}>?$", listed, re.MULTILINE), (
            page
        )


def test_a_python_that_is_missing_is_named(tmp_path: Path) -> None:
    for name in ("metaface-0-py3-none-any.whl", "metaface-0.tar.gz"):
        (tmp_path / name).touch()
    program = [sys.executable, str(ROOT / "tools" / "check_dist.py"), str(tmp_path)]
    done = subprocess.run([*program, "9.99"], capture_output=True, text=True)
    assert done.returncode == 3 and "not installed: Python 9.99" in done.stdout
    (tmp_path / "metaface-0.tar.gz").unlink()
    done = subprocess.run([*program, "9.99"], capture_output=True, text=True)
    assert done.returncode == 1 and "one wheel and one sdist are expected" in done.stderr
