"""What a learner refuses, by name and with the remedy: embeddings, photographs, labels, numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from metaface.episodes.sampler import Episodes


def check_embedding(embedding: Any) -> None:
    """Refuse a network that a learner cannot adapt, or adapts to something else each time.

    Raises:
        ValueError: no ``nn.Module``; weights without a shape yet; a module that changes its own
            statistics as it runs, or that draws random numbers: which, where, and what to do.
    """
    if isinstance(embedding, type) and issubclass(embedding, nn.Module):
        name = embedding.__name__
        raise ValueError(f"embedding={name} is a class, not a network: call it, {name}()")
    if not isinstance(embedding, nn.Module):
        raise ValueError(
            f"embedding={embedding!r} is no network (nn.Module): write metaface.nets.Conv4(), or "
            "metaface.nets.build(name)"
        )
    for name, parameter in embedding.named_parameters():
        if is_lazy(parameter):
            raise ValueError(
                f"the embedding's weight {name} has no shape yet: run the network once on a "
                "photograph before a learner gets it"
            )
    for name, module in embedding.named_modules():
        if why := _explain_unfit(module):
            where = f"its module {name}" if name else "it"
            raise ValueError(f"{_name(embedding)} cannot be adapted: {where} is {why}")


def _explain_unfit(module: nn.Module) -> str | None:
    """What ``module`` is, why it does not fit, and the remedy; None: it fits."""
    kind = f"nn.{type(module).__name__}"
    if isinstance(module, _BatchNorm) or (
        isinstance(module, _InstanceNorm) and module.track_running_stats
    ):
        if isinstance(module, nn.BatchNorm2d):
            remedy = (
                "use metaface.nets.Norm2d(channels, mode), mode one of 'group', 'frozen' and "
                "'batch', or let metaface.nets.make_adaptable(network, mode) put it in"
            )
        else:
            remedy = "use nn.LayerNorm or nn.GroupNorm"
        return (
            f"{kind}, which changes its statistics as it runs, within a task and from one to the "
            f"next: {remedy}"
        )
    rate = module.p if isinstance(module, _DropoutNd) else 0.0
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        rate = module.dropout
    if rate > 0 or isinstance(module, nn.RReLU):
        return (
            f"{kind}{f' with dropout {rate:g}' if rate > 0 else ''}, which draws random numbers: a "
            "task would be learnt otherwise each time; build the network without it (dropout=0), "
            "or let metaface.nets.make_adaptable(network) take dropout out"
        )
    return None


def check_features(embedding: nn.Module, features: Any, photographs: int) -> None:
    """Refuse what an embedding makes of ``[n, C, H, W]`` if it is not floats ``[n, D]``."""
    if isinstance(features, Tensor):
        if features.ndim == 2 and len(features) == photographs and features.is_floating_point():
            return
        what = f"{features.dtype} {list(features.shape)}".removeprefix("torch.")
    else:
        what = f"a {type(features).__name__}"
    raise ValueError(
        f"{_name(embedding)} gives {what} for {photographs} photographs: a learner needs "
        "floating-point features [n, D], a row a photograph; end it with nn.Flatten(), or return "
        "them alone"
    )


def check_images(what: str, images: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
    """Refuse photographs that are no floats within ``bounds``.

    Args:
        what: what to call them.
    """
    if not images.is_floating_point():
        remedy = "divide by 255: images / 255" if images.dtype == torch.uint8 else "make floats"
        raise ValueError(
            f"{what} must be floats in {_span(bounds)}, got {images.dtype}: {remedy}, in the order "
            "[..., C, H, W]"
        )
    if not images.numel():
        raise ValueError(f"{what} has no pixels: its shape is {list(images.shape)}")
    low, high = (float(value) for value in torch.aminmax(images.detach()))
    slack = 1e-3 * (bounds[1] - bounds[0])  # of resizing and the like
    if bounds[0] - slack <= low and high <= bounds[1] + slack:  # false of nan, too
        return
    if not (math.isfinite(low) and math.isfinite(high)):
        remedy = "some are not finite: leave these photographs out"
    elif low >= 0 and high <= 255 and bounds == (0, 1):
        remedy = "divide by 255"
    else:
        remedy = "a network scales its input itself, so leave the normalisation out"
    raise ValueError(f"{what} must be in {_span(bounds)}, got {low:g} to {high:g}: {remedy}")


def check_scores(learner: nn.Module, scores: Tensor) -> Tensor:
    """``scores``, if all are finite.

    Raises:
        ValueError: they are not.
    """
    if not scores.isfinite().all():
        raise ValueError(
            f"{type(learner).__name__} gives scores that are not finite: its steps are too long, "
            "or its weights too large; lower inner_lr and head_lr, or train it again"
        )
    return scores


def check_labels(what: str, labels: Any, device: torch.device) -> Tensor:
    """Labels as int64 on ``device``, of a tensor, an array or a list of whole numbers.

    Raises:
        ValueError: they are no whole numbers.
    """
    try:
        given = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    except (TypeError, ValueError):  # names, or lists of several lengths
        given = None
    whole = given is not None and not (
        given.is_floating_point() or given.is_complex() or given.dtype == torch.bool
    )
    if given is None or not whole:
        kind = type(labels).__name__ if given is None else given.dtype
        raise ValueError(
            f"{what} must be whole numbers 0..N-1, one a photograph, got {kind}: number them, "
            "names by numpy.unique(names, return_inverse=True)[1]"
        )
    return given.to(device, torch.int64)


def check_episodes(episodes: Episodes) -> Episodes:
    """The tasks with int64 labels.

    Raises:
        ValueError: what does not make a batch of tasks, by name, shape and value.
    """
    fields: dict[str, Any] = {}
    for side in ("support", "query"):
        images = getattr(episodes, side)
        if not isinstance(images, Tensor):
            raise ValueError(f"{side} must be a tensor, got a {type(images).__name__}")
        labels = check_labels(f"{side}_y", getattr(episodes, f"{side}_y"), images.device)
        if images.ndim != 5 or labels.shape != images.shape[:2] or len(images) != len(episodes):
            raise ValueError(
                f"{side} must be [B, n, C, H, W] with {side}_y [B, n] and people [B, N], got "
                f"{list(images.shape)}, {list(labels.shape)} and {list(episodes.people.shape)}"
            )
        check_images(side, images)
        low, high = (int(value) for value in torch.aminmax(labels))
        if low < 0 or high >= episodes.ways:
            raise ValueError(
                f"{side}_y must be in 0..{episodes.ways - 1}, for people has {episodes.ways} a "
                f"task, got {low} to {high}: renumber the people of each task"
            )
        fields[f"{side}_y"] = labels
    return replace(episodes, **fields)


@contextmanager
def explain_errors(embedding: nn.Module, images: Tensor) -> Iterator[None]:
    """Say of what torch refuses which network and which photographs it was about.

    Raises:
        ValueError: in place of torch's RuntimeError; memory that is short stays what it is.
    """
    try:
        yield
    except RuntimeError as error:
        reason = short(error)
        if out_of_memory(error):
            raise
        what = f"{_name(embedding)} on photographs {list(images.shape[-3:])}: {reason}"
        if any(word in str(error) for word in ("vmap", "functorch", "atching rule", "Batch norm")):
            raise ValueError(
                f"{what}; it cannot be run over several tasks at once: take them one by one, with "
                "learner.task_chunk = 1 (--task-chunk 1), or change the network"
            ) from error
        if "derivative for" in reason:
            raise ValueError(
                f"{what}; this learner needs second derivatives: use a first-order one, such as "
                "fomaml, or anil, or change the network"
            ) from error
        if any(word in reason for word in ("shape", "size", "channels", "dtype", "scalar type")):
            raise ValueError(
                f"{what}; give it photographs of the channels, size and type it was built for "
                "(metaface.data.load takes channels= and image_size=)"
            ) from error
        raise


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, torch's or Python's."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def short(error: BaseException) -> str:
    """The first line of an error's text that says something, or its kind."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def _name(embedding: nn.Module) -> str:
    return f"the embedding {type(embedding).__name__}"


def _span(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:g}..{bounds[1]:g}"
