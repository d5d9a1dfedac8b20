"""Safe adaptation: as far towards the adapted weights as validation people gain, and no further
than what must be kept allows; not at all where adapting does not pay."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from metaface.data import FaceSet
from metaface.evaluation import evaluate
from metaface.learners import MetaLearner
from metaface.nets import interpolate_weights

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
KEEP_LOSS = 0.005
_PEOPLE, _PHOTOS, _WAYS, _TASKS = 200, 10, 20, 200  # that a share of a learner is measured on

Measure = Callable[[nn.Module], float]
"""An embedding network to how good it is; the more the better, such as an accuracy in 0..1."""


@dataclass(frozen=True)
class Step:
    """A share that was tried.

    Attributes:
        share: of the way from the pretrained (0) to the adapted (1) weights.
        gained: measured on validation people of the new domain.
        kept: of each measure of what must be kept.
        allowed: whether none of those lost too much; always so at 0.
    """

    share: float
    gained: float
    kept: tuple[float, ...]
    allowed: bool


@dataclass(frozen=True)
class Interpolation:
    """How far adaptation goes; prints the share and what it does to each measure.

    Attributes:
        share: 0: not adapted, for nothing that is allowed is better; 1: all of the way.
        steps: all shares that were tried, ascending, from 0.
        keep_loss: what each measure of what must be kept was allowed to lose.
    """

    share: float
    steps: tuple[Step, ...]
    keep_loss: float

    @property
    def chosen(self) -> Step:
        return next(step for step in self.steps if step.share == self.share)

    def as_dict(self) -> dict[str, Any]:
        """For JSON and checkpoints."""
        found = asdict(self)
        return found | {"steps": [s | {"kept": list(s["kept"])} for s in found["steps"]]}

    def __str__(self) -> str:
        before, after = self.steps[0], self.chosen
        text = f"share {self.share:g}: validation {before.gained:.3f} -> {after.gained:.3f}"
        for was, now in zip(before.kept, after.kept, strict=True):
            text += f", kept {was:.3f} -> {now:.3f}"
        return text if self.share else f"not adapted, {text}"


def interpolate(
    before: nn.Module,
    after: nn.Module,
    measure: Measure,
    keep: Sequence[Measure] = (),
    *,
    keep_loss: float = KEEP_LOSS,
    shares: Sequence[float] = SHARES,
) -> tuple[nn.Module, Interpolation]:
    """The network between ``before`` and ``after`` that is best on validation people, among those
    that keep what must be kept; ``before`` itself where none is better.

    Weights are interpolated (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903; see
    :func:`metaface.nets.interpolate_weights`). Of equally good shares the smallest is chosen. Test
    neither on the people of ``measure`` nor on those of ``keep``: they have decided.

    Args:
        before, after: the pretrained and the adapted network, of one architecture; left as they
            are.
        measure: of the new domain, on people nobody has trained on.
        keep: of what the network must stay good at, such as other photographs, or the rejection
            of strangers.
        keep_loss: how much less than ``before`` each of ``keep`` may be.
        shares: to try, 0..1; 0 is tried always.

    Returns:
        The network, a new one, and how it was chosen.

    Raises:
        ValueError: a share outside 0..1, a negative loss, or a measure that is not finite.
    """
    if not all(0 <= share <= 1 for share in shares) or not keep_loss >= 0:
        raise ValueError(f"shares={shares} must lie in 0..1 and keep_loss={keep_loss} be 0 or more")
    steps: list[Step] = []
    for share in sorted({0.0, *shares}):
        net = interpolate_weights(before, after, share)
        gained, *kept = found = [float(one(net)) for one in (measure, *keep)]
        if not all(map(math.isfinite, found)):
            raise ValueError(f"at the share {share:g} the measures are {found}: must be finite")
        first = steps[0].kept if steps else kept
        allowed = all(now >= was - keep_loss for was, now in zip(first, kept, strict=True))
        steps.append(Step(share, gained, tuple(kept), allowed))
    best = max((s for s in steps if s.allowed), key=lambda s: (s.gained, -s.share))
    net = interpolate_weights(before, after, best.share)
    return net, Interpolation(best.share, tuple(steps), keep_loss)


def interpolate_learner(
    learner: MetaLearner,
    before: nn.Module,
    val: FaceSet,
    keep: Sequence[FaceSet] = (),
    *,
    keep_loss: float = KEEP_LOSS,
    shots: int = 1,
    seed: int = 0,
    support_domain: str | None = None,
    query_domain: str | None = None,
) -> Interpolation:
    """Put the blend of :func:`interpolate` in place of the embedding of a trained ``learner``.

    Every share is measured by the learner itself on tasks of other people, up to 20 ways, and one
    query a person: so there is a verdict where people have ``shots + 1`` photographs, and
    somebody enrolled by a single one is decided upon by others' episodes. Low-rank changes are
    added into the weights, and start from zero again.

    Args:
        learner: trained; its embedding is replaced in place.
        before: the embedding it started from, of the same architecture.
        val: people of the new domain it was not trained on.
        keep: people it must stay good at, not trained on either; of each set at most 200 people
            and 10 photographs a person are looked at.
        keep_loss: of the accuracy, 0..1.
        shots: of the tasks.
        seed: of the tasks.
        support_domain, query_domain: of the tasks of ``val``, as in ``EpisodeSampler``.

    Raises:
        ValueError: too few people with enough photographs; as :func:`interpolate`.
    """
    trial = copy.deepcopy(learner)

    def accuracy(net: nn.Module, faces: FaceSet, **domains: str | None) -> float:
        _put(trial.embedding, net)
        result = evaluate(
            trial,
            faces,
            ways=min(_WAYS, _able(faces, shots, **domains)),
            shots=shots,
            queries=1,
            episodes=_TASKS,
            seed=seed,
            stream="blend",
            domains=(domains.get("support_domain"), domains.get("query_domain")),
            progress=False,
        )
        return result.accuracy

    def of(faces: FaceSet) -> Measure:
        few = _few(faces, shots, seed)
        return lambda net: accuracy(net, few)

    domains = {"support_domain": support_domain, "query_domain": query_domain}
    net, choice = interpolate(
        before,
        learner.embedding,
        lambda net: accuracy(net, val, **domains),
        [*map(of, keep)],
        keep_loss=keep_loss,
    )
    _put(learner.embedding, net)
    return choice


def _put(embedding: nn.Module, net: nn.Module) -> None:
    """Give ``embedding`` the weights of ``net``, which has no low-rank changes."""
    state, own = net.state_dict(), embedding.state_dict()
    for name, module in embedding.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            prefix = f"{name}." if name else ""
            changes = f"{prefix}parametrizations.weight"
            state[f"{changes}.original"] = state.pop(f"{prefix}weight")
            state[f"{changes}.0.down"] = own[f"{changes}.0.down"]
            state[f"{changes}.0.up"] = torch.zeros_like(own[f"{changes}.0.up"])
    embedding.load_state_dict(state)


def _able(faces: FaceSet, shots: int, **domains: str | None) -> int:
    """How many people a task can be of; at least 2, so that ``evaluate`` says what lacks."""
    names = set(domains.values()) or {None}
    views = [faces if name is None else faces.of_domains(name) for name in names]
    least = shots + 1 if len(views) == 1 else max(shots, 1)
    return max(2, int(np.logical_and.reduce([v.photos() >= least for v in views]).sum()))


def _few(faces: FaceSet, shots: int, seed: int) -> FaceSet:
    """Of the people with enough photographs so many, and so many photographs of each."""
    random = np.random.default_rng(seed)
    able = np.flatnonzero(faces.photos() > shots)
    faces = faces.of_people(random.permutation(able)[:_PEOPLE]) if len(able) else faces
    order = random.permutation(len(faces))
    rank = np.zeros(len(faces), np.int64)
    for person in faces.person_ids:
        mine = order[faces.person[order] == person]
        rank[mine] = np.arange(len(mine))
    return faces.take(rank < max(_PHOTOS, shots + 1))
