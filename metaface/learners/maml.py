"""MAML and its kin: FOMAML, ANIL, Meta-SGD."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import grad
from torch.nn import functional as F

from metaface.episodes import Episodes
from metaface.learners.base import (
    MetaLearner,
    Recipe,
    State,
    Weights,
    check_episodes,
    metrics,
    per_task,
    task_loss,
)


class MAML(MetaLearner):
    """Model-agnostic meta-learning (Finn, Abbeel, Levine 2017, arXiv 1703.03400).

    The inner loop is gradient descent on the mean cross-entropy of a linear head over the
    embedding. The head starts from zero, so it knows no way; the first step's gradient of the
    embedding is then exactly zero, and is not computed.

    Args:
        embedding: the shared network.
        inner_lr: step of the inner loop.
        inner_steps: steps of the inner loop.
        head_lr: step of the head, which has further to go from zero; None: ``inner_lr``.
        first_order: ignore the inner loop's curvature (FOMAML): the meta-gradient is the query
            loss's at the fast weights.
        adapt: ``all`` weights, or only the ``head`` (ANIL, Raghu et al. 2020).
        learn_rates: learn a rate for every weight (Meta-SGD, Li et al. 2017), starting from
            ``inner_lr`` and ``head_lr``.

    Raises:
        ValueError: ``learn_rates`` together with ``first_order``, or a bad ``adapt``.
    """

    recipe = Recipe(ways=5, shots=1, queries=1, meta_batch=8, lr=1e-3)

    def __init__(
        self,
        embedding: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 3,
        *,
        head_lr: float | None = 0.5,
        first_order: bool = False,
        adapt: Literal["all", "head"] = "all",
        learn_rates: bool = False,
    ) -> None:
        super().__init__(embedding)
        if adapt not in ("all", "head"):
            raise ValueError(f"adapt={adapt!r}: choose 'all' or 'head'")
        if learn_rates and first_order:
            raise ValueError("learn_rates needs second order: leave first_order out")
        self.inner_lr = inner_lr
        self.head_lr = inner_lr if head_lr is None else head_lr
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.adapted = adapt
        self.rates: nn.ParameterDict | None = None
        if learn_rates:
            body = self.theta().items() if adapt == "all" else ()
            self.rates = nn.ParameterDict(
                {_key(n): nn.Parameter(torch.full_like(p, inner_lr)) for n, p in body}
            )
            self.rates["head"] = nn.Parameter(torch.tensor(self.head_lr))

    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        features = self.embed(theta, images)
        state: State = {
            "theta": theta,
            "weight": features.new_zeros(ways, features.shape[-1]),
            "bias": features.new_zeros(ways),
        }
        for step in range(self.inner_steps):
            if self.adapted == "all" and step > 0:
                gradient = grad(self._loss)(state, images, labels)
                theta = {
                    name: value - self._rate(name) * gradient["theta"][name]
                    for name, value in state["theta"].items()
                }
            else:
                head = {"weight": state["weight"], "bias": state["bias"]}
                gradient = grad(_head_loss)(head, features, labels)
                theta = state["theta"]
            state = {
                "theta": theta,
                "weight": state["weight"] - self._rate("head") * gradient["weight"],
                "bias": state["bias"] - self._rate("head") * gradient["bias"],
            }
        return state

    def score(self, state: State, images: Tensor) -> Tensor:
        return _linear(state, self.embed(state["theta"], images))

    def meta_step(self, episodes: Episodes) -> dict[str, float]:
        if not self.first_order:
            return super().meta_step(episodes)
        check_episodes(episodes)
        theta = {name: value.detach() for name, value in self.theta().items()}

        def task(
            support: Tensor, labels: Tensor, query: Tensor, query_y: Tensor
        ) -> tuple[Weights, Tensor]:
            with torch.no_grad():
                fast = self.fit(theta, support, labels, episodes.ways)

            def query_loss(weights: Weights) -> tuple[Tensor, Tensor]:
                logits = self.score({**fast, "theta": weights}, query)
                return task_loss(logits, query_y), logits

            return grad(query_loss, has_aux=True)(fast["theta"])

        gradients, logits = per_task(task)(
            episodes.support, episodes.support_y, episodes.query, episodes.query_y
        )
        self.descend({name: g.mean(0) for name, g in gradients.items()})
        return metrics(logits, episodes.query_y)

    def _loss(self, state: State, images: Tensor, labels: Tensor) -> Tensor:
        return task_loss(self.score(state, images), labels)

    def _rate(self, name: str) -> Tensor | float:
        if self.rates is not None:
            return self.rates[_key(name)]
        return self.head_lr if name == "head" else self.inner_lr


def _linear(head: State, features: Tensor) -> Tensor:
    return F.linear(features, head["weight"], head["bias"])


def _head_loss(head: State, features: Tensor, labels: Tensor) -> Tensor:
    return task_loss(_linear(head, features), labels)


def _key(name: str) -> str:
    return name.replace(".", "_")  # nn.ParameterDict takes no dots
