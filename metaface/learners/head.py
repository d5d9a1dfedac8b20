"""The linear head of the learners that adapt by gradient steps, and how far it steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metaface.learners.base import MetaLearner, State, Weights, compute_losses
from metaface.nets.conv import to_channels_last

log = logging.getLogger("metaface.learners")

_FLOOR = 1e-4  # of the size of the mean: features that differ by less do not count as different
_TINY = 1e-8  # of features that are all zero: its fourth power is still a number
_SUM = 50.0  # absolute sum of standardised features, for Adam


class HeadStep(nn.Module):
    """The steps of a head that starts from zero, made independent of the features it sees.

    A step of a fixed rate on raw features does nothing where they are small, and explodes where
    they are large or many. So the head steps as if the features were standardised: less their
    mean over the support, and divided by the size of what is left. A step then has the same effect
    whatever the number, the scale and the common part of the features.

    By gradient descent, features have a mean squared length of 1 and a rate of ``lr`` is a step of
    ``2 N lr``. A zero head's probabilities are 1/N, so the loss has a curvature of 1/N at most and
    2 N is the longest stable step from there: ``lr=1``. With ``lr=0.5`` and equal shots the first
    step sets each person's row to the mean of their standardised features. By Adam, which moves
    every weight by ``lr``, features have an absolute sum of 50, so that a logit moves by ``50 lr``
    at most.

    Weights say by which rule they were trained, as the buffer ``rule``: 1: on standardised
    features; 0: on the features as they are, as in the papers; -1: so, by a learner from before
    MetaFace 0.2, when every head stepped so.

    Args:
        standardised: False: steps on the features as they are.

    Attributes:
        standardised: the same, until weights of a learner from before are loaded.
    """

    rule: Tensor

    def __init__(self, standardised: bool = True) -> None:
        super().__init__()
        self.standardised = self._asked = standardised
        self.register_buffer("rule", torch.tensor(int(standardised)))

    def measure(self, features: Tensor, *, adam: bool = False) -> tuple[Tensor, Tensor]:
        """Mean ``[T, 1, D]`` and size ``[T, 1, 1]`` of features ``[T, n, D]``.

        The size is the root of the mean squared length of the features less their mean; for Adam
        a fiftieth of the mean of their absolute sum. Features that do not differ get a size above
        their rounding errors.
        """
        mean = features.mean(1, keepdim=True)
        rest = features - mean
        if adam:
            square = rest.abs().sum(-1, keepdim=True).mean(1, keepdim=True).square()
            floor = mean.abs().sum(-1, keepdim=True).square()
        else:
            square = rest.square().sum(-1, keepdim=True).mean(1, keepdim=True)
            floor = mean.square().sum(-1, keepdim=True)
        size = (square + _FLOOR**2 * floor + _TINY**2).sqrt()
        return mean, size / _SUM if adam else size

    def slopes(self, slopes: Weights, features: Tensor, ways: int) -> Weights:
        """``slopes`` with those of the head so that a step of plain descent is one of this rule.

        Args:
            slopes: gradients of the mean loss, ``head.weight`` ``[T, N, D]`` and ``head.bias``
                ``[T, N]`` among them.
            features: of the support, ``[T, S, D]``.
        """
        if not self.standardised:
            return slopes
        mean, size = self.measure(features)
        weight, bias = slopes["head.weight"], slopes["head.bias"]
        weight = 2 * ways * (weight - bias[..., None] * mean) / size.square()
        bias = 2 * ways * bias - (weight @ mean.mT).squeeze(-1)
        return slopes | {"head.weight": weight, "head.bias": bias}

    def raw(self, features: Tensor, *, adam: bool = False) -> Callable[[Weights], Weights]:
        """What turns a head for standardised features into the same head for raw ones.

        For optimisers that are not plain descent: they move the head for standardised features.

        Args:
            features: of the support, ``[T, S, D]``.
        """
        if not self.standardised:
            return lambda weights: weights
        mean, size = self.measure(features, adam=adam)

        def turned(weights: Weights) -> Weights:
            weight = weights["head.weight"] / size
            bias = weights["head.bias"] - (weight @ mean.mT).squeeze(-1)
            return weights | {"head.weight": weight, "head.bias": bias}

        return turned

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        name = f"{prefix}rule"
        state = {name: torch.tensor(-1 if self._asked else 0), **state}
        rule = int(state[name])
        if (rule == 1) != self._asked and rule != -1:
            said = ("raw", "standardised") if self._asked else ("standardised", "raw")
            raise ValueError(
                f"these weights were trained with a head that steps on {said[0]} features, and "
                f"that of this learner steps on {said[1]} ones: build it with the head and head_lr "
                "of then"
            )
        super()._load_from_state_dict(state, prefix, *rest)
        self.standardised = rule == 1
        if rule == -1 and self._asked:
            log.warning("weights from before MetaFace 0.2: their head steps on raw features")


class LinearHeadLearner(MetaLearner):
    """A learner whose fast weights are the embedding's and those of a linear head.

    Args:
        embedding: the shared network.
        head: the papers' learned head, ``nn.Linear(D, N)``: it takes N people, no more and no
            fewer. None: a head that starts from zero, for any number of people.
    """

    def __init__(self, embedding: nn.Module, head: nn.Linear | None = None) -> None:
        super().__init__(embedding)
        self.head = head

    def theta(self) -> Weights:
        learned = {} if self.head is None else self.head.named_parameters(prefix="head")
        return super().theta() | dict(learned)

    def zero_head(self, features: Tensor, ways: int) -> Weights:
        """A head of zeros for features ``[T, n, D]``."""
        tasks, _, width = features.shape
        return {
            "head.weight": features.new_zeros(tasks, ways, width),
            "head.bias": features.new_zeros(tasks, ways),
        }

    def check_ways(self, ways: int) -> None:
        """Refuse tasks that the learned head has not the rows for."""
        if self.head is not None and self.head.out_features != ways:
            raise ValueError(
                f"the learned head knows {self.head.out_features} people, the task has {ways}: "
                "train at that way, or leave the head out, and it takes any number"
            )

    def adapted(self, weights: Weights) -> Weights:
        """Those of ``weights`` that adaptation moves: all that are not frozen."""
        own = dict(self.named_parameters())
        return {n: w for n, w in weights.items() if n not in own or own[n].requires_grad}

    def per_task(self, weights: Weights, tasks: int) -> Weights:
        """Every weight that adaptation moves with a leading T, whether it was shared or not."""
        own = dict(self.named_parameters())
        moving = self.adapted(weights)
        shared = {n: w for n, w in moving.items() if n in own and w.ndim == own[n].ndim}
        laid_out = {n: to_channels_last(w) if w.ndim == 4 else w for n, w in shared.items()}
        return weights | {n: w.expand(tasks, *w.shape) for n, w in laid_out.items()}

    def head_scores(self, weights: Weights, features: Tensor) -> Tensor:
        """Logits ``[T, n, N]`` of features ``[T, n, D]``."""
        weight, bias = weights["head.weight"], weights["head.bias"]
        return features @ weight.mT + (bias if bias.ndim == 1 else bias[:, None])

    def score(self, state: State, images: Tensor) -> Tensor:
        weights = state["theta"]
        return self.head_scores(weights, self.embed(weights, images))

    def losses(self, weights: Weights, images: Tensor, labels: Tensor) -> Tensor:
        """Each task's loss ``[T]`` under the weights."""
        return compute_losses(self.score({"theta": weights}, images), labels)


def is_head(name: str) -> bool:
    """Whether a weight is the head's, by its name."""
    return name.startswith("head.")


def differentiate(loss: Tensor, weights: Weights, *, create_graph: bool) -> Weights:
    """Of ``loss`` by every one of ``weights``."""
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph)
    return dict(zip(weights, slopes, strict=True))
