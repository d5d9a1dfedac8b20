"""What several test files share: easy sets of people, small networks, gradients as vectors."""

from __future__ import annotations

import importlib.util
import os
import random
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import metaface as mf
from metaface import evaluate, multitask
from metaface.data import _load, _synthetic
from metaface.faces.alignment import TEMPLATE
from metaface.faces.detections import Detections
from metaface.learners import LEARNERS
from metaface.recognition import Network, Preprocessing
from metaface.testing._tasks import (
    few_tasks,
    flat_gradient,
    one,
    patterns,
    relative_error,
    tiny,
)
from metaface.training import Budget, History, Run, Task, Validation, meta

__all__ = ["few_tasks", "flat_gradient", "one", "patterns", "relative_error", "tiny"]

# where learn2learn is required, tests do not skip for want of it: they fail
REQUIRED = os.environ.get("CI") or os.environ.get("METAFACE_REQUIRE_LEARN2LEARN")
LEARN2LEARN = bool(REQUIRED or importlib.util.find_spec("learn2learn"))
needs_learn2learn = pytest.mark.skipif(
    not LEARN2LEARN, reason="no learn2learn: run `.venv/bin/python tools/build_learn2learn.py`"
)
RUNNABLE = [n for n in LEARNERS if LEARN2LEARN or not n.startswith("l2l-")]
every_learner = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=needs_learn2learn) if n.startswith("l2l-") else n for n in LEARNERS],
)


def portrait(person: int, photo: int = 0, light: float = 0.0) -> np.ndarray:
    """Somebody's photograph, uint8 [112, 112, 3]: their pattern of coloured squares, a little
    different each time, and as much as is asked for of a light that falls on everybody alike."""
    random = np.random.default_rng([person, photo])
    who, lights = (np.random.default_rng(seed).normal(size=(4, 4, 3)) for seed in (person, 10**6))
    squares = 128 + 30 * who + 10 * random.normal(size=(4, 4, 3)) + light * lights
    pixels = squares.repeat(28, 0).repeat(28, 1) + 8 * random.normal(size=(112, 112, 1))
    return pixels.clip(0, 255).astype(np.uint8)


def group(*portraits: np.ndarray) -> np.ndarray:
    """Several people in a row."""
    return np.concatenate(portraits, 1)


class Row:
    """A detector of the faces of :func:`portrait` and :func:`group`, scaled or not."""

    name = "row"

    def __call__(self, picture: np.ndarray) -> Detections:
        side = picture.shape[0]
        starts = np.arange(picture.shape[1] // side) * side
        starts = np.array([s for s in starts if picture[:, s : s + side].std() > 2], np.float32)
        rest = np.zeros_like(starts)
        boxes = np.stack([starts, rest, rest + side, rest + side], 1)
        points = TEMPLATE * side / 112 + np.stack([starts, rest], 1)[:, None]
        return Detections(boxes, points.astype(np.float32), rest + np.float32(0.99))


class Squares(nn.Module):
    """The mean of every square, less grey, turned at random: float [n, 3, 16, 16] to [n, dim]."""

    def __init__(self, dim: int = 32, seed: int = 0) -> None:
        super().__init__()
        turn = torch.randn(48, dim, generator=torch.Generator().manual_seed(seed)) / dim**0.5
        self.turn = nn.Parameter(turn)

    def forward(self, pictures: Tensor) -> Tensor:
        return (nn.functional.avg_pool2d(pictures, 4) - 0.5).flatten(1) @ self.turn


def squares(seed: int = 0, dim: int = 32) -> Network:
    """An embedder of :func:`portrait`."""
    preprocessing = Preprocessing(size=(16, 16))
    return Network(
        Squares(dim, seed), preprocessing, name=f"squares-{seed}", architecture="squares"
    )


def damaged(data: bytes, seed: int) -> bytes:
    """``data`` with one to 512 bytes damaged, in one of five ways, by ``seed``."""
    rng, spoilt = random.Random(seed), bytearray(data)
    count, at = rng.randint(1, 512), rng.randrange(len(data))
    kind = seed % 5
    if kind == 0:
        for _ in range(count):
            spoilt[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        for _ in range(count):
            spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        spoilt[at : at + count] = bytes(len(spoilt[at : at + count]))
    elif kind == 3:
        del spoilt[len(data) - count :]
    else:
        spoilt[at] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def train(learner: Any, faces: Any, val: Any = None, **given: Any) -> History:
    """``metaface.train`` with all its options in one row, as tests vary them one by one."""
    return mf.train(learner, faces, val, **_grouped(given))


def fit(model: Any, source: Any, **given: Any) -> History:
    """``metaface.multitask.fit`` with all its options in one row."""
    own = {n: given.pop(n) for n in ("lr", "weighting", "clip", "cosines_every") if n in given}
    return multitask.fit(model, source, **own, **_grouped(given))


def _grouped(given: dict[str, Any]) -> dict[str, Any]:
    former = {"val_ways": "ways", "val_shots": "shots", "val_episodes": "episodes"}
    former |= {"on_validation": "on_row", "on_row": "on_row"}
    left = dict(given)
    groups: dict[str, Any] = {}
    validation = {now: left.pop(name) for name, now in former.items() if name in left}
    if validation:
        groups["validation"] = Validation(**validation)
    for option, kind in (("task", Task), ("budget", Budget), ("run", Run)):
        mine = {f.name: left.pop(f.name) for f in fields(kind) if f.name in left}
        if mine:
            groups[option] = kind(**mine)
    return groups | left


def validate_on_few(patch: pytest.MonkeyPatch) -> None:
    """Have training validate on ten tasks, where which weights it keeps is not what is tested."""

    def few(*args: Any, episodes: int, **options: Any) -> Any:
        return evaluate(*args, episodes=min(episodes, 10), **options)

    patch.setattr(meta, "evaluate", few)


def render_few(patch: pytest.MonkeyPatch) -> None:
    """Have ``"synthetic"`` be 40 people with 8 photographs at the most: the 600 with 20 that it is
    where nothing is asked for take ten seconds and more."""

    def few(name: str, people: int, photos: int, *rest: Any) -> Any:
        return _synthetic.load_synthetic(name, min(people, 40), min(photos, 8), *rest)

    patch.setattr(_load, "load_synthetic", few)


def draw_nothing(patch: pytest.MonkeyPatch) -> None:
    """Have pages hold empty figures: drawing them takes longer than a small job."""
    from metaface.report import plots  # not imported by the processes that import this file

    patch.setattr(plots.Figure, "draw_without_rendering", lambda figure: None)
    patch.setattr(plots.Figure, "savefig", lambda figure, file, **_: file.write("<svg></svg>"))


def with_options(command: list[str], *options: str) -> list[str]:
    """A command with ``options``, in place of those of the same name that it has; each of these has
    one value."""
    kept = list(command)
    for name in options:
        if name.startswith("--") and name in kept:
            del kept[(at := kept.index(name)) : at + 2]
    return [*kept, *options]
