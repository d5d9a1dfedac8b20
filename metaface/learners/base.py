"""The contract of every meta-learner."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from metaface.arguments import HIGHEST_RATE, check_counts, check_rates
from metaface.data import FaceSet
from metaface.episodes.sampler import Episodes
from metaface.learners.checks import (
    check_embedding,
    check_episodes,
    check_features,
    check_images,
    check_labels,
    check_scores,
    explain_errors,
)
from metaface.learners.chunks import Result, run_in_chunks
from metaface.nets import norm_mode, refresh_statistics

Weights = dict[str, Tensor]
State = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How a learner is best trained, unless the user says otherwise.

    Attributes:
        ways, shots, queries: of the training tasks.
        meta_batch: tasks a step.
        optimizer: ``adam`` or ``sgd`` (plain) of the outer loop.
        lr: outer learning rate at the start; it falls to 0 as ``schedule`` says.
        schedule: ``cosine``, ``linear``, ``halving`` (each tenth) or ``constant``, over the budget.
        clip: largest norm of the meta-gradient; None: not clipped.

    Raises:
        ValueError: a number that cannot be meant, by name.

    Example:
        >>> import metaface as mf
        >>> mf.learners.Recipe(ways=20, shots=1, meta_batch=2, lr=3e-4).queries
        5
        >>> mf.learners.Prototypical(mf.nets.Conv4()).recipe.ways
        30
    """

    ways: int = 5
    shots: int = 1
    queries: int = 5
    meta_batch: int = 4
    optimizer: str = "adam"
    lr: float = 1e-3
    schedule: str = "cosine"
    clip: float | None = 10.0

    def __post_init__(self) -> None:
        check_counts(1, meta_batch=self.meta_batch, queries=self.queries)
        check_rates(lr=self.lr, clip=self.clip)
        if not 0 < self.lr <= HIGHEST_RATE or self.clip == 0:
            raise ValueError(
                f"lr={self.lr} and clip={self.clip}: must be above 0, lr {HIGHEST_RATE:g} at most"
            )


class Classifier:
    """A frozen classifier of N people, adapted from a few photographs; it owns its weights.

    Called with float ``[Q, C, H, W]`` in 0..1, it gives scores ``[Q, N]``, which are no
    probabilities.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> images = torch.rand(4, 3, 28, 28)
        >>> classifier = mf.learners.Prototypical(mf.nets.Conv4()).adapt(images[:3], [0, 1, 2])
        >>> classifier(images).shape  # scores, a column a person
        torch.Size([4, 3])
        >>> classifier.predict(images[:3])
        tensor([0, 1, 2])
    """

    def __init__(self, score: Callable[[State, Tensor], Tensor], state: State, ways: int) -> None:
        self._score = score
        self.state = state
        self.ways = ways

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Scores (similarities, not probabilities) ``[Q, N]`` of ``[Q, C, H, W]`` in 0..1.

        Raises:
            ValueError: photographs of another shape, type or range, by name and value.
        """
        return self._score(self.state, images)

    def predict(self, images: Tensor) -> Tensor:
        """Labels int64 ``[Q]`` in 0..N-1 of ``[Q, C, H, W]`` in 0..1."""
        return self(images).argmax(-1)


class MetaLearner(nn.Module):
    """A shared embedding and a way of adapting to new people from a few photographs.

    A learner is two pure functions, :meth:`fit` and :meth:`score`, of several tasks at once: every
    tensor leads with the task, T. Training, adaptation and evaluation are built from them here.
    By default the meta-gradient is that of the query loss through :meth:`fit`; a learner whose
    outer loop descends another direction overrides :meth:`meta_gradient`.

    Heads are way-agnostic: :meth:`fit` takes any number of people, whatever the training way was.

    Attributes:
        task_chunk: at most so many tasks at once, to bound memory; None: as many as is fast. On a
            CPU the chunks are shared out to one thread a core.
        low_memory: whether memory goes before speed: one chunk after the other, on all threads, of
            one task where ``task_chunk`` does not say more.
        pixel_range: of the photographs that :meth:`adapt` and its classifier take.
        trained_before: whom its first weights were trained on, as ``FaceSet.seen`` has them.

    Raises:
        ValueError: an embedding that is no network, or cannot be adapted: it draws random numbers
            or changes its own statistics as it runs.

    Example:
        >>> import metaface as mf
        >>> faces = mf.data.load("synthetic", people=8, photos=4, progress=False)
        >>> tasks = mf.EpisodeSampler(faces, ways=5, shots=1, queries=2).batch(0, size=3)
        >>> learner = mf.learners.MAML(mf.nets.Conv4())
        >>> learner.logits(tasks).shape  # tasks, queries, people
        torch.Size([3, 10, 5])
        >>> sorted(learner.meta_step(tasks))
        ['accuracy', 'loss']
    """

    recipe: ClassVar[Recipe] = Recipe()

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        check_embedding(embedding)
        self.embedding = embedding
        self.task_chunk: int | None = None
        self.trained_before: tuple[Mapping[str, Any], ...] = ()
        self.low_memory = False
        self.pixel_range = (0.0, 1.0)

    # -- what a learner defines ------------------------------------------------------------

    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        """Adapt ``theta`` (see :meth:`theta`) to T tasks; differentiable, no side effect.

        Args:
            images: float ``[T, S, C, H, W]`` in 0..1.
            labels: int64 ``[T, S]`` in 0..ways-1.

        Returns:
            What :meth:`score` needs. ``state["theta"]``: the weights to embed with, each shared,
            or with a leading T where adapted; every other tensor leads with T.
        """
        raise NotImplementedError

    def score(self, state: State, images: Tensor) -> Tensor:
        """Logits ``[T, Q, ways]`` of float ``[T, Q, C, H, W]`` in 0..1."""
        raise NotImplementedError

    # -- what a learner may define ---------------------------------------------------------

    def begin(self, faces: FaceSet) -> None:
        """Make what depends on who is trained on. ``metaface.train`` calls it before a training's
        optimiser is made; here, there is nothing to make."""

    def refresh(self, batches: Iterable[Tensor]) -> None:
        """Set population statistics from ``batches`` of training photographs, float
        ``[n, C, H, W]`` in 0..1: before each validation, and at the end of training."""
        refresh_statistics(self.embedding, batches)

    # -- what every learner has ------------------------------------------------------------

    def meta_gradient(self, episodes: Episodes) -> tuple[Weights, Tensor]:
        """What the outer optimiser descends, summed over the tasks, and the query logits.

        Returns:
            By the names of the learner's parameters (those left out stay without gradient), and
            ``[T, Q, N]``, detached.
        """
        state = self.fit(self.theta(), episodes.support, episodes.support_y, episodes.ways)
        logits = self.score(state, episodes.query)
        return self.slopes(compute_losses(logits, episodes.query_y).sum()), logits.detach()

    def slopes(self, loss: Tensor) -> Weights:
        """Of ``loss`` by those parameters that are not frozen and have a part in it, by name."""
        learned = {n: p for n, p in self.named_parameters() if p.requires_grad}
        if not learned or not loss.requires_grad:  # everything is frozen
            return {}
        slopes = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
        return {n: g for n, g in zip(learned, slopes, strict=True) if g is not None}

    def meta_step(self, episodes: Episodes) -> dict[str, float]:
        """One outer step's direction, left in ``.grad`` of the parameters; returns metrics.

        Args:
            episodes: their labels may be whole numbers of any kind: tensors, arrays or lists.

        Raises:
            ValueError: tensors that do not make a batch of tasks, by name, shape and value; a
                network that cannot be run on them.
        """
        episodes = check_episodes(episodes)
        self.zero_grad(set_to_none=True)
        with explain_errors(self.embedding, episodes.query), self._written_out():
            parts = self._over_chunks(episodes, type(self).meta_gradient)
        for name, parameter in self.named_parameters():
            summands = [gradients[name] for gradients, _ in parts if name in gradients]
            if summands:
                parameter.grad = torch.stack(summands).sum(0).div_(len(episodes))
        return measure(torch.cat([logits for _, logits in parts]), episodes.query_y)

    def _over_chunks(
        self, episodes: Episodes, function: Callable[[Any, Episodes], Result]
    ) -> list[Result]:
        return run_in_chunks(
            self, episodes, function, task_chunk=self.task_chunk, low_memory=self.low_memory
        )

    def logits(self, episodes: Episodes) -> Tensor:
        """Logits ``[B, N*Q, N]`` of the queries of every task, each adapted to its support."""

        def task_logits(learner: MetaLearner, part: Episodes) -> Tensor:
            state = learner.fit(learner.theta(), part.support, part.support_y, part.ways)
            return learner.score(state, part.query)

        with self._written_out():
            return torch.cat(self._over_chunks(episodes, task_logits))

    def adapt(self, images: Tensor, labels: Tensor) -> Classifier:
        """A frozen classifier from a few photographs; the learner itself is left as it was.

        Args:
            images: float ``[S, C, H, W]`` in 0..1.
            labels: ``[S]``, every one of 0..N-1 present; people may differ in shots. Whole numbers
                of any kind: a tensor, an array or a list.

        Raises:
            ValueError: photographs or labels that do not fit, by name and value.

        Example:
            >>> import metaface as mf
            >>> faces = mf.data.load("synthetic", people=5, photos=3, progress=False)
            >>> task = mf.EpisodeSampler(faces, ways=5, shots=1, queries=2).batch(0)
            >>> learner = mf.learners.Prototypical(mf.nets.Conv4())
            >>> classifier = learner.adapt(task.support[0], task.support_y[0])
            >>> classifier.predict(task.query[0]).shape
            torch.Size([10])
        """
        if not isinstance(images, Tensor):
            raise ValueError(f"adapt takes images as a tensor, got a {type(images).__name__}")
        labels = check_labels("labels", labels, images.device)
        if images.ndim != 4 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"adapt takes images [S, C, H, W] and labels [S], got {list(images.shape)} "
                f"and {list(labels.shape)}"
            )
        present = labels.unique()
        ways = len(present)
        if ways == 0 or not torch.equal(present, torch.arange(ways, device=labels.device)):
            raise ValueError(
                f"labels must use every number of 0..N-1, got {present.tolist()}: renumber them"
            )
        check_images("images", images, self.pixel_range)
        with torch.no_grad(), self.predicting():
            state = self.fit(self.theta(), images[None], labels[None], ways)
        # with the population statistics of frozen layers, which later training changes
        buffers = {f"embedding.{n}": b for n, b in self.embedding.named_buffers()}
        frozen = pytree.tree_map(
            lambda t: t.detach().clone(), {**state, "theta": {**state["theta"], **buffers}}
        )

        def score(adapted: State, queries: Tensor) -> Tensor:
            if not isinstance(queries, Tensor) or queries.ndim != 4:
                got = list(queries.shape) if isinstance(queries, Tensor) else type(queries).__name__
                raise ValueError(f"a classifier takes images as a tensor [Q, C, H, W], got {got}")
            if not len(queries):
                return queries.new_zeros(0, ways)
            check_images("images", queries, self.pixel_range)
            with self.predicting(), explain_errors(self.embedding, queries):
                return check_scores(self, self.score(adapted, queries[None])[0])

        return Classifier(score, frozen, ways)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """As of every ``nn.Module``; where ``strict`` is not set, a part of the weights, such as
        the embedding's, leaves the rule of the head's steps as it is."""
        if not strict:
            rules = {n: b for n, b in self.named_buffers() if n.endswith("head_step.rule")}
            state_dict = {**rules, **state_dict}
        return super().load_state_dict(state_dict, strict, assign)

    def theta(self) -> Weights:
        """The weights that adaptation starts from, by their names as the learner's parameters.

        Those that are frozen (``requires_grad`` is False, see :func:`metaface.nets.set_trainable`)
        are among them, and stay as they are, shared by the tasks.
        """
        return {f"embedding.{n}": p for n, p in self.embedding.named_parameters()}

    def embed(self, theta: Weights, images: Tensor) -> Tensor:
        """Features ``[T, n, D]`` of float ``[T, n, C, H, W]`` under the weights ``theta``.

        Each weight of ``theta`` is shared by the tasks, or leads with T.
        """
        with explain_errors(self.embedding, images):
            return self._embed(theta, images)

    def _embed(self, theta: Weights, images: Tensor) -> Tensor:
        own = dict(self.embedding.named_parameters()) | dict(self.embedding.named_buffers())
        weights = {name: theta[f"embedding.{name}"] for name in own if f"embedding.{name}" in theta}
        lanes = {n: 0 if w.ndim > own[n].ndim else None for n, w in weights.items()}
        if self.sees_single_images and not any(lane == 0 for lane in lanes.values()):
            flat: Tensor = functional_call(self.embedding, weights, (images.flatten(0, 1),))
            check_features(self.embedding, flat, images.shape[0] * images.shape[1])
            return flat.unflatten(0, images.shape[:2])

        if len(images) == 1:  # no vectorisation to pay for
            alone = {n: w if lanes[n] is None else w.squeeze(0) for n, w in weights.items()}
            only: Tensor = functional_call(self.embedding, alone, (images[0],))
            check_features(self.embedding, only, images.shape[1])
            return only[None]

        def embed_task(task_weights: Weights, task_images: Tensor) -> Tensor:
            features: Tensor = functional_call(self.embedding, task_weights, (task_images,))
            check_features(self.embedding, features, images.shape[1])
            return features

        return vmap(embed_task, (lanes, 0))(weights, images)

    @contextmanager
    def _written_out(self) -> Iterator[None]:
        """Attention written out, where the embedding is adapted: the fused kernels have no second
        derivative, and are not vectorised over tasks."""
        if isinstance(self, FeatureLearner):
            yield
            return
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)

    @property
    def sees_single_images(self) -> bool:
        """Whether the embedding of a photograph is its own, whatever it is embedded with."""
        alone = ("group", "pinned", "none")
        return self.norm in alone or (self.norm == "frozen" and not self.training)

    @contextmanager
    def predicting(self) -> Iterator[None]:
        """Evaluation mode for the length of a ``with`` block."""
        was = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was)

    @property
    def norm(self) -> str:
        """Normalisation mode: batch, frozen, pinned, group or none."""
        return norm_mode(self.embedding)

    @property
    def transductive(self) -> bool:
        """Whether the queries of a task see each other when they are scored."""
        return self.norm == "batch"


class FeatureLearner(MetaLearner):
    """A learner that adapts a head alone: the embedding stays as it is.

    Such a learner defines :meth:`fit_head` and :meth:`score_head`, on features. Where a photograph
    has an embedding of its own, evaluation embeds every photograph once.

    Example:
        >>> import metaface as mf
        >>> import torch
        >>> class NearestPhotograph(mf.learners.FeatureLearner):
        ...     def fit_head(self, features, labels, ways):
        ...         one_hot = torch.nn.functional.one_hot(labels, ways)
        ...         return {"features": features, "one_hot": one_hot}
        ...     def score_head(self, state, features):
        ...         near = -torch.cdist(features, state["features"])  # [T, Q, S]
        ...         of_others = state["one_hot"][:, None] == 0  # [T, 1, S, ways]
        ...         return near[..., None].masked_fill(of_others, -torch.inf).amax(2)
        >>> images = torch.rand(3, 3, 28, 28)
        >>> learner = NearestPhotograph(mf.nets.Conv4())
        >>> learner.adapt(images, [0, 1, 1]).predict(images)
        tensor([0, 1, 1])
    """

    def fit_head(self, features: Tensor, labels: Tensor, ways: int) -> State:
        """What :meth:`score_head` needs, from features ``[T, S, D]`` and labels ``[T, S]``."""
        raise NotImplementedError

    def score_head(self, state: State, features: Tensor) -> Tensor:
        """Logits ``[T, Q, ways]`` of features ``[T, Q, D]``."""
        raise NotImplementedError

    def fit(self, theta: Weights, images: Tensor, labels: Tensor, ways: int) -> State:
        return {"theta": theta, **self.fit_head(self.embed(theta, images), labels, ways)}

    def score(self, state: State, images: Tensor) -> Tensor:
        return self.score_head(state, self.embed(state["theta"], images))


def compute_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Each task's mean cross-entropy ``[T]`` of logits ``[T, n, N]`` against labels ``[T, n]``."""
    flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return flat.unflatten(0, labels.shape).mean(-1)


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits ``[..., n, N]`` against labels ``[..., n]``."""
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


def measure(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Loss and accuracy (0..1) for the progress bar and the learning curves."""
    with torch.no_grad():
        accuracy = (logits.argmax(-1) == labels).float().mean()
        return {"loss": float(task_loss(logits, labels)), "accuracy": float(accuracy)}
