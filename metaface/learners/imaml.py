"""iMAML: the meta-gradient of the inner loop's solution, whatever way led to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from metaface.arguments import check_counts, check_rates
from metaface.episodes.sampler import Episodes
from metaface.learners.base import Recipe, State, Weights, compute_losses
from metaface.learners.head import HeadStep, LinearHeadLearner, differentiate, is_head


class IMAML(LinearHeadLearner):
    """Implicit MAML (Rajeswaran, Finn, Kakade, Levine 2019, arXiv 1909.04630).

    The inner loop descends the support loss plus ``strength / 2`` times the squared distance to
    the weights that it starts from. Where it has arrived, with H the support loss's Hessian there,
    the meta-gradient is (I + H / strength)^-1 of the query loss's: conjugate gradients on exact
    Hessian-vector products solve it, in the memory of one step, whatever the number of steps.

    The head starts from zero, for any number of people, on features that are standardised by the
    support's before the first step; its distance to zero counts ``head_strength / 2``. Its Hessian
    is a part of H. A direction along which H takes nine tenths of the smaller strength away, or
    more, ends a task's conjugate gradients.

    Args:
        embedding: the shared network.
        inner_lr: step of the embedding.
        inner_steps: steps of the inner loop.
        strength, head_strength: lambda of the paper, of the embedding and of the head, above 0.
        test_steps: steps when adapting; None: as many as in training.
        solver_steps: of the conjugate gradients, 5 in the paper.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.IMAML(mf.nets.Conv4())
        >>> learner.adapt(images, [0, 1]).predict(images)
        tensor([0, 1])
    """

    recipe = Recipe(ways=5, shots=1, queries=1, meta_batch=8, lr=1e-3)

    def __init__(
        self,
        embedding: nn.Module,
        inner_lr: float = 0.003,
        inner_steps: int = 10,
        *,
        strength: float = 2.0,
        head_strength: float = 0.1,
        test_steps: int | None = None,
        solver_steps: int = 5,
    ) -> None:
        super().__init__(embedding)
        check_rates(inner_lr=inner_lr, strength=strength, head_strength=head_strength)
        check_counts(1, inner_steps=inner_steps, test_steps=test_steps, solver_steps=solver_steps)
        if not (strength > 0 and head_strength > 0):
            raise ValueError(
                f"strength={strength} and head_strength={head_strength}: must be above 0"
            )
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.strength = strength
        self.head_strength = head_strength
        self.head_step = HeadStep()
        self.test_steps = inner_steps if test_steps is None else test_steps
        self.solver_steps = solver_steps

    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        still, weights, raw = self._descend(theta, images, labels, ways)
        return {"theta": still | raw(weights)}

    @torch.no_grad()
    def _descend(
        self, theta: Weights, images: Tensor, labels: Tensor, ways: int
    ) -> tuple[Weights, Weights, Callable[[Weights], Weights]]:
        """The weights that stay and those where the inner loop arrives, whose head is one for
        standardised features; and what makes it one for raw ones."""
        features = self.embed(theta, images)
        raw = self.head_step.raw(features)
        start = {n: w.detach() for n, w in self.adapted(self.per_task(theta, len(images))).items()}
        still = {n: w.detach() for n, w in theta.items() if n not in start}
        start |= self.zero_head(features, ways)
        weights = dict(start)
        # the curvature of a cross-entropy of standardised features is 1/2 at most, and the
        # embedding moves
        rates = {n: 1 / (1 + self.head_strength) if is_head(n) else self.inner_lr for n in start}
        for _ in range(self.inner_steps if self.training else self.test_steps):
            with torch.enable_grad():
                now = {n: w.detach().requires_grad_() for n, w in weights.items()}
                loss = self.losses(still | raw(now), images, labels).sum()
                slopes = differentiate(loss, now, create_graph=False)
            for n, w in weights.items():
                slope = slopes[n] + self._pull(n) * (w - start[n])
                weights[n] = torch.sub(w, slope, alpha=rates[n])
        return still, weights, raw

    def _pull(self, name: str) -> float:
        return self.head_strength if is_head(name) else self.strength

    def meta_gradient(self, episodes: Episodes) -> tuple[Weights, Tensor]:
        given = episodes.support, episodes.support_y
        still, weights, raw = self._descend(self.theta(), *given, episodes.ways)
        now = {n: w.detach().requires_grad_() for n, w in weights.items()}
        logits = self.score({"theta": still | raw(now)}, episodes.query)
        loss = compute_losses(logits, episodes.query_y).sum()
        wanted = differentiate(loss, now, create_graph=False)
        support = self.losses(still | raw(now), *given).sum()
        slopes = differentiate(support, now, create_graph=True)

        def curve(direction: Weights) -> Weights:
            """(H + the pulls) times a direction."""
            products = torch.autograd.grad(
                list(slopes.values()),
                list(now.values()),
                list(direction.values()),
                retain_graph=True,
            )
            return {n: p + self._pull(n) * direction[n] for n, p in zip(now, products, strict=True)}

        least = 0.1 * min(self.strength, self.head_strength)
        found = solve(curve, wanted, self.solver_steps, least)
        total = {n: self.strength * x.sum(0) for n, x in found.items() if not is_head(n)}
        return total, logits.detach()


def solve(
    curve: Callable[[Weights], Weights], wanted: Weights, steps: int, least: float = 0.0
) -> Weights:
    """x with ``curve(x)`` near ``wanted``, by conjugate gradients, each task by itself.

    Args:
        curve: a symmetric linear function of weights that lead with T.
        wanted: such weights.
        steps: of the conjugate gradients; as many as a task has weights solve it exactly.
        least: curvature below which a direction is not followed: the task ends there.
    """
    found = {n: torch.zeros_like(w) for n, w in wanted.items()}
    rest = direction = wanted
    square = _dot(rest, rest)
    small = square * torch.finfo(square.dtype).eps ** 2  # below it there is rounding alone
    for _ in range(steps):
        curved = curve(direction)
        bend = _dot(direction, curved)
        follow = (bend > least * _dot(direction, direction)) & (square > small)
        length = torch.where(follow, square / bend, 0.0)
        found = {n: x + _lead(length, x) * direction[n] for n, x in found.items()}
        rest = {n: r - _lead(length, r) * curved[n] for n, r in rest.items()}
        last, square = square, _dot(rest, rest)
        turn = torch.where(follow, square / last, 0.0)
        direction = {
            n: _lead(follow, r) * (r + _lead(turn, r) * direction[n]) for n, r in rest.items()
        }
    return found


def _dot(a: Weights, b: Weights) -> Tensor:
    """``[T]``."""
    return torch.stack([(a[n] * b[n]).flatten(1).sum(1) for n in a]).sum(0)


def _lead(factors: Tensor, like: Tensor) -> Tensor:
    """``[T]`` as it multiplies weights that lead with T."""
    return factors.view(-1, *(1,) * (like.ndim - 1))
