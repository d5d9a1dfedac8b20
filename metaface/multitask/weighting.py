"""How the tasks' losses become one step of the shared network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn


class Weighting(nn.Module):
    """A sum of the losses with fixed weights; the base of the others.

    Args:
        weights: by the name of the task; 1 where there is none.

    Example:
        >>> import torch
        >>> from metaface.multitask import Weighting
        >>> class Root(Weighting):
        ...     def weigh(self, losses):
        ...         return {name: loss.sqrt() for name, loss in losses.items()}
        >>> Root().weigh({"pose": torch.tensor(4.0)})
        {'pose': tensor(2.)}
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = dict(weights or {})

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each task adds to the sum."""
        return {name: self.weights.get(name, 1.0) * loss for name, loss in losses.items()}

    def backward(self, losses: Mapping[str, Tensor], net: nn.Module, shared: nn.Module) -> None:
        """Add to the gradients of ``net``, and of this.

        Args:
            losses: scalar, by the name of the task; only of tasks with labels in the batch.
            net: the whole network.
            shared: the part of it that all tasks share.
        """
        torch.stack(list(self.weigh(losses).values())).sum().backward()


class Fixed(Weighting):
    """A sum of the losses with weights that stay, by name; 1 where none is given.

    Example:
        >>> import torch
        >>> from metaface.multitask import Fixed
        >>> losses = {"detection": torch.tensor(2.0), "pose": torch.tensor(1.0)}
        >>> Fixed({"detection": 0.5}).weigh(losses)
        {'detection': tensor(1.), 'pose': tensor(1.)}
    """


class Uncertainty(Weighting):
    """Weights learnt as the tasks' noise (Kendall, Gal, Cipolla 2018).

    Each task adds ``exp(-s) * loss + s``, with s the logarithm of its variance, learnt from 0 on:
    twice their regression form, ``loss / (2 sigma^2) + log sigma``, for every task, so that it
    starts as a plain sum. At best s is the logarithm of the loss. A network of one task is left
    as it is.

    Args:
        tasks: names.

    Example:
        >>> import torch
        >>> from metaface.multitask import Uncertainty
        >>> weighting = Uncertainty(["detection", "pose"])
        >>> losses = {"detection": torch.tensor(2.0), "pose": torch.tensor(1.0)}
        >>> {name: loss.item() for name, loss in weighting.weigh(losses).items()}
        {'detection': 2.0, 'pose': 1.0}
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.log_variances = nn.ParameterDict({name: torch.zeros(()) for name in tasks})

    def weigh(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if len(self.log_variances) == 1:
            return dict(losses)
        s = self.log_variances
        return {name: (-s[name]).exp() * loss + s[name] for name, loss in losses.items()}


class PCGrad(Weighting):
    """Projecting conflicting gradients (Yu et al. 2020), over the shared part.

    Each task's gradient loses what points against another's, one after the other in random order
    (by torch's own generator on the CPU), each as it was before; then they are added. What is not
    shared by all, heads and what reads faces, gets the plain sum. Costs a backward pass a task.

    Args:
        weights: of the losses, as :class:`Fixed`.

    Example:
        >>> import torch
        >>> from metaface.multitask import PCGrad
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> one, other = net(torch.tensor([1.0, 0.0])).sum(), -net(torch.tensor([1.0, 1.0])).sum()
        >>> PCGrad().backward({"one": one, "other": other}, net, shared=net)
        >>> net.weight.grad  # the plain sum is 0, -1
        tensor([[ 0.5000, -1.5000]])
    """

    def backward(self, losses: Mapping[str, Tensor], net: nn.Module, shared: nn.Module) -> None:
        common = [p for p in shared.parameters() if p.requires_grad]
        within = {id(p) for p in common}
        own = [p for p in net.parameters() if p.requires_grad and id(p) not in within]
        rows = []
        for loss in self.weigh(losses).values():
            slopes = torch.autograd.grad(
                loss, [*common, *own], retain_graph=True, allow_unused=True
            )
            rows.append(_flat(slopes[: len(common)], common))
            for parameter, slope in zip(own, slopes[len(common) :], strict=True):
                _add(parameter, slope)
        together = project(torch.stack(rows)).sum(0)
        for parameter, slope in zip(
            common, together.split([p.numel() for p in common]), strict=True
        ):
            _add(parameter, slope.view_as(parameter))


def project(gradients: Tensor) -> Tensor:
    """Each row of ``[T, P]`` without what points against the other rows, in random order."""
    products = gradients @ gradients.T
    # every projection stays in the span of the rows: work on their coefficients
    coefficients = torch.eye(len(gradients), dtype=gradients.dtype, device=gradients.device)
    for task in range(len(gradients)):
        for other in torch.randperm(len(gradients)).tolist():
            along = coefficients[task] @ products[:, other]
            if other != task and along < 0:
                coefficients[task, other] -= along / products[other, other]
    return coefficients @ gradients


def cosines(losses: Mapping[str, Tensor], shared: nn.Module) -> dict[tuple[str, str], float]:
    """The cosine between the gradients of every two tasks over the shared part; the graph is kept.

    NaN where a task has no gradient there.
    """
    common = [p for p in shared.parameters() if p.requires_grad]
    rows = {
        name: _flat(torch.autograd.grad(loss, common, retain_graph=True, allow_unused=True), common)
        for name, loss in losses.items()
    }
    return {
        (a, b): float(rows[a] @ rows[b] / (rows[a].norm() * rows[b].norm()))
        for a, b in combinations(losses, 2)
    }


def _flat(slopes: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """One vector of gradients, zero where there is none."""
    return torch.cat(
        [
            (torch.zeros_like(p) if s is None else s).flatten()
            for s, p in zip(slopes, like, strict=True)
        ]
    )


def _add(parameter: nn.Parameter, slope: Tensor | None) -> None:
    if slope is not None:
        parameter.grad = slope.clone() if parameter.grad is None else parameter.grad + slope
