"""Fine-tuning: the head, then the network, deeper layers later and slower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metaface.arguments import check_counts, check_rates
from metaface.episodes.sampler import Episodes
from metaface.learners.base import Recipe, State, Weights, compute_losses
from metaface.learners.cosine import imprint
from metaface.learners.head import HeadStep, LinearHeadLearner, differentiate


class FineTune(LinearHeadLearner):
    """Fine-tuning a pretrained embedding to each task, by Adam on the support.

    What adapts is the head and what ``metaface.nets.set_trainable`` left to train: all of the
    network, its norms, low-rank changes, an adaptation layer. Frozen weights are shared by the
    tasks.

    First the head alone descends, on features computed once; then the network as well. A layer's
    depth is 0 for the last that runs and 1 for the first: ``decay`` slows deep layers
    (discriminative rates) and ``thaw`` lets them join later (gradual unfreezing; both as in Howard
    & Ruder 2018, arXiv 1801.06146).

    *Not* meta-learned: the outer loss is the query's cross-entropy by the imprinted head, before
    any step, so that meta-training is plain pretraining of the embedding, by tasks.

    Args:
        embedding: the shared network.
        inner_lr: Adam's step of the last layer.
        steps: steps of head and network together; 0: none, the head alone adapts.
        head_lr: Adam's step of the head; of a linear one, see
            :class:`metaface.learners.head.HeadStep`.
        head_steps: steps of the head alone, before.
        decay: rate of the first layer as a share of the last's, geometric in between.
        thaw: share of ``steps`` after which the first layer joins, those between in proportion;
            0: all join at once.
        classifier: ``cosine`` (directions that start from class means, scaled by ``scale``) or
            ``linear`` (from zero).
        scale: factor of the cosine.

    Raises:
        ValueError: an unknown classifier, a decay outside 0..1 (0 excluded) or a thaw outside 0..1.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> faces = mf.synthetic.render(people=2, photos=1, image_size=28)
        >>> images = torch.from_numpy(faces.images).permute(0, 3, 1, 2) / 255
        >>> net = mf.nets.set_trainable(mf.nets.Conv4(), "norm", features=64)
        >>> learner = mf.learners.FineTune(net, steps=3, head_steps=10)
        >>> learner.adapt(images, [0, 1]).predict(images)
        tensor([0, 1])
    """

    recipe = Recipe(ways=20, shots=1, queries=1, meta_batch=1, lr=1e-3)

    def __init__(
        self,
        embedding: nn.Module,
        inner_lr: float = 1e-4,
        steps: int = 10,
        *,
        head_lr: float = 1e-2,
        head_steps: int = 50,
        decay: float = 1.0,
        thaw: float = 0.0,
        classifier: Literal["cosine", "linear"] = "cosine",
        scale: float = 10.0,
    ) -> None:
        super().__init__(embedding)
        if classifier not in ("cosine", "linear"):
            raise ValueError(f"classifier={classifier!r}: choose 'cosine' or 'linear'")
        check_rates(decay=decay, thaw=thaw)
        if not 0 < decay <= 1 or not 0 <= thaw <= 1:
            raise ValueError(f"decay={decay} and thaw={thaw} must be shares, and decay not 0")
        check_rates(inner_lr=inner_lr, head_lr=head_lr, scale=scale)
        check_counts(steps=steps, head_steps=head_steps)
        self.inner_lr = inner_lr
        self.steps = steps
        self.head_lr = head_lr
        self.head_steps = head_steps
        self.decay = decay
        self.thaw = thaw
        self.classifier = classifier
        self.scale = scale
        self.head_step = HeadStep(classifier == "linear")

    @torch.no_grad()
    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        with self._order() as ran:
            features = self.embed(theta, images)
        head = self._start(features, labels, ways)
        raw = self.head_step.raw(features, adam=True)
        adam = _Adam(dict.fromkeys(head, self.head_lr))
        for _ in range(self.head_steps):
            with torch.enable_grad():
                head = {n: w.requires_grad_() for n, w in head.items()}
                loss = compute_losses(self.head_scores(raw(head), features), labels).sum()
            head = adam(head, differentiate(loss, head, create_graph=False))
        steps = self.steps if self.adapted(theta) else 0
        weights = (self.per_task(theta, len(images)) if steps else theta) | head
        depth = self._depths(ran) | dict.fromkeys(head, 0.0)
        adam.rates |= {n: self.inner_lr * self.decay ** depth[n] for n in theta}
        for step in range(steps):
            now = self.adapted(weights)
            now = {n: w for n, w in now.items() if depth[n] * self.thaw * steps <= step}
            with torch.enable_grad():
                now = {n: w.detach().requires_grad_() for n, w in now.items()}
                loss = self.losses(raw(weights | now), images, labels).sum()
            weights |= adam(now, differentiate(loss, now, create_graph=False))
        return {"theta": raw(weights)}

    def meta_gradient(self, episodes: Episodes) -> tuple[Weights, Tensor]:
        theta = self.theta()
        support = F.normalize(self.embed(theta, episodes.support), dim=-1)
        head = imprint(support, episodes.support_y, episodes.ways)
        queries = F.normalize(self.embed(theta, episodes.query), dim=-1)
        logits = self.scale * queries @ head.mT
        moving = self.adapted(theta)
        if not moving:
            return {}, logits.detach()
        loss = compute_losses(logits, episodes.query_y).sum()
        return differentiate(loss, moving, create_graph=False), logits.detach()

    def head_scores(self, weights: Weights, features: Tensor) -> Tensor:
        if self.classifier == "linear":
            return super().head_scores(weights, features)
        head = F.normalize(weights["head.weight"], dim=-1)
        return self.scale * F.normalize(features, dim=-1) @ head.mT

    def _start(self, features: Tensor, labels: Tensor, ways: int) -> Weights:
        if self.classifier == "linear":
            return self.zero_head(features, ways)
        return {"head.weight": imprint(F.normalize(features, dim=-1), labels, ways)}

    # -- how deep a weight is --------------------------------------------------------------

    @contextmanager
    def _order(self) -> Iterator[list[str]]:
        """The embedding's modules, by name, as they run within a ``with`` block."""
        ran: list[str] = []

        def note(name: str) -> Any:
            return lambda module, inputs: ran.append(name)

        hooks = [m.register_forward_pre_hook(note(n)) for n, m in self.embedding.named_modules()]
        try:
            yield ran
        finally:
            for hook in hooks:
                hook.remove()

    def _depths(self, ran: list[str]) -> dict[str, float]:
        """0 (last) .. 1 (first) of each weight of the embedding, by convolutions and such run."""
        layers = 0
        place: dict[str, int] = {}
        for name in ran:
            module = self.embedding.get_submodule(name)
            layers += isinstance(module, nn.Conv2d | nn.Linear) and name not in place
            place.setdefault(name, layers)
        depths = {}
        for name, _ in self.embedding.named_parameters():
            owner = name.rpartition(".")[0]
            while owner not in place:  # a part that its parent makes use of without calling it
                owner = owner.rpartition(".")[0]
            depths[f"embedding.{name}"] = min(1, (layers - place[owner]) / max(1, layers - 1))
        return depths


class _Adam:
    """Adam (Kingma & Ba 2015) of weights that may join at different steps."""

    def __init__(self, rates: dict[str, float]) -> None:
        self.rates = rates
        self.moments: dict[str, tuple[Tensor, Tensor, int]] = {}

    def __call__(self, weights: Weights, slopes: Weights) -> Weights:
        """``weights`` after a step."""
        moved = {}
        for name, w in weights.items():
            g = slopes[name]
            zero = torch.zeros_like(g)
            first, second, steps = self.moments.get(name, (zero, zero, 0))
            first, second, steps = first.lerp(g, 0.1), second.lerp(g * g, 0.001), steps + 1
            self.moments[name] = first, second, steps
            scale = (second / (1 - 0.999**steps)).sqrt() + 1e-8
            moved[name] = w.detach() - self.rates[name] / (1 - 0.9**steps) * first / scale
        return moved
