"""The command that measures recognition: ``protocol``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter

from metaface._lock import alone_in
from metaface.cli.recognise import load_models
from metaface.options.commands import ModelOptions, ProtocolOptions

if TYPE_CHECKING:
    from metaface import evaluation
    from metaface.experiments.protocols import AlignedFaces, Results
    from metaface.faces.detect import Detector
    from metaface.recognition.embedders.loading import Embedder

Protocol = Literal["few-shot", "verification", "open-set", "detection"]


@alone_in(lambda *_, options, **__: options.out)
def protocol(
    protocols: Annotated[tuple[Protocol, ...], Parameter(required=True, consume_multiple=True)],
    /,
    *,
    options: Annotated[ProtocolOptions, Parameter(name="*")] = ProtocolOptions(),
) -> None:
    """Measure recognition on whole photographs: detect, align, embed, compare.

    Example: metaface protocol few-shot open-set --data lfw.zip

    Args:
        protocols: What to measure; detection alone.
    """
    from metaface import evaluation
    from metaface._json import write_json
    from metaface.experiments.protocols import align_people, measure_detection
    from metaface.report import write_recognition

    if "detection" in protocols and len(protocols) > 1:
        raise ValueError("detection has data of its own: run it alone")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Results] = {}
    rows: list[dict[str, Any]] = []

    def note(title: str, result: Results | evaluation.Result, **more: Any) -> None:
        print(f"{title}: {result}", flush=True)
        rows.append({"protocol": title, **_numbers(result), **more})
        if not isinstance(result, evaluation.Result):
            sections[title] = result

    if protocols == ("detection",):
        found = measure_detection(options.data, _unsure(options), progress=not options.quiet)
        note(f"detection, {Path(options.data).stem}", found)
    else:
        detector, embedder = load_models(options)
        people = align_people(options.data, detector, embedder, progress=not options.quiet)
        print(
            f"{people.name}: {len(people.paths)} photographs of {len(people.people)} people, "
            f"{len(people.skipped)} without a usable face or there twice"
        )
        if people.several:
            print(f"{people.several} of them show several faces: the most prominent is used")
        for name in protocols:
            _RUN[name](options, people, embedder, note)
    write_json(out / "results.json", {"data": str(options.data), "rows": rows})
    print(out / "results.json")
    if sections:
        write_recognition(out / "report.html", sections)
        print(out / "report.html")


def _unsure(o: ModelOptions) -> Detector:
    """The detector that the options name; it reports unsure boxes, too, where it can."""
    from metaface.experiments.protocols import MIN_SCORE
    from metaface.faces.detect import Detector, YuNet
    from metaface.recognition import models
    from metaface.recognition.detectors import load_detector
    from metaface.recognition.embedders import loading
    from metaface.recognition.embedders.shared import JointFace

    if o.detector != "yunet":
        return load_detector(o.detector, o.models)
    if not o.weights:
        return YuNet(models.find("yunet", o.models), MIN_SCORE)
    network: object = loading.load(o.weights, o.models)
    if not isinstance(network, JointFace):
        raise ValueError(
            f"--weights {o.weights} finds no faces, it embeds them: leave it out, and YuNet is "
            "measured, or name a network of metaface multitask"
        )
    return cast(Detector, JointFace(network.model, network.name, MIN_SCORE))


Note = Callable[..., None]


def _few_shot(o: ProtocolOptions, people: AlignedFaces, embedder: Embedder, note: Note) -> None:
    from metaface.experiments.protocols import measure_few_shot

    for ways in o.ways:
        for shots in o.shots:
            found = measure_few_shot(people, embedder, ways, shots, o.episodes, o.seed)
            note(f"{ways}-way {shots}-shot", found)


def _verification(o: ProtocolOptions, people: AlignedFaces, embedder: Embedder, note: Note) -> None:
    from metaface import metrics
    from metaface.experiments.protocols import find_pairs, score_against_cohort

    if o.pairs:
        pairs, missing = find_pairs(people, o.pairs)
        if missing:
            print(f"{missing} pairs of {o.pairs} left out: their photographs are not in {o.data}")
    else:
        pairs = metrics.draw_pairs(people.person, o.drawn, o.drawn, seed=o.seed)
    for title, scores in (
        ("verification, cosine", pairs.scores(people.embeddings)),
        ("verification, against strangers of the other folds", score_against_cohort(pairs, people)),
    ):
        note(title, metrics.verification(scores, pairs.same, pairs.fold))


def _open_set(o: ProtocolOptions, people: AlignedFaces, embedder: Embedder, note: Note) -> None:
    from metaface import metrics

    design = metrics.OpenSetDesign(
        o.enrolled, o.enrolled_photos, o.stranger_count, o.cohort, o.galleries, o.seed
    )
    for title, scorer in (
        ("open set, plain prototypes", metrics.prototype_scorer),
        ("open set, held against strangers", metrics.cohort_scorer),
    ):
        found = metrics.open_set(
            people.embeddings, people.person, design, ask=o.fpir, scorer=scorer
        )
        note(title, found)
        for at in found.at:
            print(f"  DIR {at.dir} at FPIR {100 * at.fpir:g}%, thresholds from the strangers")


_RUN = {"few-shot": _few_shot, "verification": _verification, "open-set": _open_set}


def _numbers(result: Results | evaluation.Result) -> dict[str, Any]:
    """What goes to ``results.json``."""
    from metaface.evaluation import Result
    from metaface.metrics.one_to_many import OpenSet
    from metaface.metrics.one_to_one import Verification

    if isinstance(result, Result):
        return {
            "accuracy": result.accuracy,
            "ci95": result.ci95,
            "ways": result.ways,
            "shots": result.shots,
            "episodes": len(result.accuracies),
        }
    if isinstance(result, Verification):
        return {
            "accuracy": result.accuracy,
            "ci95": result.ci95,
            "eer": result.eer,
            "pairs": len(result.same),
            "thresholds": result.thresholds.tolist(),
            "tar_at_far": [{"far": p.far, "tar": p.tar._asdict()} for p in result.at],
        }
    if isinstance(result, OpenSet):
        return {
            "asked_fpir": result.asked,
            "realised_fpir": result.realised_fpir._asdict(),
            "realised_dir": result.realised_dir._asdict(),
            "rank1": result.rank1._asdict(),
            "dir_at_fpir": [{"fpir": p.fpir, "dir": p.dir._asdict()} for p in result.at],
            "galleries": result.design.galleries,
        }
    return {
        "ap": result.ap._asdict(),
        "iou": result.iou,
        "faces": result.faces,
        "photographs": result.photographs,
    }
