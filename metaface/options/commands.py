"""The options of commands that are no jobs' settings: training alone, recognition, measuring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter

from metaface.options.jobs import IMAGE_SIZE
from metaface.options.values import (
    Count,
    CountOrNone,
    Counts,
    Device,
    MaybeCount,
    MaybeCounts,
    MaybeNames,
    MaybePositive,
    MaybeRate,
    MaybeShare,
    Names,
    Repeated,
    Share,
)

GALLERY = "metaface.gallery"


@dataclass(frozen=True)
class RecipeOptions:
    """The training tasks of a learner, where they are not its own.

    Attributes:
        ways: People of a training task. Default: the learner's own.
        shots: Support photographs a person of a training task. Default: the learner's own.
        queries: Query photographs a person of a training task. Default: the learner's own.
        meta_batch: Tasks a step. Default: the learner's own.
        lr: Outer learning rate. Default: the learner's own.
    """

    ways: MaybeCount = None
    shots: MaybeCount = None
    queries: MaybeCount = None
    meta_batch: MaybeCount = None
    lr: MaybeRate = None


@dataclass(frozen=True)
class TrainOptions:
    """What the training of one learner takes beside its settings.

    Attributes:
        learner: Learner by name: maml, fomaml, anil, metasgd, maml++, reptile, boil, imaml,
            prototypical, matching, relation, r2d2, laplacian, classifier, arcface, simpleshot,
            linear-probe, cosine-classifier, imprinting, finetune, l2l-maml, l2l-metasgd, l2l-gbml.
        option: Setting of the learner as NAME=VALUE, such as inner_lr=0.01; may be repeated.
        blend: Keep the trained weights as far as validation people gain: part of the way from
            --start, or none of it.
        keep: Photographs that the blend must stay good at; may be repeated.
        keep_loss: Accuracy on --keep that the blend may lose. Default: 0.005.
        support_domain: Domain of the photographs that people are known by.
        query_domain: Domain of the photographs that are asked for.
        patience: Validations without a new best after which training stops.
    """

    learner: str = "prototypical"
    option: Repeated = ()
    blend: bool = False
    keep: Repeated = ()
    keep_loss: MaybeShare = None
    support_domain: str | None = None
    query_domain: str | None = None
    patience: MaybeCount = None


@dataclass(frozen=True)
class EvaluateOptions:
    """The test of one checkpoint.

    Attributes:
        data: People to test: a folder, zip or CSV of photographs, or synthetic. Those whom the
            checkpoint was trained on are left out.
        crop: Centre crop of the photographs: a share of the shorter side (1 at most), or pixels.
            Default: as in training.
        ways: People of a test episode; every combination of ways and shots is tested.
        shots: Support photographs a person of a test episode.
        queries: Query photographs a person of a test episode.
        episodes: Test episodes of each combination of ways and shots.
        seed: Seed of the episodes.
        device: Device to compute on: cpu, cuda, cuda:1, and so on. Default: a GPU where there is
            one.
        task_chunk: Tasks computed at once at most, to bound memory. Default: as many as is fast.
    """

    data: str = "synthetic"
    crop: MaybePositive = None
    ways: Counts = (5,)
    shots: Counts = (1,)
    queries: Count = 5
    episodes: Count = 1000
    seed: CountOrNone = 0
    device: Device = None
    task_chunk: MaybeCount = None


@dataclass(frozen=True)
class PreviewOptions:
    """What is drawn, and how a learner would see it.

    Attributes:
        data: People to draw: a folder, zip or CSV of photographs, or synthetic.
        crop: Centre crop of the photographs: a share of the shorter side (1 at most), or pixels.
        image_size: Side of the photographs that a learner sees, pixels.
        channels: 1 (grey) or 3 (RGB).
        people: People to draw, a row each.
        photos: Photographs of each person, a column each.
        episode: Draw one task instead.
        ways: People of the task.
        shots: Support photographs a person of the task.
        queries: Query photographs a person of the task.
        seed: Seed of the task.
    """

    data: str = "synthetic"
    crop: MaybePositive = None
    image_size: Count = IMAGE_SIZE
    channels: Literal[1, 3] = 3
    people: Count = 10
    photos: Count = 8
    episode: bool = False
    ways: Count = 5
    shots: Count = 1
    queries: Count = 5
    seed: CountOrNone = 0


@dataclass(frozen=True)
class ModelOptions:
    """The models that recognise.

    Attributes:
        models: Folder of the model files. Default: METAFACE_MODELS in the environment, or
            ~/.cache/metaface/models.
        weights: Pretrained embedding network: the name of a model, a checkpoint of metaface train,
            a .safetensors or .onnx file, or a network of metaface multitask (which detects as
            well). Default: the gallery's, or mobilefacenet_casia.
        detector: Detector of faces: yunet; cascade, OpenCV 4's bundled one, which needs no model;
            one that a package has registered, or package.module:Class.
        quiet: Show no progress bars.
    """

    models: str | None = None
    weights: str | None = None
    detector: str = "yunet"
    quiet: bool = False


@dataclass(frozen=True)
class GalleryOptions(ModelOptions):
    """The people who are enrolled, and the models that recognise them.

    Attributes:
        gallery: File of the enrolled people.
    """

    gallery: str = GALLERY


@dataclass(frozen=True)
class ProtocolOptions(ModelOptions):
    """The measuring of recognition on whole photographs.

    Defaults of None are those of ``metaface.experiments.fitted_protocols``, which lowers them to
    what the photographs allow; what is given stays as it is, or is refused.

    Attributes:
        data: People: a folder or zip of identity folders, or a CSV; for detection, alone:
            photographs with annotations.json or bbx_gt.txt.
        ways: People of an episode of few-shot; every combination of ways and shots is tested.
            Default: 5 20, or as many as have the photographs.
        shots: Support photographs a person of an episode of few-shot.
        episodes: Episodes of each combination of ways and shots.
        pairs: Pairs to verify, in the form of LFW's pairs.txt. Default: pairs are drawn.
        drawn: Pairs drawn of each kind. Default: 2500, or as many as there are.
        enrolled: People enrolled in each gallery of the open set. Default: 50; of fewer people
            than the open set needs, up to a fifth.
        enrolled_photos: Photographs enrolled of each person of the open set. Default: 3, or as
            many as leave one to search for.
        stranger_count: Strangers searched for in each gallery of the open set. Default: 500, or
            the share of the people who are there.
        cohort: Strangers that scores of the open set are held against. Default: 600, or the share
            of the people who are there.
        galleries: Galleries of the open set.
        fpir: Rate of strangers who may be given a name (false-positive identification rate).
        seed: Seed of episodes, pairs and galleries.
        out: Folder of the results.
    """

    data: Annotated[str, Parameter(required=True)] = ""
    ways: MaybeCounts = None
    shots: Counts = (1,)
    episodes: Count = 1000
    pairs: str | None = None
    drawn: MaybeCount = None
    enrolled: MaybeCount = None
    enrolled_photos: MaybeCount = None
    stranger_count: MaybeCount = None
    cohort: MaybeCount = None
    galleries: Count = 20
    fpir: Share = 0.01
    seed: CountOrNone = 0
    out: str = "protocol"


@dataclass(frozen=True)
class PeopleOptions(ModelOptions):
    """The people to measure recognition on.

    Attributes:
        data: People: a folder, zip or CSV of photographs, or synthetic.
        people: Number of people, where they are procedural.
        photos: Photographs of each person, where they are procedural.
        seed: Seed of episodes, pairs and corruptions.
    """

    data: str = "synthetic"
    people: Count = 200
    photos: Count = 10
    seed: CountOrNone = 0


@dataclass(frozen=True)
class RobustnessOptions(PeopleOptions):
    """The measuring of accuracy against what makes photographs worse.

    Attributes:
        dials: Turn up the renderer's dials, one by one, instead of corrupting --data.
        nuisances: What to measure against: dark, shade, blur, noise, resolution, jpeg, block,
            mask; with --dials: yaw, pitch, roll, light, exposure, mask, cap, hand, styling, blur,
            noise, sketch. Default: all.
        ways: People of an episode.
        shots: Support photographs a person of an episode.
        queries: Query photographs a person of an episode.
        episodes: Episodes of each level.
        both: Change support photographs, too.
        device: Device to compute on: cpu, cuda, cuda:1, and so on. Default: a GPU where there is
            one.
        out: Folder of the results.
    """

    dials: bool = False
    nuisances: MaybeNames = None
    ways: Count = 5
    shots: Count = 1
    queries: Count = 5
    episodes: Count = 500
    both: bool = False
    device: Device = None
    out: str = "robustness"


@dataclass(frozen=True)
class SlicesOptions(PeopleOptions):
    """The error rates of groups of people.

    Attributes:
        by: Attributes to group people by.
        attributes: CSV of attributes: a row a person (column person) or a photograph (column
            path). Default: what procedural faces know of themselves.
        bins: Groups that a number is cut into.
        fmr: Rate of all pairs of two people that may be called one person (false match rate).
        fpir: Rate of strangers who may be given a name (false-positive identification rate).
        enrolled_photos: Photographs enrolled of each person.
        out: Folder of the results.
    """

    by: Annotated[Names, Parameter(required=True)] = ()
    attributes: str | None = None
    bins: Count = 3
    fmr: Share = 0.01
    fpir: Share = 0.05
    enrolled_photos: Count = 1
    out: str = "slices"
