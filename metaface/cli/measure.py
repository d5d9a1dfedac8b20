"""The command that measures recognition: ``protocol``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

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
    notes: list[str] = []

    def note(title: str, result: Results | evaluation.Result) -> None:
        """Say a result, and write it: the next may fail."""
        print(f"{title}: {result}", flush=True)
        rows.append({"protocol": title, **_numbers(result)})
        write_json(out / "results.json", {"data": str(options.data), "rows": rows, "notes": notes})
        if not isinstance(result, evaluation.Result):
            sections[title] = result
            write_recognition(out / "report.html", sections, notes)

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
        plans = [_PLANS[name](options, people, embedder) for name in protocols]  # all are possible
        notes += [plan.note for plan in plans if plan.note]
        for sentence in notes:
            print(f"note: {sentence}")
        for plan in plans:
            plan.measure(note)
    print(out / "results.json")
    if sections:
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


class _Plan(NamedTuple):
    """A protocol that the photographs allow: what measures it, and what was changed for them."""

    measure: Callable[[Note], None]
    note: str


def _few_shot(o: ProtocolOptions, people: AlignedFaces, embedder: Embedder) -> _Plan:
    from metaface.experiments.fitted_protocols import fit_few_shot
    from metaface.experiments.protocols import measure_few_shot

    ways, queries, changed = fit_few_shot(people.person, o.ways, o.shots)

    def measure(note: Note) -> None:
        for n in ways:
            for k in o.shots:
                found = measure_few_shot(
                    people, embedder, n, k, o.episodes, o.seed, queries=queries
                )
                note(f"{n}-way {k}-shot", found)

    return _Plan(measure, changed)


def _verification(o: ProtocolOptions, people: AlignedFaces, embedder: Embedder) -> _Plan:
    from metaface import metrics
    from metaface.experiments.fitted_protocols import fit_pairs
    from metaface.experiments.protocols import find_pairs, score_against_cohort
    from metaface.metrics.one_to_one import check_pairs

    changed = ""
    if o.pairs:
        pairs, missing = find_pairs(people, o.pairs)
        if missing:
            print(f"{missing} pairs of {o.pairs} left out: their photographs are not in {o.data}")
        try:
            check_pairs(pairs.same, pairs.fold)
        except ValueError as error:
            raise ValueError(f"--pairs {o.pairs}: {error}") from error
    else:
        drawn, folds, changed = fit_pairs(people.person, o.drawn)
        pairs = metrics.draw_pairs(people.person, drawn, drawn, folds, seed=o.seed)

    def measure(note: Note) -> None:
        for title, score in (
            ("verification, cosine", lambda: pairs.scores(people.embeddings)),
            (
                "verification, against strangers of the other folds",
                lambda: score_against_cohort(pairs, people),
            ),
        ):
            note(title, metrics.verification(score(), pairs.same, pairs.fold))

    return _Plan(measure, changed)


def _open_set(o: ProtocolOptions, people: AlignedFaces, embedder: Embedder) -> _Plan:
    from metaface import metrics
    from metaface.experiments.fitted_protocols import fit_open_set

    design, changed = fit_open_set(
        people.person,
        enrolled=o.enrolled,
        shots=o.enrolled_photos,
        strangers=o.stranger_count,
        cohort=o.cohort,
        galleries=o.galleries,
        seed=o.seed,
    )

    def measure(note: Note) -> None:
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

    return _Plan(measure, changed)


_PLANS = {"few-shot": _few_shot, "verification": _verification, "open-set": _open_set}


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
            "queries": result.queries,
            "episodes": len(result.accuracies),
        }
    if isinstance(result, Verification):
        return {
            "accuracy": result.accuracy,
            "ci95": result.ci95,
            "eer": result.eer,
            "pairs": len(result.same),
            "folds": len(result.accuracies),
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
            "enrolled": result.design.enrolled,
            "enrolled_photos": result.design.shots,
            "strangers": result.design.strangers,
            "cohort": result.design.cohort,
        }
    return {
        "ap": result.ap._asdict(),
        "iou": result.iou,
        "faces": result.faces,
        "photographs": result.photographs,
    }
