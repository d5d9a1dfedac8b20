"""Milliseconds a picture with three faces, of one pass and of stages, beside their accuracy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaface._progress import track
from metaface.experiments.staged import Resized, Staged
from metaface.multitask import identification
from metaface.multitask.batch import pictures
from metaface.multitask.metrics import LEAST
from metaface.multitask.model import MultiTask
from metaface.multitask.samples import FaceAnnotations

ROUNDS = 20  # of every picture
FACTORS = (0.75, 1.5)  # sizes of pictures, for the curve
CROPS = (56, 80)  # sides of crops, for the curve
_FACES = 3
_SHORT = ": detect, crop, embed"  # all that identification needs
_ALONE = ": detection, alignment, recognition"  # the same of a shared network


def compare_speed(
    models: Mapping[str, Any],
    accuracies: Mapping[str, float],
    crowd: FaceAnnotations,
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
        other sizes, ``variant``, ``what``, ``ms`` (median over pictures of the medians over
        rounds; NaN: no pictures), ``pictures`` (those in which it has three faces to look at: the
        surest, whatever their scores) and ``one_shot``;
        ``ratios``: of ``what`` is staged, ``median``, ``low`` and ``high`` (5 and 95%, over rounds
        and pictures) of its time by that of ``reference`` beside it: the first shared network,
        and that with the heads alone that detect, crop and embed needs.
    """
    ways = _ways(models)
    with torch.no_grad():
        seconds, kept = _timed(ways, crowd, device, progress)
    points = []
    for i, (name, (variant, model)) in enumerate(ways.items()):
        if name in (variant, f"{variant}{_SHORT}", f"{variant}{_ALONE}"):
            right = accuracies[variant]  # which other heads and stages do not change
        else:
            vectors = identification.embedded(model, part.scenes, device=device)[part.once]
            person = part.scenes.person[part.once]
            each = identification.one_shot(vectors, person, settings.episodes, settings.seed)
            right = float(each.mean())
        mine = np.median(seconds[i], 0)[kept[i]]
        points.append(
            {
                "variant": variant,
                "what": name,
                "ms": 1000 * _median(mine),
                "pictures": int(kept[i].sum()),
                "one_shot": right,
            }
        )
    names = list(ways)
    shared = [name for name in names if name.endswith(_ALONE)]
    ratios = []
    for name, (_, model) in ways.items():
        for alone in shared if isinstance(model, Staged) else ():
            full = alone.removesuffix(_ALONE)
            for reference in (full, alone) if _SHORT in name else (full,):
                a, b = names.index(name), names.index(reference)
                times = (seconds[a] / seconds[b])[:, kept[a] & kept[b]]
                if times.size:
                    low, middle, high = map(float, np.quantile(times, [0.05, 0.5, 0.95]))
                    ratios.append(
                        {
                            "what": name,
                            "reference": reference,
                            "median": middle,
                            "low": low,
                            "high": high,
                        }
                    )
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
            found[f"{variant}{_ALONE}"] = variant, _alone(model)
            for factor in FACTORS:
                found[f"{variant}, pictures x {factor:g}"] = variant, Resized(model, factor)
    return found


def _short(model: Staged, crop: int) -> Staged:
    """``model`` without its describer, with crops of another side."""
    return Staged(model.detector, model.embedding, None, crop).eval()


def _alone(model: MultiTask) -> MultiTask:
    """``model`` without the heads that identification does not need."""
    kept = {n: o for n, o in model.spec["heads"].items() if n in _ALONE}
    other = MultiTask(**(model.spec | {"heads": kept}))
    state = model.state_dict()
    other.load_state_dict({name: state[name] for name in other.state_dict()})
    return other.to(next(model.parameters()).device).eval()


def _timed(
    ways: Mapping[str, tuple[str, Any]],
    crowd: FaceAnnotations,
    device: torch.device,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds ``[ways, rounds, pictures]``; where three faces were found ``[ways, pictures]``."""
    networks = [model for _, model in ways.values()]
    inputs = [pictures(crowd.images[k : k + 1]) for k in range(len(crowd))]
    seconds = np.empty((len(networks), ROUNDS, len(crowd)))
    least = [[_third(model, given.to(device)) for given in inputs] for model in networks]
    for turn in track(range(ROUNDS), desc="timing", show=progress, leave=False):
        for k, given in enumerate(inputs):
            for i, model in enumerate(networks):
                began = time.perf_counter()
                model.predict(given.to(device), least[i][k])
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds[i, turn, k] = time.perf_counter() - began
    kept = np.array(least) < 1
    return seconds, kept


def _third(model: Any, images: Tensor) -> float:
    """The score of the third surest face; 1 where there are fewer. It also warms up."""
    scores = model.predict(images, LEAST).scores
    return float(scores.sort(descending=True)[0][_FACES - 1]) if len(scores) >= _FACES else 1.0


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else np.nan
