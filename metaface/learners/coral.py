"""CORAL: features of one domain with the spread of another's."""

from __future__ import annotations

import torch
from torch import Tensor


def align_covariance(source: Tensor, target: Tensor, ridge: float = 1e-3) -> Tensor:
    """Source features, moved and turned to the target's mean and covariance.

    Correlation alignment (Sun, Feng, Saenko 2016, arXiv 1511.05547), in closed form: whitened by
    the source's covariance, recoloured by the target's. It asks for no labels. A head that is to
    serve the target domain is fitted to what comes out.

    Args:
        source: float ``[n, D]``.
        target: float ``[m, D]``.
        ridge: added to every variance of both, as a share of their mean (the paper adds 1 to those
            of standardised features): with fewer than D photographs some are zero. 0: the
            covariances match exactly, where there are enough.

    Returns:
        float ``[n, D]``, in the source's dtype; computed in float64.

    Raises:
        ValueError: fewer than two rows, or lengths that differ.

    Example:
        >>> import torch
        >>> from metaface.learners import align_covariance
        >>> photos, sketches = torch.randn(50, 8), 3 * torch.randn(40, 8) + 1
        >>> moved = align_covariance(photos, sketches, ridge=0)
        >>> moved.shape, torch.allclose(moved.mean(0), sketches.mean(0), atol=1e-3)
        (torch.Size([50, 8]), True)
        >>> torch.allclose(torch.cov(moved.T), torch.cov(sketches.T), atol=1e-2)
        True
    """
    if source.ndim != 2 or source.shape[1:] != target.shape[1:] or target.ndim != 2:
        raise ValueError(
            f"align_covariance takes features [n, D] and [m, D], got {list(source.shape)} and "
            f"{list(target.shape)}"
        )
    if min(len(source), len(target)) < 2:
        raise ValueError("align_covariance needs two photographs or more of each domain")
    whiten, colour = (_power(part, sign, ridge) for part, sign in ((source, -0.5), (target, 0.5)))
    centred = source.double() - source.double().mean(0)
    return (centred @ whiten @ colour + target.double().mean(0)).to(source)


def _power(features: Tensor, power: float, ridge: float) -> Tensor:
    """The covariance ``[D, D]`` of features, to a power."""
    covariance = torch.atleast_2d(torch.cov(features.double().T))
    values, vectors = torch.linalg.eigh(covariance)
    values = values + ridge * values.mean()
    if power < 0 and values[0] <= 1e-12 * values[-1]:
        raise ValueError("the source features have no spread in some direction: give ridge")
    return vectors * values.clamp_min(0) ** power @ vectors.mT
