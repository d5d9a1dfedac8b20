"""The site of ``make docs``: README, CONTRIBUTING, CHANGELOG, the pages here, and the reference.

The pages of the reference are written from each package's ``__all__`` before the site is built, so
that none can be forgotten. A name that several packages offer stands on the page of the lowest one;
the others' pages link to it.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType

project = "MetaFace"
version = release = installed_version("metaface")
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**"]
exclude_patterns = [".venv*", "results", "site"]  # which are large, and not looked through
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = f"MetaFace {version}"
html_show_copyright = html_show_sphinx = False

myst_heading_anchors = 3  # links to headings, as they are written for the repository's pages
suppress_warnings = ["ref.python"]  # a short name in a docstring may belong to several classes

autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False  # torch's of forward says nothing of a network
autodoc_member_order = "bysource"
napoleon_custom_sections = [(name, "params_style") for name in ("Losses", "Modes", "Ways")]
napoleon_use_ivar = True
napoleon_use_rtype = False

# -- the reference -----------------------------------------------------------------------------

REFERENCE = Path(__file__).with_name("reference")
PACKAGES = (  # from the lowest to the highest
    "options",
    "synthetic",
    "data",
    "nets",
    "faces",
    "episodes",
    "learners",
    "metrics",
    "evaluation",
    "training",
    "multitask.heads",
    "multitask",
    "recognition.embedders",
    "recognition.gallery",
    "recognition",
    "report",
    "experiments",
    "testing",
)


def reference_pages() -> dict[str, str]:
    """The text of each page, by the name of its package."""
    homes: dict[object, str] = {}
    pages = {}
    for package in [*(f"metaface.{name}" for name in PACKAGES), "metaface"]:
        module = importlib.import_module(package)
        lines = [package, "=" * len(package), "", f".. automodule:: {package}", "   :no-members:"]
        lines.append("")
        for name in module.__all__:
            value, path = getattr(module, name), f"{package}.{name}"
            if isinstance(value, ModuleType):
                if value.__name__.removeprefix("metaface.") in PACKAGES:
                    lines += [f"* :doc:`{value.__name__}`"]
                else:
                    lines += ["", f".. automodule:: {value.__name__}", ""]
            elif home := homes.get(_identity(value)):
                lines += [f"* ``{name}``: :py:obj:`{home}`"]
            else:
                homes[_identity(value)] = path
                lines += ["", *_described(path, value), ""]
        pages[package] = "\n".join([*lines, ""])
    return pages


def _described(path: str, value: object) -> list[str]:
    """A class or function by its docstring, a constant by what is in it."""
    if isinstance(value, type):
        return [f".. autoclass:: {path}"]
    if inspect.isroutine(value):
        return [f".. autofunction:: {path}"]
    content = value if isinstance(value, dict | list | tuple | set) else [value]
    return [f".. py:data:: {path}", "", "   " + ", ".join(f"``{one}``" for one in content)]


def _identity(value: object) -> object:
    """Of two names for one thing the same, of two things another."""
    module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
    return (module, name) if module and name else id(value)


def write_reference() -> None:
    """Write the pages anew, and the list of them."""
    shutil.rmtree(REFERENCE, ignore_errors=True)
    REFERENCE.mkdir()
    for package, text in reference_pages().items():
        (REFERENCE / f"{package}.rst").write_text(text, encoding="utf-8")


def setup(app: object) -> None:
    """Called by Sphinx before it reads the pages."""
    write_reference()
