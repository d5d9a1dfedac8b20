"""One dial turned up, the others quiet: photographs that differ by one nuisance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from metaface.synthetic._photo import DOMAINS, Dials
from metaface.synthetic._render import Renders, render

QUIET = replace(DOMAINS["frontal"], window=Dials().window)
"""Where every nuisance is nearly off: what the steps start from."""

STEPS: dict[str, tuple[float, ...]] = {
    "yaw": (15, 30, 45, 60, 75),
    "pitch": (8, 16, 24, 32, 40),
    "roll": (9, 18, 27, 36, 45),
    "light": (45, 56, 67, 78, 90),
    "exposure": (0.4, 0.55, 0.7, 0.85, 1.0),
    "mask": (0.2, 0.4, 0.6, 0.8, 1.0),
    "cap": (0.2, 0.4, 0.6, 0.8, 1.0),
    "hand": (0.2, 0.4, 0.6, 0.8, 1.0),
    "styling": (0.36, 0.52, 0.68, 0.84, 1.0),
    "blur": (0.28, 0.46, 0.64, 0.82, 1.0),
    "noise": (0.32, 0.49, 0.66, 0.83, 1.0),
    "sketch": (0.2, 0.4, 0.6, 0.8, 1.0),
}
"""By the name of a dial, its setting at severity 1 to 5: a yaw in degrees, the greatest pitch, roll
or angle of the light (which is hard, too) in degrees, else a chance or strength as in Dials."""


def turn_dial(name: str, step: int) -> Dials:
    """The quiet dials with ``name`` at its severity ``step``, 0 (as quiet as the others) to 5.

    Raises:
        ValueError: no such steps.

    Example:
        >>> from metaface.synthetic import STEPS, turn_dial
        >>> turn_dial("blur", 3).blur, STEPS["blur"]
        (0.64, (0.28, 0.46, 0.64, 0.82, 1.0))
    """
    if name not in STEPS:
        raise ValueError(f"no steps of a dial {name!r}: choose of {', '.join(STEPS)}")
    if not 0 <= step <= len(STEPS[name]):
        raise ValueError(f"step={step}: {name} has the steps 0 to {len(STEPS[name])}")
    if step == 0:
        return QUIET
    value = STEPS[name][step - 1]
    if name == "yaw":
        return replace(QUIET, yaw=(value, value))
    if name == "light":
        return replace(QUIET, light_angle=value, hardness=value / 90)
    return replace(QUIET, **{name: value})  # type: ignore[arg-type]


def render_steps(
    name: str, people: np.ndarray, photos: int, image_size: int, seed: int = 0, first: int = 0
) -> Iterator[Renders]:
    """The same photographs of the same people at every step of a dial, from ``first`` on.

    All but that dial is drawn alike, so photograph i of one step is photograph i of another.

    Args:
        people: int ``[P]``, ids; see :func:`render`, as for the rest.

    Raises:
        ValueError: no such dial or step, when the first photographs are asked for.

    Example:
        >>> from metaface.synthetic import render_steps
        >>> steps = list(render_steps("yaw", [0, 1], photos=2, image_size=32, first=1))
        >>> [abs(step.pose[:, 0]).mean().round().item() for step in steps]
        [15.0, 30.0, 45.0, 60.0, 75.0]
    """
    turn_dial(name, first)  # refuses what there is not
    for step in range(first, len(STEPS[name]) + 1):
        domain = {"steps": turn_dial(name, step)}
        yield render([int(person) for person in people], photos, image_size, domain, seed)
