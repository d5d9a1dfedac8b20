"""BOIL: the inner loop moves the embedding, and the head stays."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_counts, check_flags, check_rates
from metaface.learners.base import Recipe, State, Weights, compute_losses
from metaface.learners.cosine import imprint
from metaface.learners.head import LinearHeadLearner, differentiate, is_head


class BOIL(LinearHeadLearner):
    """Body only update in inner loop (Oh et al. 2021, arXiv 2008.08882).

    MAML whose head is not moved by the inner loop, so that the embedding has to change from task
    to task. The paper's head has a learned row for each of N people. Here, without ``head``, the
    head is made of the support before the first step, by cosine: the unit mean of each person's
    unit features; so one learner serves any number of people. The meta-gradient goes through the
    steps and through that head.

    Args:
        embedding: the shared network.
        inner_lr: step of the embedding.
        inner_steps: steps of the inner loop.
        test_steps: steps when adapting; None: as many as in training.
        head: the paper's head, ``nn.Linear(D, N)``, learned by the outer loop; None: see above.
        scale: factor of the cosines, without ``head``.
        first_order: ignore the inner loop's curvature.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> learner = mf.learners.BOIL(mf.nets.Conv4(), inner_steps=2)
        >>> learner.adapt(images, [0, 1]).predict(images)
        tensor([0, 1])
    """

    recipe = Recipe(ways=5, shots=1, queries=1, meta_batch=8, lr=1e-3)

    def __init__(
        self,
        embedding: nn.Module,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        *,
        test_steps: int | None = None,
        head: nn.Linear | None = None,
        scale: float = 10.0,
        first_order: bool = False,
    ) -> None:
        super().__init__(embedding, head)
        check_flags(first_order=first_order)
        check_rates(inner_lr=inner_lr, scale=scale)
        check_counts(0, inner_steps=inner_steps, test_steps=test_steps)
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.test_steps = inner_steps if test_steps is None else test_steps
        self.scale = scale
        self.first_order = first_order

    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        self.check_ways(ways)
        outer = torch.is_grad_enabled()
        steps = self.inner_steps if self.training else self.test_steps
        moving = [n for n in self.adapted(theta) if not is_head(n)]
        weights = dict(theta)
        if steps:
            weights |= self.per_task({n: theta[n] for n in moving}, len(images))
        if self.head is None:  # from theta, so that no inner step's gradient goes through it
            features = F.normalize(self.embed(theta, images), dim=-1)
            weights["head.weight"] = imprint(features, labels, ways)
        for _ in range(steps if moving else 0):  # there may be nothing that adapts
            with torch.enable_grad():
                now = {n: weights[n] for n in moving}
                if not outer:
                    now = {n: w.detach().requires_grad_() for n, w in now.items()}
                features = self.embed(weights | now, images)
                loss = compute_losses(self.head_scores(weights, features), labels).sum()
                slopes = differentiate(loss, now, create_graph=outer and not self.first_order)
            weights |= {n: torch.sub(w, slopes[n], alpha=self.inner_lr) for n, w in now.items()}
        return {"theta": weights}

    def head_scores(self, weights: Weights, features: Tensor) -> Tensor:
        if self.head is not None:
            return super().head_scores(weights, features)
        return self.scale * F.normalize(features, dim=-1) @ weights["head.weight"].mT
