"""Milliseconds a picture with three faces, of one pass and of stages, beside their accuracy."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metaface._progress import track
from metaface.experiments.joint_scenes import TestScenes
from metaface.experiments.staged import Resized, Staged
from metaface.multitask import identification
from metaface.multitask.batch import to_tensor
from metaface.multitask.metrics import MIN_SCORE
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
    test: TestScenes,
    settings: Any,
    device: torch.device,
    progress: bool,
) -> dict[str, Any]:
    """Time all networks on the same pictures, in turn, in this process.

    Args:
        models: by variant.
        accuracies: 5-way 1-shot, by variant.
        crowd: pictures with three faces.
        test: scenes, for the accuracy of each.
        settings: of the comparison: ``episodes`` and ``seed`` count.

    Returns:
        ``threads``; ``points``: of each network, and of the first shared and all staged ones at
        other sizes, ``variant``, ``what``, ``ms`` (median over pictures of the medians over
        rounds; NaN: no pictures), ``pictures`` (those in which it has three faces to look at: the
        surest, whatever their scores) and ``one_shot``;
        ``ratios``: of ``what`` is staged, ``median``, ``low`` and ``high`` (5 and 95%, over rounds
        and pictures) of its time by that of ``reference`` beside it: the first shared network,
        and that with the heads alone that detect, crop and embed needs.
    """
    timed = _list_timed(models)
    with torch.no_grad():
        seconds, kept = _time(timed, crowd, device, progress)
    points = []
    for i, (name, (variant, model)) in enumerate(timed.items()):
        accuracy = accuracies[variant]
        # other heads and stages do not change it; other sizes do
        if name not in (variant, f"{variant}{_SHORT}", f"{variant}{_ALONE}"):
            vectors = identification.embed_scenes(model, test.scenes, device=device)[test.rows]
            each = identification.measure_one_shot(
                vectors, test.person, settings.episodes, settings.seed
            )
            accuracy = float(each.mean())
        points.append(
            {
                "variant": variant,
                "what": name,
                "ms": 1000 * _median(np.median(seconds[i], 0)[kept[i]]),
                "pictures": int(kept[i].sum()),
                "one_shot": accuracy,
            }
        )
    ratios = []
    row = {name: i for i, name in enumerate(timed)}
    for name, reference in _list_pairs(timed):
        a, b = row[name], row[reference]
        times = (seconds[a] / seconds[b])[:, kept[a] & kept[b]]
        if times.size:
            low, median, high = map(float, np.quantile(times, [0.05, 0.5, 0.95]))
            ratio = {"what": name, "reference": reference, "median": median}
            ratios.append({**ratio, "low": low, "high": high})
    return {"threads": torch.get_num_threads(), "points": points, "ratios": ratios}


def _list_pairs(timed: Mapping[str, tuple[str, Any]]) -> Iterator[tuple[str, str]]:
    """The name of each staged network, and those of the shared ones that it is compared with."""
    shared = [name.removesuffix(_ALONE) for name in timed if name.endswith(_ALONE)]
    for name, (_, model) in timed.items():
        for full in shared if isinstance(model, Staged) else ():
            yield name, full
            if _SHORT in name:
                yield name, f"{full}{_ALONE}"


def _list_timed(models: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """What is timed, by name: the variant, and the network."""
    timed: dict[str, tuple[str, Any]] = {}
    first = True
    for variant, model in models.items():
        timed[variant] = variant, model
        if isinstance(model, Staged):
            short = _shorten(model, model.crop)
            timed[f"{variant}{_SHORT}"] = variant, short
            for side in CROPS:
                name = f"{variant}{_SHORT}, crops of {side}"
                timed[name] = variant, _shorten(model, side)
        elif first:
            first = False
            timed[f"{variant}{_ALONE}"] = variant, _keep_identifying(model)
            for factor in FACTORS:
                timed[f"{variant}, pictures x {factor:g}"] = variant, Resized(model, factor)
    return timed


def _shorten(model: Staged, crop: int) -> Staged:
    """``model`` without its describer, with crops of another side."""
    return Staged(model.detector, model.embedding, None, crop).eval()


def _keep_identifying(model: MultiTask) -> MultiTask:
    """``model`` without the heads that identification does not need."""
    heads = {n: o for n, o in model.spec["heads"].items() if n in _ALONE}
    other = MultiTask.from_spec(model.spec | {"heads": heads})
    state = model.state_dict()
    other.load_state_dict({name: state[name] for name in other.state_dict()})
    return other.to(next(model.parameters()).device).eval()


def _time(
    timed: Mapping[str, tuple[str, Any]],
    crowd: FaceAnnotations,
    device: torch.device,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds ``[networks, rounds, pictures]``, and bool ``[networks, pictures]``: three faces are
    found."""
    networks = [model for _, model in timed.values()]
    inputs = [to_tensor(crowd.images[k : k + 1]) for k in range(len(crowd))]
    seconds = np.empty((len(networks), ROUNDS, len(crowd)))
    scores = [[_score_third(model, given.to(device)) for given in inputs] for model in networks]
    for turn in track(range(ROUNDS), desc="timing", show=progress, leave=False):
        for k, given in enumerate(inputs):
            for i, model in enumerate(networks):
                began = time.perf_counter()
                model.predict(given.to(device), scores[i][k])
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds[i, turn, k] = time.perf_counter() - began
    return seconds, np.array(scores) < 1


def _score_third(model: Any, images: Tensor) -> float:
    """The score of the third surest face; 1 where there are fewer. It also warms up."""
    scores = model.predict(images, MIN_SCORE).scores
    return float(scores.sort(descending=True)[0][_FACES - 1]) if len(scores) >= _FACES else 1.0


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if values.size else np.nan
