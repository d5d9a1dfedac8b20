"""Procedural faces: as many people and photographs as asked for, from a seed.

``render`` draws people that do not exist. *Who* somebody is (skull, jaw, eyes, brows, nose, mouth,
hair, skin, marks) follows from the seed and the person's number alone; *how* each photograph was
taken (pose, expression, light, occlusion, background, camera) is drawn from the ``Dials`` of a
domain. Every image is a pure function of (seed, person, domain, photo, image size).
"""

from metaface.synthetic._photo import DOMAINS, Dials
from metaface.synthetic._render import Renders, render
from metaface.synthetic._steps import STEPS, render_steps, turn_dial

__all__ = ["DOMAINS", "STEPS", "Dials", "Renders", "render", "render_steps", "turn_dial"]
