"""Pages that hold all they show: a template of this folder, filled in."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from metaface._atomic import replacing
from metaface._text import given_path, printable


def write_page(path: str | Path, template: str, **values: Any) -> None:
    """Write a page, whole or not at all.

    Args:
        path: the HTML file.
        template: the name of one beside this file.
        values: for the template, which escapes every one, for HTML and as ``printable`` does.

    Raises:
        OSError: the file cannot be written; what was there is as it was.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("metaface", "report"),
        autoescape=True,
        trim_blocks=True,
        finalize=_escape_controls,
    )
    page = environment.get_template(template).render(**values)
    with replacing(given_path(path, "the page")) as file:
        file.write(page.encode())


def inline(picture: Image.Image) -> str:
    """A picture as a ``data:`` URL, for the ``src`` of an ``<img>``."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _escape_controls(value: Any) -> Any:
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value, keep="\n") if is_text else value
