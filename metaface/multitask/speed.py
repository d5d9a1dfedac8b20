"""Milliseconds a picture with three faces, of one pass and of stages, beside their accuracy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from metaface.multitask import identification
from metaface.multitask.batch import pictures
from metaface.multitask.samples import Labelled
from metaface.multitask.staged import Resized, Staged

ROUNDS = 20  # of every picture
FACTORS = (0.75, 1.5)  # sizes of pictures, for the curve
CROPS = (56, 80)  # sides of crops, for the curve
_FACES = 3
_SHORT = ": detect, crop, embed"  # all that identification needs


def compare_speed(
    models: Mapping[str, Any],
    accuracies: Mapping[str, float],
    crowd: Labelled,
    part: Any,
    settings: Any,
    device: torch.device,
    progress: bool,
) -> dict[str, Any]:
    """Time all networks on the same pictures, in turn, in this process.

    Args:
        models: by variant.
        accuracies: 5-way 1-shot, by variant.
        crowd: pictures with three faces.
        part: test scenes and ``once``, for the accuracy of each.
        settings: of the comparison.

    Returns:
        ``threads``; ``points``: of each network, and of the first shared and all staged ones at
        other sizes, ``variant``, ``what``, ``ms`` (median over pictures of which it finds three
        faces of the medians over rounds; NaN: of none), ``pictures`` and ``one_shot``;
        ``ratios``: of each staged way, ``median``, ``low`` and ``high`` (5 and 95%, over rounds
        and pictures) of its time by that of the first shared network beside it.
    """
    ways = _ways(models)
    with torch.no_grad():
        seconds, kept = _timed(ways, crowd, device, progress)
    points = []
    for i, (name, (variant, model)) in enumerate(ways.items()):
        if name in (variant, f"{variant}{_SHORT}"):
            right = accuracies[variant]  # whose embeddings need no describer
        else:
            vectors = identification.embedded(model, part.scenes, device=device)[part.once]
            person = part.scenes.person[part.once]
            each = identification.one_shot(vectors, person, settings.episodes, settings.seed)
            right = float(each.mean())
        mine = np.median(seconds[i], 0)[kept[i]]
        points.append(
            {
                "variant": variant, "what": name, "ms": 1000 * _median(mine),
                "pictures": int(kept[i].sum()), "one_shot": right,
            }
        )  # fmt: skip
    joint = next((i for i, (_, m) in enumerate(ways.values()) if not isinstance(m, Staged)), None)
    ratios = {}
    for i, (name, (_, model)) in enumerate(ways.items()):
        if joint is None or not isinstance(model, Staged):
            continue
        both = kept[i] & kept[joint]
        times = (seconds[i] / seconds[joint])[:, both]
        if times.size:
            low, middle, high = np.quantile(times, [0.05, 0.5, 0.95])
            ratios[name] = {"median": float(middle), "low": float(low), "high": float(high)}
    return {"threads": torch.get_num_threads(), "points": points, "ratios": ratios}


def _ways(models: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """What is timed, by name: the variant, and the network."""
    found: dict[str, tuple[str, Any]] = {}
    first = True
    for variant, model in models.items():
        found[variant] = variant, model
        if isinstance(model, Staged):
            short = _short(model, model.crop)
            found[f"{variant}{_SHORT}"] = variant, short
            for side in CROPS:
                name = f"{variant}{_SHORT}, crops of {side}"
                found[name] = variant, _short(model, side)
        elif first:
            first = False
            for factor in FACTORS:
                found[f"{variant}, pictures x {factor:g}"] = variant, Resized(model, factor)
    return found


def _short(model: Staged, crop: int) -> Staged:
    """``model`` without its describer, with crops of another side."""
    return Staged(model.detector, model.embedding, None, crop).eval()


def _timed(
    ways: Mapping[str, tuple[str, Any]], crowd: Labelled, device: torch.device, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds ``[ways, rounds, pictures]``; where three faces were found ``[ways, pictures]``."""
    n = len(crowd)
    seconds = np.empty((len(ways), ROUNDS, n))
    kept = np.empty((len(ways), n), bool)
    for turn in tqdm(range(-1, ROUNDS), desc="timing", disable=not progress, leave=False):
        for k in range(n):  # the first turn warms up
            for i, (_, model) in enumerate(ways.values()):
                began = time.perf_counter()
                found = model.predict(pictures(crowd.images[k : k + 1], device))
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds[i, max(0, turn), k] = time.perf_counter() - began
                kept[i, k] = len(found) == _FACES
    return seconds, kept


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else np.nan
