"""The settings of the jobs that train and compare: everything that decides their figures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from metaface.options.values import (
    BudgetCount,
    BudgetMinutes,
    Count,
    CountOrNone,
    Counts,
    Device,
    MaybeCount,
    MaybePositive,
    Names,
    NamesOrNone,
    Rate,
    Source,
)

if TYPE_CHECKING:
    from typing_extensions import Self

IMAGE_SIZE = 28  # pixels; metaface.data.IMAGE_SIZE
MINUTES = 0.6  # training time of each learner, unless the user says otherwise
Precision = Literal["float32", "bf16"]  # metaface.nets.conv.Precision
RECIPE = ("ways", "shots", "queries", "meta_batch", "lr")  # in Job.options: no learner's argument
DOMAIN_PROTOCOLS = ("pairs", "leave-one-out", "all")
ALL, ALL_BUT = "all", "all-but-"  # train domains of the protocols of many

SHARED = ("fixed", "uncertainty", "pcgrad")
STAGED = ("separate", "separate-large")
VARIANTS = (*STAGED, "recognition-only", *SHARED)
STAGES = {
    "detector": ("detection", "alignment"),
    "recogniser": ("recognition",),
    "describer": ("segmentation", "pose", "expression", "attributes"),
}
TASKS = tuple(head for heads in STAGES.values() for head in heads)
JOINT_MINUTES = 10.0  # training time of each network, unless the user says otherwise

_unasked = Parameter(parse=False)  # settings that a command does not ask for


@dataclass(frozen=True)
class JobSettings:
    """What decides the figures of every job that trains learners and tests them.

    Attributes:
        crop: Centre crop of the photographs: a share of the shorter side (1 at most), or pixels.
        image_size: Side of the photographs that a learner sees, pixels.
        channels: 1 (grey) or 3 (RGB).
        learners: Learners by name: maml, fomaml, anil, metasgd, maml++, reptile, boil, imaml,
            prototypical, matching, relation, r2d2, laplacian, classifier, arcface, simpleshot,
            linear-probe, cosine-classifier, imprinting, finetune, l2l-maml, l2l-metasgd, l2l-gbml.
        ways: People of a test episode; every combination of ways and shots is tested.
        shots: Support photographs a person of a test episode.
        queries: Query photographs a person of a test episode.
        episodes: Test episodes of each combination of ways and shots.
        embedding: Embedding network that learners share: conv4, conv4-32, conv4-stride, resnet12,
            mobilefacenet, mobilefacenet-112x96, torchvision:MODEL or timm:MODEL.
        norm: Normalisation of that network: batch, group, frozen or pinned.
        start: Weights that training starts from: a file of the embedding's weights, or a
            checkpoint of metaface train, whose people are not tested. Default: random ones.
        augment: Random changes of training photographs: flip, crop, light, erase, shade. The
            option without a value: none.
        iterations: Steps of the outer optimiser.
        images: Photographs seen.
        minutes: Wall time, validation included. Default, where no budget is given: 0.6.
        seed: Seed of the split, the tasks and the initial weights.
        seeds: Number of training seeds: seed, seed + 1, and so on.
        options: Keyword arguments of learners, by learner; ``ways``, ``shots``, ``queries``,
            ``meta_batch`` and ``lr`` are those of the learner's ``Recipe``.
        device: Device to compute on: cpu, cuda, cuda:1, and so on. Default: a GPU where there is
            one.
        task_chunk: Tasks computed at once at most, to bound memory. Default: as many as is fast.
        precision: Of the convolutions of a training step: float32, or bf16 for more steps a second
            where the processor has bfloat16.

    Example:
        >>> from metaface.options import JobSettings
        >>> JobSettings().with_budget().minutes, JobSettings(iterations=100).with_budget().minutes
        (0.6, None)
        >>> JobSettings(options={"maml": {"lr": 1e-3, "inner_steps": 5}}).given("maml")
        {'lr': 0.001}
    """

    crop: MaybePositive = None
    image_size: Count = IMAGE_SIZE
    channels: Count = 3
    learners: Names = ("maml", "fomaml", "anil", "reptile", "prototypical")
    ways: Counts = (5,)
    shots: Counts = (1, 5)
    queries: Count = 5
    episodes: Count = 1000
    embedding: str = "conv4"
    norm: str = "group"
    start: str | None = None
    augment: NamesOrNone = ("flip", "crop", "light")
    iterations: BudgetCount = None
    images: BudgetCount = None
    minutes: BudgetMinutes = None
    seed: CountOrNone = 0
    seeds: Count = 1
    options: Annotated[dict[str, dict[str, Any]], _unasked] = field(default_factory=dict)
    device: Device = None
    task_chunk: MaybeCount = None
    precision: Precision = "float32"

    def given(self, learner: str) -> dict[str, Any]:
        """What the user asked for of the recipe of ``learner``: keyword arguments of ``train``."""
        return {n: v for n, v in self.options.get(learner, {}).items() if n in RECIPE}

    def with_budget(self) -> Self:
        """The same, with the default budget where none is given."""
        if self.iterations is self.images is self.minutes is None:
            return replace(self, minutes=MINUTES)
        return self


@dataclass(frozen=True)
class BenchmarkSettings(JobSettings):
    """Everything that decides the figures of a benchmark; see also :class:`JobSettings`.

    Attributes:
        data: People to train and test on, split by person: a folder, zip or CSV of photographs, or
            synthetic.
        train_data: People to train on, instead.
        test_data: People to test on, with --train-data; who was seen in training is left out.
        weights: Pretrained embedding network to test beside the learners: a MobileFaceNet's
            checkpoint.

    Example:
        >>> from metaface.options import BenchmarkSettings
        >>> settings = BenchmarkSettings(data="lfw.zip", crop=0.5, learners=("maml",), minutes=5)
        >>> settings.shots, settings.minutes, settings.image_size
        ((1, 5), 5, 28)
    """

    data: Source = "synthetic"
    train_data: Source = None
    test_data: Source = None
    weights: str | None = None


@dataclass(frozen=True)
class SweepSettings(BenchmarkSettings):
    """Settings of the benchmark to come, for which learners' own settings are searched.

    Example:
        >>> from metaface.options import SweepSettings
        >>> settings = SweepSettings(data="lfw.zip", learners=("maml", "reptile"), minutes=1)
        >>> settings.minutes, settings.options  # minutes of each trial
        (1, {})
    """

    episodes: Annotated[int, _unasked] = 1000
    start: Annotated[str | None, _unasked] = None
    seeds: Annotated[int, _unasked] = 1
    weights: Annotated[str | None, _unasked] = None


@dataclass(frozen=True)
class TrainSettings(BenchmarkSettings):
    """Settings of the training of one learner: those of a benchmark that are not of its tests.

    Example:
        >>> from metaface.options import TrainSettings
        >>> settings = TrainSettings(data="lfw.zip", embedding="resnet12", iterations=1000)
        >>> settings.embedding, settings.norm
        ('resnet12', 'group')
    """

    learners: Annotated[tuple[str, ...], _unasked] = ()
    ways: Annotated[tuple[int, ...], _unasked] = (5,)
    shots: Annotated[tuple[int, ...], _unasked] = (1,)
    queries: Annotated[int, _unasked] = 5
    episodes: Annotated[int, _unasked] = 1000
    seeds: Annotated[int, _unasked] = 1
    weights: Annotated[str | None, _unasked] = None


@dataclass(frozen=True)
class CrossDomainSettings(JobSettings):
    """Everything that decides the figures of a domain matrix; see also :class:`JobSettings`.

    Attributes:
        domains: ``SOURCE[:DOMAIN,...][@REGEX]`` by a name of one's own: a source as
            ``metaface.data.load`` takes it; domains inside it (all, if none is named); and what
            the path of a photograph must match, the ``only`` of ``load``.
            ``SUPPORT>QUERY``: support photographs from the first of two such, queries from the
            second, of the people whose names are in both; see ``metaface.data.domain_split``.
            Where a path itself holds ``:``, ``@`` or ``>``, the source is the longest one that
            exists.
        protocols: pairs: trained in each domain alone, tested in each; leave-one-out: trained in
            all but one, tested in that one (the shape of GFR, Guo et al., "Learning Meta Face
            Recognition in Unseen Domains", CVPR 2020); all: trained in all, tested in each.
        across: With many training domains, take the support of a training task from one and its
            queries from another.

    Example:
        >>> from metaface.options import CrossDomainSettings
        >>> domains = {"photo": "photos.zip", "sketch": "sketches.zip", "nir": "nir.zip"}
        >>> settings = CrossDomainSettings(domains=domains, protocols=("leave-one-out",))
        >>> settings.trainings()["all-but-nir"]  # trained in, tested in
        (('photo', 'sketch'), ('nir',))
    """

    learners: Names = ("prototypical", "reptile")
    shots: Counts = (1,)
    domains: Annotated[dict[str, str], _unasked] = field(default_factory=dict)
    protocols: Names = ("pairs",)
    across: bool = False

    def trainings(self) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        """The domains to train in, and those to test in, by what the training is called."""
        names = tuple(self.domains)
        found: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        if "pairs" in self.protocols:
            found |= {name: ((name,), names) for name in names}
        if "leave-one-out" in self.protocols:
            for name in names:
                found[ALL_BUT + name] = (tuple(n for n in names if n != name), (name,))
        if "all" in self.protocols:
            found[ALL] = (names, names)
        return found


@dataclass(frozen=True)
class JointSettings:
    """Everything that decides the figures of the comparison of one network with networks in stages.

    Attributes:
        variants: Networks to compare. separate: a network a stage (detector with alignment,
            recogniser of aligned crops, describer of the rest), all so narrow that their
            parameters sum to about those of the shared one; separate-large: each with the
            backbone of the shared one; recognition-only: the shared network with that head alone,
            and the whole budget; fixed, uncertainty, pcgrad: one shared network.
        people: Procedural people to train on.
        val_people: Procedural people to validate on, others.
        test_people: Procedural people to test on, others.
        photos: Photographs of each person.
        size: Side of a scene, pixels.
        side: Least and greatest side of a face in a scene, pixels.
        batch: Scenes a step, new ones in each; for validation and test there are as many as
            photographs.
        lr: Highest learning rate.
        weights: Weights of the losses, by task, for ``fixed`` and ``pcgrad``; 1 where there is
            none.
        search: Trials of a search for the weights of the losses, on validation people (with
            Optuna); 0: no search.
        iterations: Steps of training.
        minutes: Wall time of training, without drawing before it and measuring after it; the three
            stages of a separate network get a third of it each. Default, where no budget is
            given: 10.
        episodes: Episodes of identification.
        seed: Seed of people, scenes and initial weights.
        seeds: Number of training seeds: seed, seed + 1, and so on.
        device: Device to compute on: cpu, cuda, cuda:1, and so on. Default: a GPU where there is
            one.

    Example:
        >>> from metaface.options import JointSettings
        >>> settings = JointSettings(variants=("separate", "fixed"), people=100, minutes=30)
        >>> settings.share(1 / 3)  # the budget of one of three stages
        {'iterations': None, 'minutes': 10.0}
    """

    variants: Names = VARIANTS
    people: Count = 600
    val_people: Count = 40
    test_people: Count = 100
    photos: Count = 12
    size: Count = 128
    side: Annotated[tuple[float, float], _unasked] = (24, 96)
    batch: Count = 16
    lr: Rate = 4e-3
    weights: Annotated[dict[str, float], _unasked] = field(default_factory=dict)
    search: CountOrNone = 0
    iterations: BudgetCount = None
    minutes: BudgetMinutes = None
    episodes: Count = 1000
    seed: CountOrNone = 0
    seeds: Count = 1
    device: Device = None

    def with_budget(self) -> Self:
        """The same, with the default budget where none is given."""
        return self if self.iterations or self.minutes else replace(self, minutes=JOINT_MINUTES)

    def share(self, part: float) -> dict[str, Any]:
        """That part of the budget, for ``fit``."""
        iterations = None if self.iterations is None else max(1, round(self.iterations * part))
        minutes = None if self.minutes is None else self.minutes * part
        return {"iterations": iterations, "minutes": minutes}


@dataclass(frozen=True)
class MultitaskSettings(JointSettings):
    """Settings of the training of one shared network: those of a comparison that are of one.

    Attributes:
        people: Procedural people to train on; a tenth as many more, 10 at least, are tested.

    Example:
        >>> from metaface.options import MultitaskSettings
        >>> settings = MultitaskSettings(people=100, size=96, iterations=500)
        >>> settings.with_budget().minutes is None, settings.batch
        (True, 16)
    """

    variants: Annotated[tuple[str, ...], _unasked] = VARIANTS
    val_people: Annotated[int, _unasked] = 40
    test_people: Annotated[int, _unasked] = 100
    search: Annotated[int, _unasked] = 0
    episodes: Annotated[int, _unasked] = 1000
    seeds: Annotated[int, _unasked] = 1
