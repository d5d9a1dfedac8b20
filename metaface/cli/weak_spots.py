"""Commands that measure where, and for whom, recognition is weak: ``robustness``, ``slices``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from metaface._lock import alone_in
from metaface.cli.recognise import load_models
from metaface.options.commands import (
    ModelOptions,
    PeopleOptions,
    RobustnessOptions,
    SlicesOptions,
)

if TYPE_CHECKING:
    import numpy as np

    from metaface.data import FaceSet
    from metaface.evaluation.degradation import Level
    from metaface.experiments.robustness import People
    from metaface.learners import MetaLearner


def load_people(
    checkpoint: str | None,
    o: PeopleOptions,
    check: Callable[[FaceSet, tuple[str, ...] | None], None],
) -> People:
    """What ``--data`` holds, for the checkpoint or, without one, for the embedder.

    Args:
        check: raises what is wrong with people (their names and numbers of photographs, not the
            pixels) and the paths of the photographs, if they are known. It is called before
            anything is rendered or detected.
    """
    from metaface import data
    from metaface.data import FaceSet
    from metaface.experiments.protocols import EmbedderNetwork, align_people
    from metaface.experiments.robustness import RENDER, People, upright
    from metaface.learners import Prototypical
    from metaface.learners.spec import load_model

    rendered = o.data.split(":")[0] == "synthetic"
    counts: dict[str, Any] = {"people": o.people, "photos": o.photos} if rendered else {}
    if rendered:
        check(_unrendered(o.data, o.people, o.photos), None)
    if checkpoint:
        learner, spec = load_model(checkpoint)
        faces = data.load(
            o.data,
            image_size=spec.image_size,
            channels=spec.channels,
            crop=spec.crop,
            progress=not o.quiet,
            **counts,
        )
        for seen in learner.trained_before:
            faces = faces.unseen(**seen)
        return People(learner, faces)
    if rendered:
        network = _network(o)
        made = data.load(o.data, image_size=RENDER, progress=not o.quiet, **counts)
        truth = {name: values[made.rows] for name, values in made.truth.items()}
        crops = upright(made.images, truth["landmarks"])
        return People(
            network,
            FaceSet.from_arrays(
                crops, made.person, people=made.people, name=made.name, truth=truth
            ),
        )
    detector, embedder = load_models(o)
    found = align_people(o.data, detector, embedder, progress=not o.quiet, check=check)
    print(f"{len(found.skipped)} photographs without a usable face, or there twice, left out")
    return People(Prototypical(EmbedderNetwork(embedder), "cosine"), found.faces(), found.paths)


def _unrendered(name: str, people: int, photos: int) -> FaceSet:
    """Procedural people without their pixels; of what is known of them, the names are right."""
    from dataclasses import replace

    import numpy as np

    from metaface import data
    from metaface.experiments.protocols import unread_faces

    each = photos * len(name.split(","))  # a domain has photographs of everybody
    faces = unread_faces([str(p) for p in range(people) for _ in range(each)], name)
    one = data.load(name, people=1, photos=1, progress=False)
    truth = {k: np.repeat(v[:1], len(faces), 0) for k, v in one.truth.items() if v.ndim == 1}
    return replace(faces, truth=truth)


def _network(o: ModelOptions) -> MetaLearner:
    from metaface.experiments.protocols import EmbedderNetwork
    from metaface.learners import Prototypical
    from metaface.recognition.embedders import loading
    from metaface.recognition.recognizer import DEFAULT

    return Prototypical(EmbedderNetwork(loading.load(o.weights or DEFAULT, o.models)), "cosine")


# -- robustness ------------------------------------------------------------------------------


@alone_in(lambda *_, options, **__: options.out)
def robustness(
    checkpoint: str | None = None,
    *,
    options: Annotated[RobustnessOptions, Parameter(name="*")] = RobustnessOptions(),
) -> None:
    """Measure accuracy against light, blur, occlusion and more.

    Example: metaface robustness --dials --nuisances yaw light --people 60 --photos 8

    Args:
        checkpoint: File checkpoint.pt of metaface train. Without it, recognition is measured:
            photographs are detected, aligned and embedded.
    """
    from metaface._json import write_json
    from metaface.episodes.sampler import EpisodeSampler
    from metaface.evaluation import degradation
    from metaface.evaluation.corruptions import CORRUPTIONS
    from metaface.experiments.protocols import unread_faces
    from metaface.machine import choose_device
    from metaface.report.robustness import write_robustness
    from metaface.synthetic import STEPS

    known = tuple(STEPS if options.dials else CORRUPTIONS)
    degradation.check_nuisances(options.nuisances or (), dials=options.dials)

    def check(faces: FaceSet, _: tuple[str, ...] | None = None) -> None:
        EpisodeSampler(faces, options.ways, options.shots, options.queries, stream="test")

    chosen: dict[str, Any] = {
        "nuisances": options.nuisances or known,
        "ways": options.ways,
        "shots": options.shots,
        "queries": options.queries,
        "episodes": options.episodes,
        "seed": options.seed,
        "both": options.both,
        "progress": not options.quiet,
    }
    if options.dials:
        photos = [str(p) for p in range(options.people) for _ in range(options.photos)]
        check(unread_faces(photos, "procedural faces"))
        levels = _by_dials(checkpoint, options, chosen)
        what = f"procedural faces, {options.people} people"
    else:
        people = load_people(checkpoint, options, check)
        what = people.faces.describe()
        print(what)
        people.learner.to(choose_device(options.device))
        levels = degradation.robustness(people.learner, people.faces, **chosen)
    for level in levels:
        if level.severity:
            print(
                f"{level.nuisance:>10} {level.severity}: {level.accuracy:.3f} ± {level.ci95:.3f}, "
                f"{level.drop:.3f} ± {level.drop_ci95:.3f} below"
            )
    print(f"as it is: {levels[0].accuracy:.3f} ± {levels[0].ci95:.3f}")
    out = Path(options.out)
    rows = [level.row() for level in levels]
    side = "support and query" if options.both else "query"
    write_json(
        out / "results.json",
        {
            "data": what,
            "ways": options.ways,
            "shots": options.shots,
            "corrupted": side,
            "rows": rows,
        },
    )
    title = f"{options.ways}-way {options.shots}-shot, {side} photographs changed: {what}"
    write_robustness(out / "report.html", title, rows, options.ways)
    print(f"{out / 'results.json'}\n{out / 'report.html'}")


def _by_dials(checkpoint: str | None, o: RobustnessOptions, chosen: dict[str, Any]) -> list[Level]:
    import numpy as np

    from metaface.evaluation import degradation
    from metaface.experiments.robustness import RENDER, upright
    from metaface.learners.spec import load_model
    from metaface.machine import choose_device
    from metaface.synthetic import Renders

    size = RENDER
    if checkpoint:
        learner, spec = load_model(checkpoint)
        size = spec.image_size

        def prepare(made: Renders) -> np.ndarray:
            if spec.channels == 3:
                return made.images
            grey = made.images @ np.array([0.299, 0.587, 0.114])
            return np.rint(grey)[..., None].astype(np.uint8)
    else:
        learner = _network(o)

        def prepare(made: Renders) -> np.ndarray:
            return upright(made.images, made.landmarks)

    return degradation.dial_robustness(
        learner.to(choose_device(o.device)),
        degradation.RenderedFaces(prepare, o.people, o.photos, size),
        **chosen,
    )


# -- slices ----------------------------------------------------------------------------------


@alone_in(lambda *_, options, **__: options.out)
def slices(
    checkpoint: str | None = None,
    *,
    options: Annotated[SlicesOptions, Parameter(name="*")] = SlicesOptions(),
) -> None:
    """Measure the error rates of groups of people at one threshold.

    Example: metaface slices --data photos/ --attributes people.csv --by sex

    Args:
        checkpoint: File checkpoint.pt of metaface train; photographs are taken as they are, not
            aligned. Without it, recognition is measured.
    """
    from metaface._json import write_json
    from metaface.metrics.groups import (
        GroupComparison,
        check_groups,
        identify_by_group,
        verify_by_group,
    )
    from metaface.report import format_slices, write_slices

    def check(faces: FaceSet, paths: tuple[str, ...] | None) -> None:
        for by in options.by:
            group = _groups(options, faces, paths, by, listed=True)
            try:
                if options.attributes is not None:
                    check_groups(by, group)
            except ValueError as error:
                raise ValueError(f"{options.attributes}: {error}") from error

    if options.attributes is not None:
        for by in options.by:
            paths = None if checkpoint else ()
            _read_groups(options.attributes, options.bins, by, paths=paths)
    people = load_people(checkpoint, options, check)
    print(people.faces.describe())
    groups = {by: _groups(options, people.faces, people.paths, by) for by in options.by}
    embeddings = people.embeddings()
    found: list[GroupComparison] = []
    for by, group in groups.items():
        given: dict[str, Any] = {"by": by, "seed": options.seed}
        person = people.faces.person
        found.append(verify_by_group(embeddings, person, group, fmr=options.fmr, **given))
        found.append(
            identify_by_group(
                embeddings, person, group, shots=options.enrolled_photos, fpir=options.fpir, **given
            )
        )
    for slices in found:
        print(format_slices(slices))
    out = Path(options.out)
    write_json(
        out / "results.json",
        {
            "data": str(options.data),
            "attributes": options.attributes,
            "slices": [
                {
                    "kind": s.kind,
                    "by": s.by,
                    "asked": s.asked,
                    "threshold": s.threshold,
                    "rows": s.rows(),
                }
                for s in found
            ],
        },
    )
    write_slices(out / "report.html", found)
    print(f"{out / 'results.json'}\n{out / 'report.html'}")


def _groups(
    o: SlicesOptions,
    faces: FaceSet,
    paths: Sequence[str] | None,
    by: str,
    *,
    listed: bool = False,
) -> np.ndarray:
    """The group of each photograph, text ``[n]``; ``listed``: some of them may turn out not to
    be usable, and then need no row of their own."""
    from metaface.metrics.group_names import name_groups

    if o.attributes is None:
        known = [n for n, values in faces.truth.items() if values.ndim == 1]
        if by not in known:
            raise ValueError(
                f"{faces.name} knows nothing of {by!r}"
                + (f": it has {', '.join(known)}" if known else ": give --attributes FILE.csv")
            )
        return name_groups(by, faces.truth[by][faces.rows], o.bins)
    person = [faces.people[p] for p in faces.person]
    return _read_groups(o.attributes, o.bins, by, person, paths, listed=listed)


def _read_groups(
    file: str,
    bins: int,
    by: str,
    person: Sequence[str] = (),
    paths: Sequence[str] | None = (),
    *,
    listed: bool = False,
) -> np.ndarray:
    """The group of each photograph by a CSV; of none, it is only seen that there is a column."""
    from metaface.data.attributes import read_attributes, read_column
    from metaface.metrics.group_names import name_groups

    key, attributes = read_attributes(file)
    names: Sequence[str]
    if key == "person":
        names = person
    elif paths is None:
        raise ValueError(
            f"{file} is about paths, which a checkpoint's photographs do not keep: give "
            "a column person, or leave --checkpoint out"
        )
    elif listed:
        names = [path for path in paths if path in attributes] or paths
    else:
        names = paths
    try:
        column = read_column(attributes, by, names)
        return name_groups(by, column, bins) if len(column) else column
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
