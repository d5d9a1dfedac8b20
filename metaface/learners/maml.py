"""MAML and its kin: FOMAML, Meta-SGD, MAML++."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from metaface.arguments import check_counts, check_flags, check_rates
from metaface.episodes.sampler import Episodes
from metaface.learners.base import Recipe, State, Weights, compute_losses
from metaface.learners.head import HeadStep, LinearHeadLearner, differentiate, is_head


class MAML(LinearHeadLearner):
    """Model-agnostic meta-learning (Finn, Abbeel, Levine 2017, arXiv 1703.03400).

    The inner loop is gradient descent on the mean cross-entropy of a linear head over the
    embedding. Where the head starts from zero, the first step's gradient of the embedding is
    exactly zero, and is not computed.

    Args:
        embedding: the shared network.
        inner_lr: step of the inner loop.
        inner_steps: steps of the inner loop.
        head_lr: step of a head that starts from zero; see
            :class:`metaface.learners.head.HeadStep`. Of a learned head, on the features as they
            are. None: ``inner_lr``, on the features as they are.
        test_steps: steps when adapting; None: as many as in training.
        head: see :class:`LinearHeadLearner`.
        first_order: ignore the inner loop's curvature (FOMAML): the meta-gradient is the query
            loss's at the fast weights.
        learn_rates: ``weight``: learn a rate for every weight (Meta-SGD, Li et al. 2017, arXiv
            1707.09835); ``layer``: one for every layer and step (MAML++, Antoniou et al. 2019,
            arXiv 1810.09502). They start from ``inner_lr`` and ``head_lr``.
        multi_step: the query loss after *every* inner step counts, equally at first, less and less
            until outer step ``multi_step``, when the last one counts alone (MAML++); 0: it always
            does.
        memory: ``full`` keeps every inner step's graph; ``sweep`` keeps the fast weights alone and
            goes back over them with one Hessian-vector product a step: the same gradient, in the
            memory of one step, for one more forward and backward pass a step.

    Raises:
        ValueError: options that exclude each other, or an unknown one.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.MAML(mf.nets.Conv4(), inner_steps=3, first_order=True)
        >>> learner.adapt(images, [0, 1])(images).shape  # scores
        torch.Size([2, 2])
    """

    recipe = Recipe(ways=5, shots=1, queries=1, meta_batch=8, lr=1e-3)
    outer_steps: Tensor

    def __init__(
        self,
        embedding: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 3,
        *,
        head_lr: float | None = 0.5,
        test_steps: int | None = None,
        head: nn.Linear | None = None,
        first_order: bool = False,
        learn_rates: Literal["weight", "layer"] | None = None,
        multi_step: int = 0,
        memory: Literal["full", "sweep"] = "full",
    ) -> None:
        super().__init__(embedding, head)
        if learn_rates not in (None, "weight", "layer"):
            raise ValueError(f"learn_rates={learn_rates!r}: choose 'weight' or 'layer'")
        if memory not in ("full", "sweep"):
            raise ValueError(f"memory={memory!r}: choose 'full' or 'sweep'")
        check_flags(first_order=first_order)
        if learn_rates and first_order:
            raise ValueError("learn_rates needs second order: leave first_order out")
        if multi_step and (first_order or memory == "sweep"):
            raise ValueError("multi_step needs the full graph: leave first_order and sweep out")
        check_rates(inner_lr=inner_lr, head_lr=head_lr)
        check_counts(1 if head is None else 0, inner_steps=inner_steps, test_steps=test_steps)
        check_counts(multi_step=multi_step)
        self.inner_lr = inner_lr
        self.head_lr = inner_lr if head_lr is None else head_lr
        self.head_step = HeadStep(head is None and head_lr is not None)
        self.inner_steps = inner_steps
        self.test_steps = inner_steps if test_steps is None else test_steps
        self.first_order = first_order
        self.multi_step = multi_step
        self.memory = memory
        self.low_memory = memory == "sweep"
        if multi_step:
            self.register_buffer("outer_steps", torch.zeros((), dtype=torch.long))
        self.rates: nn.ParameterDict | None = None
        if learn_rates:
            steps = max(self.inner_steps, self.test_steps)
            moving = self.adapted(self.theta())
            body = {n: p for n, p in moving.items() if not is_head(n)}
            shapes = {n: p.shape if learn_rates == "weight" else (steps,) for n, p in body.items()}
            self.rates = nn.ParameterDict(
                {_key(n): nn.Parameter(torch.full(s, inner_lr)) for n, s in shapes.items()}
            )
            shape = () if learn_rates == "weight" else (steps,)
            self.rates["head"] = nn.Parameter(torch.full(shape, self.head_lr))
        self.rates_by_step = learn_rates == "layer"

    # -- the inner loop --------------------------------------------------------------------

    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        return {"theta": self._path(theta, images, labels, ways)[-1]}

    def _path(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> list[Weights]:
        """The fast weights at the start and after every step."""
        self.check_ways(ways)
        path = [theta]
        for step in range(self.inner_steps if self.training else self.test_steps):
            path.append(self._step(path[-1], images, labels, ways, step))
        return path

    def _step(
        self, weights: Weights, images: Tensor, labels: Tensor, ways: int, step: int
    ) -> Weights:
        """One inner step; a graph from ``weights`` to the result where gradients are recorded."""
        record = torch.is_grad_enabled() and not self.first_order
        with torch.enable_grad():
            if not record:
                weights = {n: w.detach() for n, w in weights.items()}
            if step == 0 and self.head is None:
                features = self.embed(weights, images)
                moving = head = _require_gradients(self.zero_head(features, ways))
            else:
                moving = _require_gradients(self.adapted(self.per_task(weights, len(images))))
                weights = head = weights | moving
                features = self.embed(weights, images)
            losses = compute_losses(self.head_scores(head, features), labels)
            slopes = differentiate(losses.sum(), moving, create_graph=record)
        with torch.set_grad_enabled(record):
            slopes = self.head_step.slopes(slopes, features, ways)
            return weights | self._moved(moving, slopes, step)

    def _moved(self, weights: Weights, slopes: Weights, step: int) -> Weights:
        if self.rates is not None:
            return {n: w - self._rate(n, step) * slopes[n] for n, w in weights.items()}
        return {
            n: torch.sub(w, slopes[n], alpha=self.head_lr if is_head(n) else self.inner_lr)
            for n, w in weights.items()
        }

    def _rate(self, name: str, step: int) -> Tensor:
        assert self.rates is not None
        rate: Tensor = self.rates["head" if is_head(name) else _key(name)]
        return rate[step] if self.rates_by_step else rate

    # -- the outer loop --------------------------------------------------------------------

    def meta_step(self, episodes: Episodes) -> dict[str, float]:
        metrics = super().meta_step(episodes)
        if self.multi_step:
            self.outer_steps += 1
        return metrics

    def meta_gradient(self, episodes: Episodes) -> tuple[Weights, Tensor]:
        if self.multi_step and int(self.outer_steps) < self.multi_step:
            return self._every_step(episodes)
        if self.first_order or self.memory == "sweep":
            return self._sweep(episodes)
        return super().meta_gradient(episodes)

    def _every_step(self, episodes: Episodes) -> tuple[Weights, Tensor]:
        """The gradient of a weighted sum of the query losses after every step."""
        path = self._path(self.theta(), episodes.support, episodes.support_y, episodes.ways)[1:]
        earlier = (1 - int(self.outer_steps) / self.multi_step) / len(path)
        shares = [earlier] * (len(path) - 1) + [1 - earlier * (len(path) - 1)]
        total = torch.zeros((), device=episodes.query.device)
        for weights, share in zip(path, shares, strict=True):
            logits = self.score({"theta": weights}, episodes.query)
            total = total + share * compute_losses(logits, episodes.query_y).sum()
        parameters: Weights = {n: p for n, p in self.named_parameters() if p.requires_grad}
        return differentiate(total, parameters, create_graph=False), logits.detach()

    def _sweep(self, episodes: Episodes) -> tuple[Weights, Tensor]:
        """Forward by detached steps, then back over them.

        With v the gradient by the fast weights after a step, theta' = theta - rate g(theta), the
        gradient by those before it is v - rate H v: the pull-back of v through the step, for which
        its graph is made anew. First order leaves it at v.
        """
        given = episodes.support, episodes.support_y, episodes.ways
        with torch.no_grad():
            path = self._path(self.theta(), *given)
        last = _detach(self.adapted(path[-1]))
        logits = self.score({"theta": path.pop() | last}, episodes.query)
        loss = compute_losses(logits, episodes.query_y).sum()
        back = differentiate(loss, last, create_graph=False)
        own = dict(self.named_parameters())
        rates = {n: p for n, p in own.items() if n.startswith("rates.")}
        total = {n: torch.zeros_like(p) for n, p in rates.items()}
        while path and not self.first_order:
            weights = _detach(self.adapted(path[-1]))
            if not weights and not rates:  # the head alone adapts, and starts from zero
                back = {}
                break
            moved = self.adapted(self._step(path.pop() | weights, *given, len(path)))
            slopes = torch.autograd.grad(
                list(moved.values()),
                [*weights.values(), *rates.values()],
                [back[n] for n in moved],
                allow_unused=True,
            )
            back = {n: g for n, g in zip(weights, slopes, strict=False) if g is not None}
            for name, g in zip(rates, slopes[len(weights) :], strict=True):
                total[name] += 0 if g is None else g
        # what is still by task, summed over the tasks
        total |= {n: g.sum(0) if g.ndim > own[n].ndim else g for n, g in back.items() if n in own}
        return total, logits.detach()


def _detach(weights: Weights) -> Weights:
    return {n: w.detach().requires_grad_() for n, w in weights.items()}


def _require_gradients(weights: Weights) -> Weights:
    return {n: w if w.requires_grad else w.requires_grad_() for n, w in weights.items()}


def _key(name: str) -> str:
    return name.removeprefix("embedding.").replace(".", "_")  # nn.ParameterDict takes no dots
