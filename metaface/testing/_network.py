"""The rules of every embedding network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from metaface.data import IMAGE_SIZE
from metaface.learners import MAML
from metaface.nets import MODES, NormMode, build, norm_mode
from metaface.testing._rules import require
from metaface.testing._tasks import few_tasks, flat_gradient


def check_network(
    network: str | Callable[[int, int, NormMode], nn.Module], image_size: int = IMAGE_SIZE
) -> None:
    """Check that learners can adapt a network.

    Args:
        network: a class or function of channels (1 or 3), side of the photographs and norm; or a
            network's name.
        image_size: side of the photographs to try it on, a multiple of 4.

    Raises:
        AssertionError: a broken rule; says which, what was found, and why the rule is there.
        ValueError: learners refuse the network; says why, and what to do.

    Example:
        >>> import metaface as mf
        >>> mf.testing.check_network(lambda channels, side, norm: mf.nets.Conv4(channels, 8, norm))
    """
    make = partial(build, network) if isinstance(network, str) else network
    for norm in MODES:
        for channels in (3, 1):
            _gives_features(_seeded(make, channels, image_size, norm), channels, image_size, norm)
        _saves_and_loads(make, image_size, norm)
    _adapts(_seeded(make, 3, image_size, "group"), image_size)


def _seeded(
    make: Callable[[int, int, NormMode], nn.Module],
    channels: int,
    image_size: int,
    norm: NormMode,
    seed: int = 0,
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(channels, image_size, norm)


@torch.no_grad()
def _gives_features(net: nn.Module, channels: int, image_size: int, norm: NormMode) -> None:
    images = torch.rand(
        4, channels, image_size, image_size, generator=torch.Generator().manual_seed(0)
    )
    kept = images.clone()
    net.eval()
    features = net(images)
    what = f"{features.dtype} {list(features.shape)}" if hasattr(features, "shape") else "no tensor"
    require(
        hasattr(features, "shape")
        and features.ndim == 2
        and len(features) == 4
        and features.is_floating_point()
        and bool(features.isfinite().all()),
        "photographs float [n, C, H, W] in 0..1 give finite floats [n, D]",
        f"{what} for {list(images.shape)}",
        "Learners compare one vector a photograph: end the network with nn.Flatten().",
    )
    require(
        torch.equal(images, kept),
        "the photographs are left as they are",
        "other ones",
        "They are used again: do not change the input in place.",
    )
    require(
        norm_mode(net) in (norm, "none"),
        "normalisation is in the mode that is asked for",
        f"mode {norm_mode(net)} where {norm} was asked for",
        "Results are told apart by it: normalise with metaface.nets.Norm2d(channels, norm).",
    )
    require(
        torch.equal(net(images), features),
        "the same photographs give the same features",
        "other ones at the second call",
        "Take out what draws random numbers, or changes as it runs.",
    )
    alone = torch.cat([net(image[None]) for image in images])
    require(
        norm_mode(net) == "batch" or torch.allclose(alone, features, rtol=1e-3, atol=1e-4),
        "a photograph's features do not depend on those beside it, but for norm batch",
        f"features up to {float((alone - features).abs().max()):.2g} apart, norm {norm}",
        "One photograph must be identified as it is in a group.",
    )
    require(
        not torch.allclose(features[0], features[1]),
        "different photographs have different features",
        "the same for two random ones",
        "Nobody can be told apart by them.",
    )


@torch.no_grad()
def _saves_and_loads(
    make: Callable[[int, int, NormMode], nn.Module], image_size: int, norm: NormMode
) -> None:
    images = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    first = _seeded(make, 3, image_size, norm).eval()
    second = _seeded(make, 3, image_size, norm, seed=1).eval()
    second.load_state_dict(first.state_dict())
    require(
        torch.equal(second(images), first(images)),
        "a network whose state_dict is loaded into a fresh one gives the same features, exactly",
        f"other features, norm {norm}",
        "A checkpoint is the state_dict: what decides the features must be in it.",
    )


def _adapts(net: nn.Module, image_size: int) -> None:
    learner = MAML(net, inner_steps=1).double()
    learner.meta_step(few_tasks(2, ways=2, shots=1, queries=1, size=image_size))
    gradient = flat_gradient(learner)
    require(
        bool(gradient.isfinite().all()) and bool(gradient.any()),
        "the meta-gradient of second-order MAML is finite, and not zero",
        f"a gradient with norm {float(gradient.norm()):.2g}",
        "Every operation needs a second derivative, and weights must be parameters.",
    )
