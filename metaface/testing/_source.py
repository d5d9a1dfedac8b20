"""The rules of every data source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from metaface.data import FaceSet, load
from metaface.testing._rules import require


def check_source(source: str | Callable[[], Any]) -> None:
    """Check that photographs can be loaded from a data source.

    Args:
        source: a function without arguments, its own bound by ``functools.partial``; or a name.

    Raises:
        AssertionError: a broken rule; says which, what was found, and why the rule is there.
        ValueError: as ``metaface.data.load`` raises it.

    Example:
        >>> import metaface as mf
        >>> import numpy as np
        >>> class Stripes:
        ...     def __len__(self):
        ...         return 6
        ...     def __getitem__(self, i):
        ...         return np.full((32, 32), 40 * i, np.uint8), i // 2  # picture, person
        >>> mf.testing.check_source(Stripes)
    """

    def loaded(image_size: int) -> FaceSet:
        given = source if isinstance(source, str) else source()
        require(
            not isinstance(given, FaceSet),
            "a source returns a folder, zip or CSV, or a data set",
            "a FaceSet",
            "A FaceSet has a size, and the size is asked for when it is loaded.",
        )
        return load(given, image_size=image_size, progress=False)

    first, again, larger = loaded(16), loaded(16), loaded(24)
    require(
        len(first.person_ids) >= 2,
        "there are two people or more",
        f"{len(first.person_ids)}",
        "Is the label whose photograph it is?",
    )
    for other, at in ((again, "a second time"), (larger, "at another size")):
        require(
            other.people == first.people and np.array_equal(other.person, first.person),
            f"loading {at} gives the same people, in the same order",
            "others",
            "A split by person, and so every figure, depends on the order: sort what you list.",
        )
    require(
        np.array_equal(first.contents, again.contents),
        "loading a second time gives the same pixels",
        "others",
        "A figure could not be repeated.",
    )
